"""Packed batches of fixed shape, as a function of (seed, step).

A batch is a bin of clips. Bags, or parts of bags that are longer than a batch, are packed into bins as evenly as their
sizes allow. For the pooling the bags of a batch lie side by side in rows of slots, marked by segment numbers; what is
pooled never straddles rows. The order of the data depends on the seed alone, not on the number of devices, and
resuming at a step needs no loader state.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from mgc_jax.data.bags import Bags
from mgc_jax.data.packing import Parts, assign_bins, cut, fill_bins, first_fit, most_rows, pack, split_long_bags

# Slots of a row, where no part of a bag is longer: a row pools by a matrix of slots x slots.
_ROW_SLOTS = 64


class Mix(NamedTuple):
    """Mixup: every bag of a batch is paired with another one (Zhang et al. 2018).

    Attributes:
        clip: int32 [clip]: a clip of the partner of the clip's bag.
        share_of_clip: float32 [clip]: share of the clip itself in the mixture: that of its bag (0 for padding).
        label: int32 [row, slot]: genre of the partner of bag s of the row.
        share: float32 [row, slot]: share of bag s itself in the mixture, between 0.5 and 1.
    """

    clip: np.ndarray
    share_of_clip: np.ndarray
    label: np.ndarray
    share: np.ndarray


class Batch(NamedTuple):
    """Indices of one batch; with gradient accumulation each array begins with an axis [micro-batch].

    Attributes:
        clip: int32 [clip]: rows of the corpus, those of a bag side by side; padding (0) at the end.
        real: bool [clip]: False for padding.
        at: int32 [row, slot]: which clip of the batch is in the slot (0 where there is none).
        segment: int32 [row, slot]: which bag of the row it belongs to; the number of slots where there is no clip.
        label: int32 [row, slot]: genre of bag s of the row (0 where there is none).
        subgenre: int32 [row, slot]: its sub-genre, as in `Corpus.subgenre`.
        weight: float32 [row, slot]: weight of bag s in the loss (0 where there is no bag).
        mix: partners for mixup, or None.
    """

    clip: np.ndarray
    real: np.ndarray
    at: np.ndarray
    segment: np.ndarray
    label: np.ndarray
    subgenre: np.ndarray
    weight: np.ndarray
    mix: Mix | None = None


def pad(batch: Batch, devices: int) -> Batch:
    """Pads the clips to a multiple of the devices; the rows too, where there are several."""
    rows, slots = batch.segment.shape[-2:]

    def of_clips(values: np.ndarray) -> np.ndarray:
        return _pad(values, -1, devices)

    def of_rows(values: np.ndarray, value: int = 0) -> np.ndarray:
        return _pad(values, -2, devices, value) if rows > 1 else values

    mix = batch.mix
    if mix is not None:
        mix = Mix(of_clips(mix.clip), of_clips(mix.share_of_clip), of_rows(mix.label), of_rows(mix.share))
    return Batch(
        clip=of_clips(batch.clip),
        real=of_clips(batch.real),
        at=of_rows(batch.at),
        segment=of_rows(batch.segment, slots),
        label=of_rows(batch.label),
        subgenre=of_rows(batch.subgenre),
        weight=of_rows(batch.weight),
        mix=mix,
    )


def _pad(values: np.ndarray, axis: int, multiple: int, value: int = 0) -> np.ndarray:
    widths = [(0, 0)] * values.ndim
    widths[axis] = (0, -values.shape[axis] % multiple)
    return np.pad(values, widths, constant_values=value)


def mix_bags(batch: Batch, alpha: float, rng: np.random.Generator) -> Batch:
    """Pairs the bags of a batch for mixup.

    Each bag gets another one of the batch as partner (they go round in a random order), and each of its clips a clip
    of the partner, drawn at random: so all clips of a bag are mixed with clips of one genre and in one proportion, and
    bags of different sizes can be paired. The share of the bag itself is Beta(alpha, alpha), folded to 0.5 and above:
    the bag's own genre dominates, and may select an attention query.
    """
    slots = batch.segment.shape[-1]
    there = batch.segment < slots
    row = np.arange(batch.segment.size // slots).reshape(*batch.segment.shape[:-1], 1)
    micro = np.arange(batch.clip.size // batch.clip.shape[-1]).reshape(*batch.clip.shape[:-1], 1, 1)
    place = np.zeros(batch.clip.size, np.int64)  # of the bag of each clip: row * slots + segment
    place[(micro * batch.clip.shape[-1] + batch.at)[there]] = (row * slots + batch.segment)[there]
    clip = np.flatnonzero(batch.real)  # those of a bag lie together
    place = place[clip]
    begins = np.diff(place, prepend=-1) != 0
    first, number = np.flatnonzero(begins), np.cumsum(begins) - 1
    size, bag = np.diff(np.append(first, len(clip))), place[begins]

    order = rng.permutation(len(bag))
    partner = np.empty_like(order)
    partner[order] = np.roll(order, 1)
    share = rng.beta(alpha, alpha, len(bag))
    share = np.maximum(share, 1 - share)
    drawn = first[partner[number]] + (rng.random(len(clip)) * size[partner[number]]).astype(np.int64)
    mixed, share_of_clip = np.zeros(batch.clip.size, np.int32), np.zeros(batch.clip.size, np.float32)
    mixed[clip] = batch.clip.ravel()[clip[drawn]]
    share_of_clip[clip] = share[number]
    label, share_of_bag = np.zeros(batch.label.size, np.int32), np.zeros(batch.label.size, np.float32)
    label[bag], share_of_bag[bag] = batch.label.ravel()[bag[partner]], share
    of_clips, of_bags = batch.clip.shape, batch.label.shape
    mix = Mix(
        clip=mixed.reshape(of_clips),
        share_of_clip=share_of_clip.reshape(of_clips),
        label=label.reshape(of_bags),
        share=share_of_bag.reshape(of_bags),
    )
    return batch._replace(mix=mix)


class TrainBatches:
    """The training batches of every step.

    By default each epoch holds every clip exactly once, and a bag is cut only if it is longer than a batch. The sizes
    of the parts then fix the layout of an epoch once and for all; an epoch only draws which bag of a given size goes
    where, and in which order the batches come. Where bags are drawn by genre or cut again, an epoch has as many clips
    and steps, and a bag that fits into no batch is cut.

    With gradient accumulation a batch is several micro-batches, and a micro-batch a bin of its own.

    Attributes:
        clips: clips of a batch (of a micro-batch) with padding: those of the fullest one that can occur.
        steps_per_epoch: number of batches of an epoch.
        weight_per_step: mean total weight of a batch, the divisor of the loss.
    """

    def __init__(
        self,
        bags: Bags,
        clips: int,
        seed: int,
        *,
        most_bags: int = 0,
        accumulate: int = 1,
        sampling: str = "natural",
        sub_bags: bool = False,
        bag_weight: str = "bag",
        mixup: float = 0.0,
    ):
        """Plans the epochs.

        Args:
            bags: the training bags.
            clips: most clips of a batch.
            seed: of every draw.
            most_bags: most bags of a batch; 0: any number. Where bags are drawn by genre, what finds all batches of
                the epoch full is left out. It goes without sub-bags, whose number is not known beforehand.
            accumulate: micro-batches of a batch; they divide `clips` and `most_bags`.
            sampling: natural: every bag once an epoch; class_balanced: bags drawn, with replacement, so that every
                genre is as likely; sqrt: genres by the square root of their number of bags (Kang et al. 2020).
            sub_bags: cut every bag at random into sub-bags, differently in each epoch.
            bag_weight: "bag": a bag counts as one, a part of it as its share; "size": both count as many as their
                clips.
            mixup: alpha of mixup; 0: off.
        """
        self._bags, self._seed, self._accumulate = bags, seed, accumulate
        self._sampling, self._sub_bags, self._bag_weight, self._mixup = sampling, sub_bags, bag_weight, mixup
        self._capacity, self._most = clips // accumulate, most_bags // accumulate
        self._whole = split_long_bags(bags.offsets, self._capacity)
        longest_first = np.sort(self._whole.size)[::-1]
        self._bin, self._bins = assign_bins(longest_first, self._capacity, accumulate, self._most)
        self.steps_per_epoch = self._bins // accumulate
        self._planned = sampling == "natural" and not sub_bags
        filled = np.bincount(self._bin, weights=longest_first)
        self.clips = int(filled.max()) if self._planned else self._capacity
        longest = int(self._whole.size.max() if self._planned else min(bags.sizes.max(), self._capacity))
        self._slots = 1 if longest == 1 else min(max(longest, _ROW_SLOTS), self.clips)
        self._rows = most_rows(self.clips, self._slots)
        if self._planned:
            self._row = first_fit(longest_first, self._bin, self._slots)
            self._rows = int(self._row.max()) + 1
        self._epoch = 0, self._pack_epoch(0)
        weight: float = len(bags.clips) if bag_weight == "size" else len(bags)
        if bag_weight == "bag" and sampling != "natural":  # of as many clips, the bags that are drawn on average
            weight = len(bags.clips) / float(bag_chances(bags.label, sampling) @ bags.sizes)
            weight = min(weight, self._bins * self._most) if self._most else weight
        self.weight_per_step = weight / self.steps_per_epoch

    def __call__(self, step: int) -> Batch:
        """Returns the batch of a step (counted from 0)."""
        epoch, number = divmod(step, self.steps_per_epoch)
        packed = self._epoch  # several threads may ask for steps of two epochs
        if packed[0] != epoch:
            self._epoch = packed = epoch, self._pack_epoch(epoch)
        begin = number * self._accumulate
        chosen = number if self._accumulate == 1 else slice(begin, begin + self._accumulate)
        batch: Batch = jax.tree.map(lambda values: values[chosen], packed[1])
        if not self._mixup:
            return batch
        return mix_bags(batch, self._mixup, np.random.default_rng([self._seed, epoch, number]))

    def _pack_epoch(self, epoch: int) -> Batch:
        """Returns the batches of an epoch: arrays of [bin, ...]."""
        rng = np.random.default_rng([self._seed, epoch])
        bags, parts = self._bags, self._whole
        if self._planned:
            shuffled = rng.permutation(len(parts.size))
            longest_first = shuffled[np.argsort(-parts.size[shuffled], kind="stable")]
            chosen, row = np.empty((2, len(shuffled)), np.int64)
            chosen[longest_first] = rng.permutation(self._bins)[self._bin]
            row[longest_first] = self._row
        else:
            if self._sampling != "natural":
                bags = draw_bags(bags, self._sampling, rng)
            pieces = -(-bags.sizes // self._capacity)
            if self._sub_bags:
                bags = shuffle_within(bags, rng)
                pieces = -(-bags.sizes // rng.integers(1, np.minimum(bags.sizes, self._capacity), endpoint=True))
            parts = cut(bags.offsets, pieces)
            if self._most:  # the first ones that were drawn
                parts = Parts(*(values[: self._bins * self._most] for values in parts))
            parts, chosen = fill_bins(parts, self._capacity, self._bins, self._most)
            chosen = rng.permutation(self._bins)[chosen]
            row = first_fit(parts.size, chosen, self._slots)
        weight = parts.size if self._bag_weight == "size" else parts.size / bags.sizes[parts.bag]
        index = dataclasses.replace(bags, clips=np.arange(len(bags.clips)))
        bins = pack(index, parts, weight, chosen, self._bins, self.clips)
        real = bins.segment < self.clips
        position = np.zeros(len(bags.clips), np.int32)  # of each clip in its bin
        position[bins.clip[real]] = np.nonzero(real)[1]
        in_rows = dataclasses.replace(bags, clips=position)
        packed = pack(in_rows, parts, weight, chosen * self._rows + row, self._bins * self._rows, self._slots)
        at, segment, label, subgenre, weights = (
            values.reshape(self._bins, self._rows, self._slots) for values in packed
        )
        clip = np.where(real, bags.clips[bins.clip], 0).astype(np.int32)
        return Batch(clip, real, at, segment, label, subgenre, weights)


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
