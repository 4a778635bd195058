"""Packed batches of fixed shape, as a function of (seed, step).

A batch is `rows` rows of `clips_per_row` clip slots. Bags, or parts of them, are packed side by side into rows, marked
by segment numbers; what is pooled never straddles rows, so that rows can be dealt to devices; the order of the data
depends on the seed alone, not on the number of devices, and resuming at a step needs no loader state.
"""

import dataclasses
import heapq
from typing import NamedTuple

import jax
import numpy as np

from mgc_jax.data.bags import Bags


class Mix(NamedTuple):
    """Mixup: every bag of a batch is paired with another one (Zhang et al. 2018).

    Attributes:
        clip: int32 [row, slot]: a clip of the partner of the clip's bag.
        label: int32 [row, slot]: genre of the partner of bag s of the row.
        share: float32 [row, slot]: share of bag s itself in the mixture, between 0.5 and 1.
    """

    clip: np.ndarray
    label: np.ndarray
    share: np.ndarray


class Batch(NamedTuple):
    """Indices of one batch. Slots that hold no clip have segment = `clips_per_row`.

    Attributes:
        clip: int32 [row, slot]: rows of the corpus (0 where there is none).
        segment: int32 [row, slot]: which bag of the row the clip belongs to.
        label: int32 [row, slot]: genre of bag s of the row (0 where there is none).
        subgenre: int32 [row, slot]: its sub-genre, as in `Corpus.subgenre`.
        weight: float32 [row, slot]: weight of bag s in the loss (0 where there is no bag).
        mix: partners for mixup, or None.
    """

    clip: np.ndarray
    segment: np.ndarray
    label: np.ndarray
    subgenre: np.ndarray
    weight: np.ndarray
    mix: Mix | None = None


