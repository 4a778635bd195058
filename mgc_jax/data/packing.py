"""Packing: parts of bags into bins, as evenly as their sizes allow, and side by side into rows of slots."""

import heapq
from typing import NamedTuple

import numpy as np

from mgc_jax.data.bags import Bags


class Parts(NamedTuple):
    """Pieces of bags: part p is clips[start[p] : start[p] + size[p]] of the bags' clips, and belongs to bag[p].

    Attributes:
        bag: int64 [part].
        start: int64 [part].
        size: int64 [part].
    """

    bag: np.ndarray
    start: np.ndarray
    size: np.ndarray


def cut(offsets: np.ndarray, pieces: np.ndarray) -> Parts:
    """Cuts every bag into parts of nearly equal size.

    Args:
        offsets: int64 [bag + 1], as in `Bags`.
        pieces: int64 [bag]: number of parts of each.
    """
    sizes = np.diff(offsets)
    bag = np.repeat(np.arange(len(sizes)), pieces)
    number = np.arange(len(bag)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin = number * sizes[bag] // pieces[bag]
    end = (number + 1) * sizes[bag] // pieces[bag]
    return Parts(bag, offsets[bag] + begin, end - begin)


def split_long_bags(offsets: np.ndarray, capacity: int) -> Parts:
    """Cuts bags longer than a bin into parts of nearly equal size."""
    return cut(offsets, -(-np.diff(offsets) // capacity))


def assign_bins(sizes: np.ndarray, capacity: int, multiple: int, most: int = 0) -> tuple[np.ndarray, int]:
    """Packs parts into as few bins as longest-processing-time scheduling allows.

    The parts go, longest first, each to the emptiest bin: bins end up almost equally full.

    Args:
        sizes: int64 [part], longest first, none above `capacity`.
        capacity: clips that a bin holds.
        multiple: the number of bins is rounded up to a multiple of this.
        most: parts that a bin holds; 0: any number.

    Returns:
        bin: int64 [part], and the number of bins.
    """
    least = max(-(-int(sizes.sum()) // capacity), int(np.sum(2 * sizes > capacity)))
    if most:
        least = max(least, -(-len(sizes) // most))
    number = -(-least // multiple) * multiple
    while True:
        load = [(0, b, 0) for b in range(number)]
        chosen = np.empty(len(sizes), np.int64)
        fits = True
        for part, size in enumerate(sizes.tolist()):
            filled, b, parts = heapq.heappop(load) if load else (capacity, 0, 0)
            if filled + size > capacity:
                fits = False
                break
            chosen[part] = b
            if parts + 1 != most:
                heapq.heappush(load, (filled + size, b, parts + 1))
        if fits:
            return chosen, number
        number += multiple


def fill_bins(parts: Parts, capacity: int, number: int, most: int = 0) -> tuple[Parts, np.ndarray]:
    """Packs parts into a given number of bins, each to the emptiest one, longest first.

    What does not fit into the emptiest bin is cut: the rest goes to the next one.

    Args:
        parts: the parts; together no longer than all bins.
        capacity: clips that a bin holds.
        number: number of bins.
        most: parts that a bin holds; 0: any number. What finds all bins full then is left out.

    Returns:
        The parts, some of them cut in two, and the bin of each: int64 [part].
    """
    load = [(0, b, 0) for b in range(number)]
    placed = []
    for p in np.argsort(-parts.size, kind="stable").tolist():
        start, left = int(parts.start[p]), int(parts.size[p])
        while left and load and load[0][0] < capacity:
            filled, b, count = heapq.heappop(load)
            size = min(left, capacity - filled)
            if count + 1 != most:
                heapq.heappush(load, (filled + size, b, count + 1))
            placed.append((int(parts.bag[p]), start, size, b))
            start, left = start + size, left - size
    bag, start_, size_, chosen = np.array(placed, np.int64).reshape(-1, 4).T
    return Parts(bag, start_, size_), chosen


def first_fit(sizes: np.ndarray, bins: np.ndarray, slots: int) -> np.ndarray:
    """Returns the row of each part within its bin, int64 [part]: longest first, each to the first row with room.

    Args:
        sizes: int64 [part], none above `slots`.
        bins: int64 [part].
        slots: of a row.
    """
    row = np.zeros(len(sizes), np.int64)
    filled: dict[int, list[int]] = {}
    for part in np.argsort(-sizes, kind="stable").tolist():
        size, rows = int(sizes[part]), filled.setdefault(int(bins[part]), [])
        r = next((r for r, used in enumerate(rows) if used + size <= slots), len(rows))
        if r == len(rows):
            rows.append(0)
        rows[r] += size
        row[part] = r
    return row


def most_rows(clips: int, slots: int) -> int:
    """Returns how many rows `first_fit` needs at most for so many clips: no two rows would fit into one."""
    pairs, rest = divmod(clips, slots + 1)
    return 2 * pairs + (rest > 0)


class Rows(NamedTuple):
    """Bags in rows of slots. Slots that hold no clip have segment = number of slots.

    Attributes:
        clip: int32 [row, slot]: the clip (0 where there is none).
        segment: int32 [row, slot]: which bag of the row the clip belongs to.
        label: int32 [row, slot]: genre of bag s of the row (0 where there is none).
        subgenre: int32 [row, slot]: its sub-genre.
        weight: float32 [row, slot]: weight of bag s in the loss (0 where there is no bag).
    """

    clip: np.ndarray
    segment: np.ndarray
    label: np.ndarray
    subgenre: np.ndarray
    weight: np.ndarray


def pack(bags: Bags, parts: Parts, weight: np.ndarray, row: np.ndarray, rows: int, slots: int) -> Rows:
    """Lays parts out in rows, in their order.

    Args:
        bags: the bags that the parts belong to.
        parts: pieces of them.
        weight: float [part]: weights in the loss.
        row: int64 [part]: the row of every part.
        rows: number of rows.
        slots: clip slots per row.
    """
    order = np.argsort(row, kind="stable")
    bag, start, size = (values[order] for values in parts)
    row = row[order]
    first = np.searchsorted(row, row)  # the first part of the same row
    segment = np.arange(len(row)) - first
    before = np.cumsum(size) - size
    slot = before - before[first]  # where the part begins in its row

    packed = Rows(
        clip=np.zeros((rows, slots), np.int32),
        segment=np.full((rows, slots), slots, np.int32),
        label=np.zeros((rows, slots), np.int32),
        subgenre=np.zeros((rows, slots), np.int32),
        weight=np.zeros((rows, slots), np.float32),
    )
    packed.label[row, segment] = bags.label[bag]
    packed.subgenre[row, segment] = bags.subgenre[bag]
    packed.weight[row, segment] = weight[order]
    each = np.repeat(np.arange(len(row)), size)  # one entry per clip
    within = np.arange(len(each)) - np.repeat(before, size)
    packed.clip[row[each], slot[each] + within] = bags.clips[start[each] + within]
    packed.segment[row[each], slot[each] + within] = segment[each]
    return packed
