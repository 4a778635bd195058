"""Packed batches of fixed shape, as a function of (seed, step).

A batch is `rows` rows of `clips_per_row` clip slots. Whole bags are packed side by side into rows, marked by
segment numbers, so that a bag never straddles rows and rows can be dealt to devices; the order of the data
depends on the seed alone, not on the number of devices, and resuming at a step needs no loader state.
"""

import heapq
from typing import NamedTuple

import numpy as np

from mgc_jax.data.bags import Bags


class Batch(NamedTuple):
    """Indices of one batch. Slots that hold no clip have segment = `clips_per_row`.

    Attributes:
        clip: int32 [row, slot]: rows of the corpus (0 where there is none).
        segment: int32 [row, slot]: which bag of the row the clip belongs to.
        label: int32 [row, slot]: genre of bag s of the row (0 where there is none).
        weight: float32 [row, slot]: weight of bag s in the loss: 1, the share of the bag that this part holds
            if the bag was too long for a row, or 0 where there is no bag.
    """

    clip: np.ndarray
    segment: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def pad_rows(batch: Batch, multiple: int) -> Batch:
    """Adds rows without clips until their number is a multiple (of the number of devices)."""
    missing = -len(batch.clip) % multiple
    capacity = batch.segment.shape[1]
    empty = Batch(clip=0, segment=capacity, label=0, weight=0)  # type: ignore[arg-type]
    return Batch(
        *(np.pad(values, ((0, missing), (0, 0)), constant_values=v) for values, v in zip(batch, empty, strict=True))
    )


def split_long_bags(offsets: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts bags longer than a row into parts of nearly equal size.

    Returns:
        bag, start, size: int64 [part]; a part is clips[start : start + size] of the bags' clips.
    """
    sizes = np.diff(offsets)
    parts = -(-sizes // capacity)
    bag = np.repeat(np.arange(len(sizes)), parts)
    number = np.arange(len(bag)) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = number * sizes[bag] // parts[bag]
    end = (number + 1) * sizes[bag] // parts[bag]
    return bag, offsets[bag] + begin, end - begin


def assign_rows(sizes: np.ndarray, capacity: int, multiple: int) -> tuple[np.ndarray, int]:
    """Packs parts into as few rows as longest-processing-time scheduling allows.

    The parts go, longest first, each to the emptiest row: rows end up almost equally full.

    Args:
        sizes: int64 [part], longest first, none above `capacity`.
        capacity: clip slots per row.
        multiple: the number of rows is rounded up to a multiple of this.

    Returns:
        row: int64 [part], and the number of rows.
    """
    least = max(-(-int(sizes.sum()) // capacity), int(np.sum(2 * sizes > capacity)))
    rows = -(-least // multiple) * multiple
    while True:
        load = [(0, r) for r in range(rows)]
        row = np.empty(len(sizes), np.int64)
        fits = True
        for part, size in enumerate(sizes.tolist()):
            filled, r = heapq.heappop(load)
            if filled + size > capacity:
                fits = False
                break
            row[part] = r
            heapq.heappush(load, (filled + size, r))
        if fits:
            return row, rows
        rows += multiple


def pack(bags: Bags, part: tuple[np.ndarray, ...], row: np.ndarray, rows: int, capacity: int) -> Batch:
    """Lays parts out in rows; every array of the result is [rows, capacity].

    Args:
        bags: the bags that the parts belong to.
        part: bag, start and size of every part, as from `split_long_bags`.
        row: int64 [part]: the row of every part.
        rows: number of rows.
        capacity: clip slots per row.
    """
    order = np.argsort(row, kind="stable")
    bag, start, size = (values[order] for values in part)
    row = row[order]
    first = np.searchsorted(row, row)  # the first part of the same row
    segment = np.arange(len(row)) - first
    before = np.cumsum(size) - size
    slot = before - before[first]  # where the part begins in its row

    batch = Batch(
        clip=np.zeros((rows, capacity), np.int32),
        segment=np.full((rows, capacity), capacity, np.int32),
        label=np.zeros((rows, capacity), np.int32),
        weight=np.zeros((rows, capacity), np.float32),
    )
    batch.label[row, segment] = bags.label[bag]
    batch.weight[row, segment] = size / bags.sizes[bag]
    each = np.repeat(np.arange(len(row)), size)  # one entry per clip
    within = np.arange(len(each)) - np.repeat(before, size)
    batch.clip[row[each], slot[each] + within] = bags.clips[start[each] + within]
    batch.segment[row[each], slot[each] + within] = segment[each]
    return batch


class TrainBatches:
    """The training batches of every step; each epoch holds every clip exactly once.

    The sizes of the parts fix the layout of an epoch once and for all; an epoch only draws which bag of a
    given size goes where, and in which order the rows come. So every epoch has the same number of steps.

    Attributes:
        steps_per_epoch: number of batches of an epoch.
        bags_per_step: mean total weight of a batch, the divisor of the loss.
    """

    def __init__(self, bags: Bags, rows: int, clips_per_row: int, seed: int):
        self._bags, self._rows, self._capacity, self._seed = bags, rows, clips_per_row, seed
        self._part = split_long_bags(bags.offsets, clips_per_row)
        size = self._part[2]
        self._row, total_rows = assign_rows(np.sort(size)[::-1], clips_per_row, rows)
        self.steps_per_epoch = total_rows // rows
        self.bags_per_step = len(bags) / self.steps_per_epoch
        self._epoch: tuple[int, Batch] | None = None

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step (counted from 0): arrays of [rows, clips_per_row]."""
        epoch, number = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self._pack_epoch(epoch)
        begin = number * self._rows
        return Batch(*(values[begin : begin + self._rows] for values in self._epoch[1]))

    def _pack_epoch(self, epoch: int) -> Batch:
        rng = np.random.default_rng([self._seed, epoch])
        size = self._part[2]
        shuffled = rng.permutation(len(size))
        longest_first = shuffled[np.argsort(-size[shuffled], kind="stable")]
        total_rows = self.steps_per_epoch * self._rows
        row = np.empty(len(size), np.int64)
        row[longest_first] = rng.permutation(total_rows)[self._row]
        return pack(self._bags, self._part, row, total_rows, self._capacity)
