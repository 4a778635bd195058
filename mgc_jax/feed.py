"""From the corpus to the devices: where clips are kept, and the training batches placed ahead of their step."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Mesh

from mgc_jax import distributed
from mgc_jax.data.batches import Batch, TrainBatches, pad_rows
from mgc_jax.sharding import replicate, shard, shard_rows


class DeviceClips:
    """The whole corpus in the memory of every device; a batch is an index into it."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = replicate(clips, mesh)
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        return self._clips, shard(index, self._mesh)


class HostClips:
    """The corpus in host memory; the clips of a batch are gathered there and sent."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = clips
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        shape = (*index.shape, *self._clips.shape[1:])
        return (shard_rows(shape, lambda rows: self._clips[index[rows]], self._mesh),)


Clips = DeviceClips | HostClips


def take_clips(arguments: tuple[jax.Array, ...]) -> jax.Array:
    """Gives, inside a jitted function, the clips that a `DeviceClips` or `HostClips` was asked for."""
    return arguments[0][arguments[1]] if len(arguments) == 2 else arguments[0]


def place_clips(clips: np.ndarray, placement: str, mesh: Mesh) -> Clips:
    """Chooses where the corpus lives.

    Args:
        clips: [clip, ...], as stored.
        placement: device, host, or auto: on the devices if it takes at most half of their memory. A CPU backend
            holds a copy per device in host memory, so there auto means at most 2 GiB of copies.
        mesh: the devices.
    """
    local = mesh.local_devices
    stats = local[0].memory_stats() or {}
    room = distributed.from_first(lambda: stats.get("bytes_limit", 2**32 // len(local)) // 2)
    on_device = placement == "device" or (placement == "auto" and clips.nbytes <= room)
    return DeviceClips(clips, mesh) if on_device else HostClips(clips, mesh)


def placed_batches(
    batches: TrainBatches, clips: Clips, mesh: Mesh, first_step: int, total_steps: int
) -> Iterator[tuple[Batch, tuple[jax.Array, ...], tuple[jax.Array, ...] | None]]:
    """Yields batches, their clips and those they are mixed with on the devices, prepared two steps ahead."""

    def place(step: int) -> tuple[Batch, tuple[jax.Array, ...], tuple[jax.Array, ...] | None]:
        batch = pad_rows(batches(step), mesh.size)
        partners = None if batch.mix is None else clips(batch.mix.clip)
        return shard(batch, mesh), clips(batch.clip), partners

    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(place, s) for s in range(first_step, min(first_step + 2, total_steps)))
        for step in range(first_step, total_steps):
            if step + 2 < total_steps:
                ahead.append(pool.submit(place, step + 2))
            yield ahead.popleft().result()
