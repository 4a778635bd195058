import jax
import numpy as np
import pytest

from mgc_jax.data.bags import Bags, bags_of, single_clip_bags
from mgc_jax.data.batches import Parts, TrainBatches, assign_rows, fill_rows, split_long_bags


def epoch_of(batches: TrainBatches, epoch: int):
    first = epoch * batches.steps_per_epoch
    return [batches(step) for step in range(first, first + batches.steps_per_epoch)]


@pytest.mark.parametrize(("rows", "capacity"), [(1, 8), (2, 10), (8, 5), (4, 64)])
def test_every_training_clip_is_seen_exactly_once_per_epoch(corpus, rows, capacity):
    bags = bags_of(corpus, "train", "pair")
    assert bags.sizes.max() > 8  # one bag is longer than the rows of the first cases
    batches = TrainBatches(bags, rows, capacity, seed=3)
    for epoch in (0, 5):
        seen = [b.clip[b.segment < capacity] for b in epoch_of(batches, epoch)]
        np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.sort(corpus.indices("train")))


@pytest.mark.parametrize("capacity", [5, 30])
def test_a_segment_is_a_bag_or_a_weighted_part_of_one(corpus, capacity):
    bags = bags_of(corpus, "train", "pair")
    bag_of_clip = dict(zip(bags.clips, np.repeat(np.arange(len(bags)), bags.sizes), strict=True))
    batches = TrainBatches(bags, 2, capacity, seed=0)
    weight = np.zeros(len(bags))
    for batch in epoch_of(batches, 0):
        for row in range(2):
            for segment in range(capacity):
                clips = batch.clip[row][batch.segment[row] == segment]
                if len(clips) == 0:
                    assert batch.weight[row, segment] == 0
                    continue
                (bag,) = {bag_of_clip[c] for c in clips}
                assert batch.label[row, segment] == bags.label[bag]
                assert batch.weight[row, segment] == pytest.approx(len(clips) / bags.sizes[bag])
                if bags.sizes[bag] <= capacity:
                    assert len(clips) == bags.sizes[bag]  # not split without need
                weight[bag] += batch.weight[row, segment]
    np.testing.assert_allclose(weight, 1, rtol=1e-6)
    assert batches.weight_per_step * batches.steps_per_epoch == pytest.approx(len(bags))


def same(one, other):
    one, other = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("options", [{}, {"sampling": "sqrt", "sub_bags": True, "mixup": 0.4}])
def test_a_batch_depends_on_seed_and_step_alone(corpus, options):
    bags = bags_of(corpus, "train", "pair")
    one, other = (TrainBatches(bags, 2, 16, seed=1, **options) for _ in range(2))
    in_order = [one(step) for step in range(12)]
    for step in (11, 3, 7, 0):  # as after a resume, in any order
        assert same(in_order[step], other(step))
    assert not same(in_order[0], TrainBatches(bags, 2, 16, seed=2, **options)(0))
    assert not same(in_order[0], one(one.steps_per_epoch))


def test_bags_of_one_clip_leave_no_slot_empty(corpus):
    bags = single_clip_bags(corpus, "train")
    batches = TrainBatches(bags, 1, 16, seed=0)
    full = [int((b.segment < 16).sum()) for b in epoch_of(batches, 0)]
    assert batches.steps_per_epoch == -(-len(bags) // 16)
    assert max(full) - min(full) <= 1


def test_long_bags_are_cut_into_nearly_equal_parts():
    bag, start, size = split_long_bags(np.array([0, 3, 13, 14]), 4)
    np.testing.assert_array_equal(bag, [0, 1, 1, 1, 2])
    np.testing.assert_array_equal(start, [0, 3, 6, 9, 13])
    np.testing.assert_array_equal(size, [3, 3, 3, 4, 1])


def test_rows_are_filled_evenly_like_fma_medium():
    # Sizes as in FMA-medium: about 6,300 bags of mean 3.2, the longest 50.
    rng = np.random.default_rng(0)
    sizes = np.sort(np.minimum(rng.geometric(1 / 3.2, 6300), 50))[::-1]
    row, rows = assign_rows(sizes, 50, 1)
    load = np.bincount(row, weights=sizes, minlength=rows)
    assert load.max() <= 50
    assert sizes.sum() / (rows * 50) > 0.98


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
        clips.append(sum(int((b.segment < b.segment.shape[1]).sum()) for b in seen))
    return counts, clips


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [("natural", [0.9, 0.09, 0.01]), ("sqrt", np.sqrt([90, 9, 1]) / np.sqrt([90, 9, 1]).sum()),
     ("class_balanced", [1 / 3, 1 / 3, 1 / 3])],
)  # fmt: skip
def test_bags_are_drawn_by_genre(sampling, shares):
    bags = long_tailed_bags()
    batches = TrainBatches(bags, 2, 8, seed=0, sampling=sampling)
    assert batches.steps_per_epoch == TrainBatches(bags, 2, 8, seed=0).steps_per_epoch
    counts, clips = bag_counts(batches, 60)
    np.testing.assert_allclose(counts[:3] / counts.sum(), shares, atol=0.02)
    assert set(clips) == {len(bags.clips)}
    weights = [sum(b.weight.sum() for b in epoch_of(batches, epoch)) for epoch in range(60)]
    np.testing.assert_allclose(np.mean(weights), batches.weight_per_step * batches.steps_per_epoch, rtol=0.03)