def pad_rows(batch: Batch, multiple: int) -> Batch:
    """Adds rows without clips until their number is a multiple (of the number of devices)."""
    missing = -len(batch.clip) % multiple

    def pad(values: np.ndarray, value: float = 0) -> np.ndarray:
        return np.pad(values, ((0, missing), (0, 0)), constant_values=value)

    return Batch(
        clip=pad(batch.clip),
        segment=pad(batch.segment, batch.segment.shape[1]),
        label=pad(batch.label),
        subgenre=pad(batch.subgenre),
        weight=pad(batch.weight),
        mix=None if batch.mix is None else Mix(*map(pad, batch.mix)),
    )


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
    """Cuts bags longer than a row into parts of nearly equal size."""
    return cut(offsets, -(-np.diff(offsets) // capacity))


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


def fill_rows(parts: Parts, capacity: int, rows: int) -> tuple[Parts, np.ndarray]:
    """Packs parts into a given number of rows, each to the emptiest one, longest first.

    What does not fit into the emptiest row is cut: the rest goes to the next one.

    Args:
        parts: the parts; together no longer than all rows.
        capacity: clip slots per row.
        rows: number of rows.

    Returns:
        The parts, some of them cut in two, and the row of each: int64 [part].
    """
    load = [(0, r) for r in range(rows)]
    placed = []
    for p in np.argsort(-parts.size, kind="stable").tolist():
        start, left = int(parts.start[p]), int(parts.size[p])
        while left:
            filled, r = heapq.heappop(load)
            size = min(left, capacity - filled)
            heapq.heappush(load, (filled + size, r))
            placed.append((int(parts.bag[p]), start, size, r))
            start, left = start + size, left - size
    bag, start_, size_, row = np.array(placed, np.int64).reshape(-1, 4).T
    return Parts(bag, start_, size_), row


def pack(bags: Bags, parts: Parts, weight: np.ndarray, row: np.ndarray, rows: int, capacity: int) -> Batch:
    """Lays parts out in rows; every array of the result is [rows, capacity].

    Args:
        bags: the bags that the parts belong to.
        parts: pieces of them.
        weight: float [part]: weights in the loss.
        row: int64 [part]: the row of every part.
        rows: number of rows.
        capacity: clip slots per row.
    """
    order = np.argsort(row, kind="stable")
    bag, start, size = (values[order] for values in parts)
    row = row[order]
    first = np.searchsorted(row, row)  # the first part of the same row
    segment = np.arange(len(row)) - first
    before = np.cumsum(size) - size
    slot = before - before[first]  # where the part begins in its row

    batch = Batch(
        clip=np.zeros((rows, capacity), np.int32),
        segment=np.full((rows, capacity), capacity, np.int32),
        label=np.zeros((rows, capacity), np.int32),
        subgenre=np.zeros((rows, capacity), np.int32),
        weight=np.zeros((rows, capacity), np.float32),
    )
    batch.label[row, segment] = bags.label[bag]
    batch.subgenre[row, segment] = bags.subgenre[bag]
    batch.weight[row, segment] = weight[order]
    each = np.repeat(np.arange(len(row)), size)  # one entry per clip
    within = np.arange(len(each)) - np.repeat(before, size)
    batch.clip[row[each], slot[each] + within] = bags.clips[start[each] + within]
    batch.segment[row[each], slot[each] + within] = segment[each]
    return batch


def mix_bags(batch: Batch, alpha: float, rng: np.random.Generator) -> Batch:
    """Pairs the bags of a batch for mixup.

    Each bag gets another one of the batch as partner (they go round in a random order), and each of its clips a clip
    of the partner, drawn at random: so all clips of a bag are mixed with clips of one genre and in one proportion, and
    bags of different sizes can be paired. The share of the bag itself is Beta(alpha, alpha), folded to 0.5 and above:
    the bag's own genre dominates, and may select an attention query.
    """
    row, slot = np.nonzero(batch.segment < batch.segment.shape[1])  # clips, row by row: those of a bag lie together
    key = row * batch.segment.shape[1] + batch.segment[row, slot]
    bag, first, number, size = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
    bag_row, bag_slot = np.divmod(bag, batch.segment.shape[1])
    order = rng.permutation(len(bag))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    share = rng.beta(alpha, alpha, len(bag))
    mix = Mix(*(np.zeros(batch.clip.shape, dtype) for dtype in (np.int32, np.int32, np.float32)))
    drawn = first[partner[number]] + (rng.random(len(row)) * size[partner[number]]).astype(np.int64)
    mix.clip[row, slot] = batch.clip[row[drawn], slot[drawn]]
    mix.label[bag_row, bag_slot] = batch.label[bag_row[partner], bag_slot[partner]]
    mix.share[bag_row, bag_slot] = np.maximum(share, 1 - share)
    return batch._replace(mix=mix)


class TrainBatches:
    """The training batches of every step.

    By default each epoch holds every clip exactly once, and a bag is cut only if it is longer than a row. The sizes of
    the parts then fix the layout of an epoch once and for all; an epoch only draws which bag of a given size goes
    where, and in which order the rows come. Where bags are drawn by genre or cut again, an epoch has as many clips and
    steps, and a bag that fits into no row is cut.

    Attributes:
        rows: of a batch.
        steps_per_epoch: number of batches of an epoch.
        weight_per_step: mean total weight of a batch, the divisor of the loss.
    """

    def __init__(
        self,
        bags: Bags,
        rows: int,
        clips_per_row: int,
        seed: int,
        *,
        sampling: str = "natural",
        sub_bags: bool = False,
        bag_weight: str = "bag",
        mixup: float = 0.0,
    ):
        """Plans the epochs.

        Args:
            bags: the training bags.
            rows: rows of a batch.
            clips_per_row: clip slots of a row.
            seed: of every draw.
            sampling: natural: every bag once an epoch; class_balanced: bags drawn, with replacement, so that every
                genre is as likely; sqrt: genres by the square root of their number of bags (Kang et al. 2020).
            sub_bags: cut every bag at random into sub-bags, differently in each epoch.
            bag_weight: "bag": a bag counts as one, a part of it as its share; "size": both count as many as their
                clips.
            mixup: alpha of mixup; 0: off.
        """
        self._bags, self.rows, self._capacity, self._seed = bags, rows, clips_per_row, seed
        self._sampling, self._sub_bags, self._bag_weight, self._mixup = sampling, sub_bags, bag_weight, mixup
        self._whole = split_long_bags(bags.offsets, clips_per_row)
        self._row, self._total_rows = assign_rows(np.sort(self._whole.size)[::-1], clips_per_row, rows)
        self.steps_per_epoch = self._total_rows // rows
        self._epoch = 0, self._pack_epoch(0)
        weight: float = len(bags.clips) if bag_weight == "size" else len(bags)
        if bag_weight == "bag" and sampling != "natural":  # of as many clips, the bags that are drawn on average
            weight = len(bags.clips) / float(bag_chances(bags.label, sampling) @ bags.sizes)
        self.weight_per_step = weight / self.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step (counted from 0): arrays of [rows, clips_per_row]."""
        epoch, number = divmod(step, self.steps_per_epoch)
        packed = self._epoch  # several threads may ask for steps of two epochs
        if packed[0] != epoch:
            self._epoch = packed = epoch, self._pack_epoch(epoch)
        begin = number * self.rows
        batch: Batch = jax.tree.map(lambda values: values[begin : begin + self.rows], packed[1])
        if not self._mixup:
            return batch
        return mix_bags(batch, self._mixup, np.random.default_rng([self._seed, epoch, number]))

    def _pack_epoch(self, epoch: int) -> Batch:
        rng = np.random.default_rng([self._seed, epoch])
        bags, parts = self._bags, self._whole
        if self._sampling == "natural" and not self._sub_bags:
            shuffled = rng.permutation(len(parts.size))
            longest_first = shuffled[np.argsort(-parts.size[shuffled], kind="stable")]
            row = np.empty(len(shuffled), np.int64)
            row[longest_first] = rng.permutation(self._total_rows)[self._row]
        else:
            if self._sampling != "natural":
                bags = draw_bags(bags, self._sampling, rng)
            pieces = -(-bags.sizes // self._capacity)
            if self._sub_bags:
                bags = shuffle_within(bags, rng)
                pieces = -(-bags.sizes // rng.integers(1, np.minimum(bags.sizes, self._capacity), endpoint=True))
            parts = cut(bags.offsets, pieces)
            parts, row = fill_rows(parts, self._capacity, self._total_rows)
            row = rng.permutation(self._total_rows)[row]
        weight = parts.size if self._bag_weight == "size" else parts.size / bags.sizes[parts.bag]
        return pack(bags, parts, weight, row, self._total_rows, self._capacity)


def bag_chances(label: np.ndarray, sampling: str) -> np.ndarray:
    """Chance of each bag to be drawn, float64 [bag]; see `TrainBatches` for the kinds of sampling."""
    count = np.maximum(np.bincount(label), 1)
    chance = (1 / count if sampling == "class_balanced" else 1 / np.sqrt(count))[label]
    return chance / chance.sum()


def draw_bags(bags: Bags, sampling: str, rng: np.random.Generator) -> Bags:
    """Draws bags with replacement by genre, as many clips as there are; the last bag may be cut to fit."""
    chance, clips = bag_chances(bags.label, sampling), len(bags.clips)
    drawn = np.zeros(0, np.int64)
    while bags.sizes[drawn].sum() < clips:
        drawn = np.concatenate([drawn, rng.choice(len(bags), size=len(bags), p=chance)])
    drawn = drawn[: 1 + np.searchsorted(np.cumsum(bags.sizes[drawn]), clips)]
    taken = bags.take(drawn)
    return dataclasses.replace(taken, clips=taken.clips[:clips], offsets=np.minimum(taken.offsets, clips))


def shuffle_within(bags: Bags, rng: np.random.Generator) -> Bags:
    """Shuffles the clips of each bag."""
    bag = np.repeat(np.arange(len(bags)), bags.sizes)
    return dataclasses.replace(bags, clips=bags.clips[np.lexsort((rng.random(len(bag)), bag))])
