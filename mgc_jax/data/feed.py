"""Batches on the devices, ahead of the step that needs them."""

import contextlib
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mgc_jax.data.batches import Batch, TrainBatches, pad
from mgc_jax.data.placement import ClipStore, DeviceClips, PlacedClips, StreamClips
from mgc_jax.data.streaming import Steps, stream_steps
from mgc_jax.runtime.devices import local_rows, replicate, shard_rows

log = logging.getLogger(__name__)


class Placed(NamedTuple):
    """What one dispatch trains on, on the devices.

    Attributes:
        steps: how many steps; if several, the arrays below begin with an axis for them, but not the corpus.
        batch: the batch, on every device.
        clips: its clips, dealt to the devices.
        partners: the clips that they are mixed with, or None.
    """

    steps: int
    batch: Batch
    clips: PlacedClips
    partners: PlacedClips | None


def placed_dispatches(
    batches: TrainBatches, clips: ClipStore, mesh: Mesh, first_step: int, steps: Sequence[int]
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
        batch = pad(batches(step), mesh.size)
        partners = None if batch.mix is None else clips(batch.mix.clip)
        return Placed(1, replicate(batch, mesh), clips(batch.clip), partners)

    def several(first: int, number: int) -> Placed:
        each = [pad(batches(step), mesh.size) for step in range(first, first + number)]
        batch = jax.tree.map(lambda *arrays: np.stack(arrays), *each)
        partners = None if batch.mix is None else clips(batch.mix.clip)
        return Placed(number, replicate(batch, mesh), clips(batch.clip), partners)

    def indexed() -> Generator[Placed, None, None]:
        step = first_step
        for number in steps:
            yield several(step, number) if number > 1 else one(step)
            step += number

    def streamed(source: StreamClips) -> Generator[Placed, None, None]:
        here = local_rows(-(-batches.clips // mesh.size) * mesh.size, mesh)
        sequence = Steps(batches, source.clips, mesh.size, first_step, first_step + len(steps), here)

        def place(clips: np.ndarray, batch: Batch) -> PlacedClips:
            axis = batch.clip.ndim - 1

            def part(of: slice) -> np.ndarray:
                return clips[(slice(None),) * axis + (slice(of.start - here.start, of.stop - here.start),)]

            return PlacedClips(shard_rows((*batch.clip.shape, *source.clips.shape[1:]), part, mesh, axis))

        with contextlib.closing(stream_steps(sequence, source.workers)) as stream:
            for batch, these, partners in stream:
                mixed = None if partners is None else place(partners, batch)
                yield Placed(1, replicate(batch, mesh), place(these, batch), mixed)

    placed = streamed(clips) if isinstance(clips, StreamClips) else indexed()
    with contextlib.closing(placed), ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(next, placed) for _ in range(min(2, len(steps))))
        for number in range(len(steps)):
            if number + 2 < len(steps):
                ahead.append(pool.submit(next, placed))
            yield ahead.popleft().result()


def placed_ahead(clips: ClipStore, indices: np.ndarray) -> Iterator[PlacedClips]:
    """Yields the clips of each row of indices [batch, clip] on the devices, the next ones being read meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(clips, indices[0])
        for index in indices[1:]:
            current, ahead = ahead.result(), pool.submit(clips, index)
            yield current
        yield ahead.result()