def test_a_bag_that_is_longer_than_all_others_does_not_end_the_epoch():
    sizes = np.array([600, 1, 1, 1])
    label = np.array([0, 1, 2, 3], np.int32)
    bags = Bags(np.arange(603), np.concatenate([[0], np.cumsum(sizes)]), label, label)
    batches = TrainBatches(bags, 2, 8, seed=0, sampling="class_balanced")
    _, clips = bag_counts(batches, 5)
    assert set(clips) == {603}
    assert all(batch.weight.any() for epoch in range(5) for batch in epoch_of(batches, epoch))


def test_sub_bags_are_random_parts_of_bags(corpus):
    bags = bags_of(corpus, "train", "pair")
    bag_of_clip = dict(zip(bags.clips, np.repeat(np.arange(len(bags)), bags.sizes), strict=True))
    batches = TrainBatches(bags, 2, 30, seed=0, sub_bags=True)
    together = []
    for epoch in range(4):
        seen, weight, whole = [], np.zeros(len(bags)), 0
        for batch in epoch_of(batches, epoch):
            for row, segment in zip(*np.nonzero(batch.weight), strict=True):
                clips = batch.clip[row][batch.segment[row] == segment]
                (bag,) = {bag_of_clip[c] for c in clips}
                seen.extend(clips)
                weight[bag] += batch.weight[row, segment]
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
        batches = TrainBatches(bags, 2, 3, seed=0, bag_weight="size", sub_bags=sub_bags)
        for batch in epoch_of(batches, 1):
            size = np.stack([(batch.segment == s).sum(axis=1) for s in range(3)], axis=1)
            np.testing.assert_array_equal(batch.weight, size)
        assert batches.weight_per_step * batches.steps_per_epoch == len(bags.clips)


def test_what_does_not_fit_into_a_row_is_cut():
    parts, row = fill_rows(Parts(np.arange(3), np.array([0, 4, 8]), np.array([4, 4, 4])), 6, 2)
    assert np.bincount(row, weights=parts.size).tolist() == [6, 6]
    covered = sorted(
        i for start, size in zip(parts.start, parts.size, strict=True) for i in range(start, start + size)
    )
    assert covered == list(range(12))
    assert np.bincount(parts.bag, weights=parts.size).tolist() == [4, 4, 4]


def test_mixup_pairs_whole_bags():
    bags = long_tailed_bags()
    label_of_clip = np.repeat(bags.label, bags.sizes)
    bag_of_clip = np.repeat(np.arange(len(bags)), bags.sizes)
    batches = TrainBatches(bags, 3, 8, seed=0, mixup=0.5)
    shares = []
    for batch in epoch_of(batches, 0):
        in_batch = set(bag_of_clip[batch.clip[batch.segment < 8]].tolist())
        for row, segment in zip(*np.nonzero(batch.weight), strict=True):
            member = batch.segment[row] == segment
            (partner,) = {bag_of_clip[c] for c in batch.mix.clip[row][member]}
            assert partner in in_batch
            assert partner != bag_of_clip[batch.clip[row][member][0]]
            assert batch.mix.label[row, segment] == label_of_clip[batch.mix.clip[row][member][0]]
            shares.append(batch.mix.share[row, segment])
        assert not batch.mix.share[batch.weight == 0].any()
    assert 0.5 <= min(shares) < 0.6
    assert 0.95 < max(shares) <= 1
