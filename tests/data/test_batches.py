"""Batches: whole bags, every clip once, as evenly as it goes, and the same on any number of devices."""

import jax
import numpy as np
import pytest
from helpers import bags_in

from mgc_jax.data.bags import Bags, bags_of, single_clip_bags
from mgc_jax.data.batches import TrainBatches, pad
from mgc_jax.data.packing import Parts, assign_bins, fill_bins, first_fit, most_rows, split_long_bags
from mgc_jax.papers import matt
from mgc_jax.runtime.devices import deal


def epoch_of(batches: TrainBatches, epoch: int):
    first = epoch * batches.steps_per_epoch
    return [batches(step) for step in range(first, first + batches.steps_per_epoch)]


@pytest.mark.parametrize(
    ("clips", "options"),
    [(8, {}), (20, {"most_bags": 3}), (40, {}), (256, {}), (24, {"accumulate": 3}),
     (40, {"accumulate": 2, "most_bags": 6})],
)  # fmt: skip
def test_every_training_clip_is_seen_exactly_once_per_epoch(corpus, clips, options):
    bags = bags_of(corpus, "train", "pair")
    assert bags.sizes.max() > 20  # one bag is longer than the batches of the first cases
    batches, micro = TrainBatches(bags, clips, seed=3, **options), options.get("accumulate", 1)
    for epoch in (0, 5):
        seen = epoch_of(batches, epoch)
        clip = np.concatenate([b.clip[b.real] for b in seen])
        np.testing.assert_array_equal(np.sort(clip), np.sort(corpus.indices("train")))
        in_bags = np.concatenate([clip for b in seen for clip, *_ in bags_in(b)])
        np.testing.assert_array_equal(np.sort(in_bags), np.sort(clip))
        for batch in seen:
            assert batch.clip.shape[:-1] == ((micro,) if micro > 1 else ())
            assert batch.clip.shape[-1] == batches.clips <= clips // micro
            real = batch.real.reshape(micro, -1)
            assert (np.diff(real.astype(int)) <= 0).all()  # padding is at the end
            bags_each = (batch.weight > 0).reshape(micro, -1).sum(axis=1)
            assert bags_each.max() <= (options.get("most_bags", 0) // micro or clips)


@pytest.mark.parametrize("clips", [10, 60])
def test_a_segment_is_a_bag_or_a_weighted_part_of_one(corpus, clips):
    bags = bags_of(corpus, "train", "pair")
    bag_of_clip = dict(zip(bags.clips, np.repeat(np.arange(len(bags)), bags.sizes), strict=True))
    batches = TrainBatches(bags, clips, seed=0)
    weight = np.zeros(len(bags))
    for batch in epoch_of(batches, 0):
        for members, positions, place in bags_in(batch):
            (bag,) = {bag_of_clip[c] for c in members}
            assert positions.tolist() == list(range(positions[0], positions[0] + len(positions)))
            assert batch.label[place] == bags.label[bag]
            assert batch.weight[place] == pytest.approx(len(members) / bags.sizes[bag])
            if bags.sizes[bag] <= clips:
                assert len(members) == bags.sizes[bag]  # not split without need
            weight[bag] += batch.weight[place]
    np.testing.assert_allclose(weight, 1, rtol=1e-6)
    assert batches.weight_per_step * batches.steps_per_epoch == pytest.approx(len(bags))


def fma_medium_bags():
    """Sizes as in FMA-medium: about 6,300 bags of mean 3.2, the longest 50."""
    sizes = np.minimum(np.random.default_rng(0).geometric(1 / 3.2, 6300), 50)
    label = np.zeros(len(sizes), np.int32)
    return Bags(np.arange(sizes.sum()), np.concatenate([[0], np.cumsum(sizes)]), label, label)


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_the_published_batch_is_dealt_evenly_to_any_number_of_devices(devices):
    batches = TrainBatches(fma_medium_bags(), matt.on_spectrograms("crnn_tf", "matt").batch.clips, seed=0)
    for batch in epoch_of(batches, 1):
        each = deal(pad(batch, devices).real, devices).reshape(devices, -1).sum(axis=1)
        assert each.max() - each.min() <= 1
        assert each.sum() == batch.real.sum() > 45


def test_padding_adds_clips_and_rows_that_count_nothing():
    batch = TrainBatches(fma_medium_bags(), 150, seed=0, mixup=0.4)(0)
    assert batch.segment.shape[0] == 3
    padded = pad(batch, 8)
    assert (padded.clip.shape, padded.segment.shape[0]) == ((152,), 8)
    for before, after in zip(jax.tree.leaves(batch), jax.tree.leaves(padded), strict=True):
        np.testing.assert_array_equal(after[: len(before)], before)
        assert after.dtype == before.dtype
    assert not padded.real[150:].any()
    assert (padded.segment[3:] == batch.segment.shape[1]).all()
    assert not padded.weight[3:].any()
    assert pad(TrainBatches(fma_medium_bags(), 50, seed=0)(0), 8).segment.shape[0] == 1  # one row stays one


def test_rows_of_the_pooling_are_as_few_and_short_as_bags_allow():
    bags = fma_medium_bags()
    assert TrainBatches(bags, 50, seed=0)(0).segment.shape == (1, 50)
    assert TrainBatches(bags, 512, seed=0)(0).segment.shape == (8, 64)
    alone = Bags(bags.clips, np.arange(len(bags.clips) + 1), bags.clips.astype(np.int32), bags.clips.astype(np.int32))
    batch = TrainBatches(alone, 32, seed=0)(0)
    assert batch.segment.shape == (32, 1)
    assert sorted(batch.at[batch.segment == 0]) == list(range(batch.real.sum()))
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes, slots = rng.integers(1, 9, rng.integers(1, 30)), int(rng.integers(8, 12))
        row = first_fit(sizes, np.zeros(len(sizes), int), slots)
        assert np.bincount(row, weights=sizes).max() <= slots
        assert row.max() < most_rows(sizes.sum(), slots)


def same(one, other):
    one, other = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("options", [{}, {"sampling": "sqrt", "sub_bags": True, "mixup": 0.4}])
def test_a_batch_depends_on_seed_and_step_alone(corpus, options):
    bags = bags_of(corpus, "train", "pair")
    one, other = (TrainBatches(bags, 32, seed=1, **options) for _ in range(2))
    in_order = [one(step) for step in range(12)]
    for step in (11, 3, 7, 0):  # as after a resume, in any order
        assert same(in_order[step], other(step))
    assert not same(in_order[0], TrainBatches(bags, 32, seed=2, **options)(0))
    assert not same(in_order[0], one(one.steps_per_epoch))


def test_bags_of_one_clip_leave_no_slot_empty(corpus):
    bags = single_clip_bags(corpus, "train")
    batches = TrainBatches(bags, 16, seed=0)
    full = [int(b.real.sum()) for b in epoch_of(batches, 0)]
    assert batches.steps_per_epoch == -(-len(bags) // 16)
    assert max(full) - min(full) <= 1


def test_long_bags_are_cut_into_nearly_equal_parts():
    bag, start, size = split_long_bags(np.array([0, 3, 13, 14]), 4)
    np.testing.assert_array_equal(bag, [0, 1, 1, 1, 2])
    np.testing.assert_array_equal(start, [0, 3, 6, 9, 13])
    np.testing.assert_array_equal(size, [3, 3, 3, 4, 1])


def test_batches_are_filled_evenly_like_fma_medium():
    sizes = np.sort(fma_medium_bags().sizes)[::-1]
    chosen, number = assign_bins(sizes, 50, 1)
    load = np.bincount(chosen, weights=sizes, minlength=number)
    assert load.max() <= 50
    assert sizes.sum() / (number * 50) > 0.98
    chosen, number = assign_bins(sizes, 50, 4, most=12)
    assert np.bincount(chosen).max() <= 12
    assert number % 4 == 0


def long_tailed_bags():
    """Three genres with 90, 9 and 1 bags of 1 to 4 clips."""
    sizes = np.random.default_rng(0).integers(1, 5, 100)
    label = np.repeat([0, 1, 2], [90, 9, 1]).astype(np.int32)
    return Bags(np.arange(sizes.sum()), np.concatenate([[0], np.cumsum(sizes)]), label, label)


def bag_counts(batches, epochs):
    """Number of bags of each genre in some epochs, and the number of clips of each epoch."""
    counts, clips = np.zeros(4), []
    for epoch in range(epochs):
        seen = epoch_of(batches, epoch)
        counts += sum(np.bincount(b.label[b.weight > 0], b.weight[b.weight > 0], minlength=4) for b in seen)
        clips.append(sum(int(b.real.sum()) for b in seen))
    return counts, clips


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [("natural", [0.9, 0.09, 0.01]), ("sqrt", np.sqrt([90, 9, 1]) / np.sqrt([90, 9, 1]).sum()),
     ("class_balanced", [1 / 3, 1 / 3, 1 / 3])],
)  # fmt: skip
def test_bags_are_drawn_by_genre(sampling, shares):
    bags = long_tailed_bags()
    batches = TrainBatches(bags, 16, seed=0, sampling=sampling)
    assert batches.steps_per_epoch == TrainBatches(bags, 16, seed=0).steps_per_epoch
    counts, clips = bag_counts(batches, 60)
    np.testing.assert_allclose(counts[:3] / counts.sum(), shares, atol=0.02)
    assert set(clips) == {len(bags.clips)}
    weights = [sum(b.weight.sum() for b in epoch_of(batches, epoch)) for epoch in range(60)]
    np.testing.assert_allclose(np.mean(weights), batches.weight_per_step * batches.steps_per_epoch, rtol=0.03)


def test_a_bag_that_is_longer_than_all_others_does_not_end_the_epoch():
    sizes = np.array([600, 1, 1, 1])
    label = np.array([0, 1, 2, 3], np.int32)
    bags = Bags(np.arange(603), np.concatenate([[0], np.cumsum(sizes)]), label, label)
    batches = TrainBatches(bags, 16, seed=0, sampling="class_balanced")
    _, clips = bag_counts(batches, 5)
    assert set(clips) == {603}
    assert all(batch.weight.any() for epoch in range(5) for batch in epoch_of(batches, epoch))


def test_sub_bags_are_random_parts_of_bags(corpus):
    bags = bags_of(corpus, "train", "pair")
    bag_of_clip = dict(zip(bags.clips, np.repeat(np.arange(len(bags)), bags.sizes), strict=True))
    batches = TrainBatches(bags, 60, seed=0, sub_bags=True)
    together = []
    for epoch in range(4):
        seen, weight, whole = [], np.zeros(len(bags)), 0
        for batch in epoch_of(batches, epoch):
            for clips, _, place in bags_in(batch):
                (bag,) = {bag_of_clip[c] for c in clips}
                seen.extend(clips)
                weight[bag] += batch.weight[place]
                whole += len(clips) == bags.sizes[bag]
                together.append(frozenset(clips.tolist()))
        assert sorted(seen) == sorted(corpus.indices("train"))
        np.testing.assert_allclose(weight, 1, rtol=1e-6)  # the parts of a bag count as one bag
        assert 0 < whole < len(bags)
    several = [clips for clips in together if len(clips) > 1]
    assert len(set(several)) > 2 * len({c for c in several if several.count(c) > 1})  # cut anew every time


def test_bags_may_count_as_many_as_their_clips():
    bags = long_tailed_bags()
    for sub_bags in (False, True):
        batches = TrainBatches(bags, 6, seed=0, bag_weight="size", sub_bags=sub_bags)
        for batch in epoch_of(batches, 1):
            assert all(batch.weight[place] == len(clips) for clips, _, place in bags_in(batch))
            assert batch.weight.sum() == batch.real.sum()
        assert batches.weight_per_step * batches.steps_per_epoch == len(bags.clips)


@pytest.mark.parametrize("sampling", ["natural", "sqrt", "class_balanced"])
def test_no_batch_has_more_bags_than_asked_for(sampling):
    batches = TrainBatches(long_tailed_bags(), 16, seed=0, most_bags=3, sampling=sampling)
    assert batches.steps_per_epoch == 34
    counts = [int((batch.weight > 0).sum()) for epoch in range(20) for batch in epoch_of(batches, epoch)]
    assert max(counts) == 3
    weights = [sum(b.weight.sum() for b in epoch_of(batches, epoch)) for epoch in range(20)]
    np.testing.assert_allclose(np.mean(weights), batches.weight_per_step * batches.steps_per_epoch, rtol=0.05)


def test_what_does_not_fit_into_a_batch_is_cut():
    parts, chosen = fill_bins(Parts(np.arange(3), np.array([0, 4, 8]), np.array([4, 4, 4])), 6, 2)
    assert np.bincount(chosen, weights=parts.size).tolist() == [6, 6]
    covered = sorted(
        i for start, size in zip(parts.start, parts.size, strict=True) for i in range(start, start + size)
    )
    assert covered == list(range(12))
    assert np.bincount(parts.bag, weights=parts.size).tolist() == [4, 4, 4]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clips", [24, 150])
def test_mixup_pairs_whole_bags(clips, accumulate):
    bags = long_tailed_bags()
    label_of_clip = np.repeat(bags.label, bags.sizes)
    bag_of_clip = np.repeat(np.arange(len(bags)), bags.sizes)
    batches = TrainBatches(bags, clips, seed=0, mixup=0.5, accumulate=accumulate)
    shares = []
    for batch in epoch_of(batches, 0):
        in_batch = set(bag_of_clip[batch.clip[batch.real]].tolist())
        for members, positions, place in bags_in(batch):
            partners = batch.mix.clip.ravel()[positions]
            (partner,) = {bag_of_clip[c] for c in partners}
            assert partner in in_batch
            assert partner != bag_of_clip[members[0]]
            assert batch.mix.label[place] == label_of_clip[partners[0]]
            assert (batch.mix.share_of_clip.ravel()[positions] == batch.mix.share[place]).all()
            shares.append(batch.mix.share[place])
        assert not batch.mix.share[batch.weight == 0].any()
        assert not batch.mix.share_of_clip[~batch.real].any()
    assert 0.5 <= min(shares) < 0.6
    assert 0.95 < max(shares) <= 1
