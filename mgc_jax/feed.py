"""From the corpus to the devices: where clips are kept, and the training batches placed ahead of their step."""

import contextlib
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mgc_jax import distributed
from mgc_jax.data.batches import Batch, TrainBatches, pad_rows
from mgc_jax.data.lazy import LazyClips
from mgc_jax.data.streaming import Steps, stream_steps
from mgc_jax.sharding import local_rows, replicate, shard, shard_rows

log = logging.getLogger(__name__)


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

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        return self._clips, shard(index, self._mesh)

    def of_steps(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns those of several steps, for clips `index` [step, row, slot]."""
        return self._clips, shard(index, self._mesh, axis=1)


class HostClips:
    """The corpus in host memory; the clips of a batch are gathered there and sent."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = clips
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        shape = (*index.shape, *self._clips.shape[1:])
        return (shard_rows(shape, lambda rows: self._clips[index[rows]], self._mesh),)


class StreamClips:
    """The corpus on the disk; the clips of a batch are read and sent."""

    def __init__(self, clips: LazyClips, mesh: Mesh, workers: int = -1):
        self.clips, self.workers = clips, workers
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        shape = (*index.shape, *self.clips.shape[1:])
        return (shard_rows(shape, lambda rows: self.clips[index[rows]], self._mesh),)


Clips = DeviceClips | HostClips | StreamClips


def take_clips(arguments: tuple[jax.Array, ...]) -> jax.Array:
    """Gives, inside a jitted function, the clips that a `DeviceClips` or another one was asked for."""
    return arguments[0][arguments[1]] if len(arguments) == 2 else arguments[0]


def with_rows(arguments: tuple[jax.Array, ...], rows: jax.Array) -> tuple[jax.Array, ...]:
    """Replaces, in what `take_clips` takes, the part that has a row per row of the batch: it comes last."""
    return *arguments[:-1], rows


def place_clips(clips: np.ndarray | LazyClips, placement: str, mesh: Mesh, workers: int = -1) -> Clips:
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
    room = distributed.from_first(lambda: stats.get("bytes_limit", 2**32 // len(local)) // 2)
    on_device = placement == "device" or (placement == "auto" and clips.nbytes <= room)
    log.info(
        "%s are in %s memory (config.data.placement=%s; device memory takes up to %.2f GiB)",
        size, "device" if on_device else "host", placement, room / 2**30,
    )  # fmt: skip
    return DeviceClips(clips, mesh) if on_device else HostClips(clips, mesh)


class Placed(NamedTuple):
    """What one dispatch trains on, on the devices.

    Attributes:
        steps: how many steps; if several, the arrays below begin with an axis for them, but not the corpus.
        batch: the batch.
        clips: its clips, as `take_clips` takes them.
        partners: the clips that they are mixed with, or None.
    """

    steps: int
    batch: Batch
    clips: tuple[jax.Array, ...]
    partners: tuple[jax.Array, ...] | None


def placed_batches(
    batches: TrainBatches, clips: Clips, mesh: Mesh, first_step: int, total_steps: int
) -> Iterator[tuple[Batch, tuple[jax.Array, ...], tuple[jax.Array, ...] | None]]:
    """Yields batches, their clips and those they are mixed with on the devices, prepared two steps ahead."""
    with contextlib.closing(
        placed_dispatches(batches, clips, mesh, first_step, [1] * (total_steps - first_step))
    ) as dispatches:
        for placed in dispatches:
            yield placed.batch, placed.clips, placed.partners


def placed_dispatches(
    batches: TrainBatches, clips: Clips, mesh: Mesh, first_step: int, steps: Sequence[int]
) -> Generator[Placed, None, None]:
    """Yields what each dispatch trains on, prepared two dispatches ahead.

    Args:
        batches: the batches.
        clips: the corpus; it must be on the devices where a dispatch has several steps.
        mesh: the devices.
        first_step: the first step, counted from 0.
        steps: how many steps each dispatch has.
    """

    if not isinstance(clips, DeviceClips) and any(number > 1 for number in steps):
        raise ValueError("several steps per dispatch need the corpus on the devices")

    def one(step: int) -> Placed:
        batch = pad_rows(batches(step), mesh.size)
        partners = None if batch.mix is None else clips(batch.mix.clip)
        return Placed(1, shard(batch, mesh), clips(batch.clip), partners)

    def several(clips: DeviceClips, first: int, number: int) -> Placed:
        each = [pad_rows(batches(step), mesh.size) for step in range(first, first + number)]
        batch = jax.tree.map(lambda *arrays: np.stack(arrays), *each)
        partners = None if batch.mix is None else clips.of_steps(batch.mix.clip)
        return Placed(number, shard(batch, mesh, axis=1), clips.of_steps(batch.clip), partners)

    def indexed() -> Generator[Placed, None, None]:
        step = first_step
        for number in steps:
            yield several(clips, step, number) if number > 1 and isinstance(clips, DeviceClips) else one(step)
            step += number

    def streamed(source: StreamClips) -> Generator[Placed, None, None]:
        here = local_rows(-(-batches.rows // mesh.size) * mesh.size, mesh)
        sequence = Steps(batches, source.clips, mesh.size, first_step, first_step + len(steps), here)

        def place(clips: np.ndarray, batch: Batch) -> tuple[jax.Array, ...]:
            shape = (*batch.clip.shape, *clips.shape[2:])
            return (shard_rows(shape, lambda rows: clips[rows.start - here.start : rows.stop - here.start], mesh),)

        with contextlib.closing(stream_steps(sequence, source.workers)) as stream:
            for batch, these, partners in stream:
                mixed = None if partners is None else place(partners, batch)
                yield Placed(1, shard(batch, mesh), place(these, batch), mixed)

    placed = streamed(clips) if isinstance(clips, StreamClips) else indexed()
    with contextlib.closing(placed), ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(next, placed) for _ in range(min(2, len(steps))))
        for number in range(len(steps)):
            if number + 2 < len(steps):
                ahead.append(pool.submit(next, placed))
            yield ahead.popleft().result()


def placed_ahead(clips: Clips, indices: np.ndarray) -> Iterator[tuple[jax.Array, ...]]:
    """Yields the clips of each row of indices [batch, clip] on the devices, the next ones being read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(clips, indices[0])
        for index in indices[1:]:
            current, ahead = ahead.result(), pool.submit(clips, index)
            yield current
        yield ahead.result()
