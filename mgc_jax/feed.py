"""From the corpus to the devices: where clips are kept, and the training batches placed ahead of their step."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mgc_jax.data.batches import Batch, TrainBatches, pad_rows
from mgc_jax.sharding import replicate, shard


class DeviceClips:
    """The whole corpus in the memory of every device; a batch is an index into it."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = replicate(clips, mesh)
        self._mesh = mesh

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
        return (shard(self._clips[index], self._mesh),)


Clips = DeviceClips | HostClips


def take_clips(arguments: tuple[jax.Array, ...]) -> jax.Array:
    """Gives, inside a jitted function, the clips that a `DeviceClips` or `HostClips` was asked for."""
    return arguments[0][arguments[1]] if len(arguments) == 2 else arguments[0]


def with_rows(arguments: tuple[jax.Array, ...], rows: jax.Array) -> tuple[jax.Array, ...]:
    """Replaces, in what `take_clips` takes, the part that has a row per row of the batch: it comes last."""
    return *arguments[:-1], rows


def place_clips(clips: np.ndarray, placement: str, mesh: Mesh) -> Clips:
    """Chooses where the corpus lives.

    Args:
        clips: [clip, ...], as stored.
        placement: device, host, or auto: on the devices if it takes at most half of their memory. A CPU backend
            holds a copy per device in host memory, so there auto means at most 2 GiB of copies.
        mesh: the devices.
    """
    stats = mesh.devices.flat[0].memory_stats() or {}
    room = stats.get("bytes_limit", 2**32 // mesh.size) // 2
    on_device = placement == "device" or (placement == "auto" and clips.nbytes <= room)
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
    for placed in placed_dispatches(batches, clips, mesh, first_step, [1] * (total_steps - first_step)):
        yield placed.batch, placed.clips, placed.partners


def placed_dispatches(
    batches: TrainBatches, clips: Clips, mesh: Mesh, first_step: int, steps: Sequence[int]
) -> Iterator[Placed]:
    """Yields what each dispatch trains on, prepared two dispatches ahead.

    Args:
        batches: the batches.
        clips: the corpus; it must be on the devices where a dispatch has several steps.
        mesh: the devices.
        first_step: the first step, counted from 0.
        steps: how many steps each dispatch has.
    """

    def place(step: int, number: int) -> Placed:
        if number == 1:
            batch = pad_rows(batches(step), mesh.size)
            partners = None if batch.mix is None else clips(batch.mix.clip)
            return Placed(1, shard(batch, mesh), clips(batch.clip), partners)
        if not isinstance(clips, DeviceClips):
            raise ValueError("several steps per dispatch need the corpus on the devices")
        each = [pad_rows(batches(s), mesh.size) for s in range(step, step + number)]
        batch = jax.tree.map(lambda *arrays: np.stack(arrays), *each)
        partners = None if batch.mix is None else clips.of_steps(batch.mix.clip)
        return Placed(number, shard(batch, mesh, axis=1), clips.of_steps(batch.clip), partners)

    first = [first_step, *(first_step + np.cumsum(steps, dtype=int)).tolist()]
    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(place, *work) for work in zip(first[:2], steps[:2], strict=False))
        for number in range(len(steps)):
            if number + 2 < len(steps):
                ahead.append(pool.submit(place, first[number + 2], steps[number + 2]))
            yield ahead.popleft().result()
