"""Where the clips of a corpus are while a model trains: on the devices, in host memory, or on the disk."""

import dataclasses
import logging

import jax
import numpy as np
from jax.sharding import Mesh

from mgc_jax.data.on_disk import LazyClips
from mgc_jax.runtime import processes
from mgc_jax.runtime.devices import deal, replicate, shard, shard_rows

log = logging.getLogger(__name__)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PlacedClips:
    """The clips of a batch on the devices, as a pytree: an argument of jitted functions.

    Attributes:
        stored: the clips themselves, dealt to the devices, [clip, ...], where `index` is None; else the whole corpus.
        index: int32 [clip]: rows of the corpus, dealt to the devices, or None.
    """

    stored: jax.Array
    index: jax.Array | None = None

    def take(self) -> jax.Array:
        """Returns the clips [clip, ...] as they are dealt; to be called inside a jitted function."""
        return self.stored if self.index is None else self.stored[self.index]

    @property
    def per_clip(self) -> jax.Array:
        """The array that has a row per clip; the corpus, which all batches share, has none."""
        return self.stored if self.index is None else self.index

    def with_per_clip(self, rows: jax.Array) -> "PlacedClips":
        """Returns other clips from the same corpus."""
        return PlacedClips(rows) if self.index is None else PlacedClips(self.stored, rows)


class DeviceClips:
    """The whole corpus in the memory of every device; a batch is an index into it."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._mesh = mesh
        self.place(clips)

    def place(self, clips: np.ndarray) -> None:
        """Sends the corpus to the devices; from the beginning it is there, and again after `free`."""
        self._clips = replicate(clips, self._mesh)

    def free(self) -> None:
        """Frees the memory of the devices; nothing can be asked for until `place`."""
        self._clips.delete()

    def __call__(self, index: np.ndarray) -> PlacedClips:
        """Deals the clips `index` [..., clip] to the devices."""
        axis = index.ndim - 1
        return PlacedClips(self._clips, shard(deal(index, self._mesh.size, axis), self._mesh, axis))


class HostClips:
    """The corpus in host memory; the clips of a batch are gathered there and sent."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = clips
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> PlacedClips:
        """Deals the clips `index` [..., clip] to the devices."""
        axis, shape = index.ndim - 1, (*index.shape, *self._clips.shape[1:])
        rows = deal(index, self._mesh.size, axis)
        return PlacedClips(shard_rows(shape, lambda of: self._clips[rows[..., of]], self._mesh, axis))


class StreamClips:
    """The corpus on the disk; the clips of a batch are read and sent."""

    def __init__(self, clips: LazyClips, mesh: Mesh, workers: int = -1):
        self.clips, self.workers = clips, workers
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> PlacedClips:
        """Deals the clips `index` [..., clip] to the devices."""
        axis, shape = index.ndim - 1, (*index.shape, *self.clips.shape[1:])
        rows = deal(index, self._mesh.size, axis)
        return PlacedClips(shard_rows(shape, lambda of: self.clips[rows[..., of]], self._mesh, axis))


ClipStore = DeviceClips | HostClips | StreamClips


def place_clips(clips: np.ndarray | LazyClips, placement: str, mesh: Mesh, workers: int = -1) -> ClipStore:
    """Chooses where the corpus lives.

    Args:
        clips: [clip, ...], as stored; those that were left on the disk stay there.
        placement: device, host, or auto: on the devices if it takes at most half of their memory. A CPU backend
            holds a copy per device in host memory, so there auto means at most 2 GiB of copies.
        mesh: the devices.
        workers: `config.data.workers`.
    """
    size = f"{clips.nbytes / 2**30:.2f} GiB of clips"
    if isinstance(clips, LazyClips):
        log.info("%s stay on the disk (config.data.placement=%s)", size, placement)
        return StreamClips(clips, mesh, workers)
    local = mesh.local_devices
    stats = local[0].memory_stats() or {}
    room = processes.from_first(lambda: stats.get("bytes_limit", 2**32 // len(local)) // 2)
    on_device = placement == "device" or (placement == "auto" and clips.nbytes <= room)
    log.info(
        "%s are in %s memory (config.data.placement=%s; device memory takes up to %.2f GiB)",
        size, "device" if on_device else "host", placement, room / 2**30,
    )  # fmt: skip
    return DeviceClips(clips, mesh) if on_device else HostClips(clips, mesh)
