import numpy as np
import pytest

from mgc_jax.data.bags import bags_of, single_clip_bags
from mgc_jax.data.batches import TrainBatches, assign_rows, split_long_bags


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
    assert batches.bags_per_step * batches.steps_per_epoch == pytest.approx(len(bags))


def test_a_batch_depends_on_seed_and_step_alone(corpus):
    bags = bags_of(corpus, "train", "pair")
    one, other = (TrainBatches(bags, 2, 16, seed=1) for _ in range(2))
    in_order = [one(step) for step in range(12)]
    for step in (11, 3, 7, 0):  # as after a resume, in any order
        for a, b in zip(in_order[step], other(step), strict=True):
            np.testing.assert_array_equal(a, b)
    assert any((a != b).any() for a, b in zip(in_order[0], TrainBatches(bags, 2, 16, seed=2)(0), strict=True))
    assert any((a != b).any() for a, b in zip(in_order[0], one(one.steps_per_epoch), strict=True))


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
