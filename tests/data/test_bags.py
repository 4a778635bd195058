import dataclasses

import numpy as np
import pytest

from mgc_jax.data.bags import bags_of, single_clip_bags, training_bags
from mgc_jax.data.corpus import Corpus


def table(rows, split="train"):
    """A corpus from (track id, label, artist, album) rows."""
    ids, label, artist, album = zip(*rows, strict=True)
    return Corpus(
        name="arrays", genres=("a", "b"), clips=np.zeros((len(rows), 2), np.float32),
        track_id=np.array(ids), label=np.array(label, np.int32), split=np.full(len(rows), split),
        artist=np.array(artist), album=np.array(album),
    )  # fmt: skip


def groups(corpus, key="pair", gap=20):
    bags = bags_of(corpus, str(corpus.split[0]), key, gap)
    ids = corpus.track_id[bags.clips]
    return [ids[a:b].tolist() for a, b in zip(bags.offsets[:-1], bags.offsets[1:], strict=True)]


def test_a_bag_shares_album_and_artist():
    corpus = table([(1, 0, "x", "p"), (2, 0, "y", "p"), (3, 0, "x", "p"), (4, 0, "x", "q")])
    assert groups(corpus) == [[1, 3], [2], [4]]


MIXED = [(1, 0, "x", "p"), (2, 1, "x", "p"), (3, 0, "x", "p")]


@pytest.mark.parametrize(("key", "pure"), [("paper", True), ("published", True), ("pair", False)])
def test_the_genre_may_part_the_bags_of_training(key, pure):
    bags = training_bags(table(MIXED), key)
    assert bags.clips.tolist() == ([0, 2, 1] if pure else [0, 1, 2])
    assert bags.sizes.tolist() == ([2, 1] if pure else [3])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_what_is_scored_knows_no_genre_except_as_published(split):
    rows = table(MIXED, split)
    assert groups(rows, "paper") == groups(rows, "pair") == [[1, 2, 3]]
    assert groups(rows, "published") == ([[1, 2, 3]] if split == "test" else [[1, 3], [2]])


def test_a_mixed_bag_has_the_label_of_its_first_clip():
    bags = bags_of(table([(1, 1, "x", "p"), (2, 0, "x", "p")]), "train", "pair")
    assert bags.label.tolist() == [1]


def test_what_is_known_makes_the_bag():
    corpus = table([(1, 0, "", "p"), (2, 0, "", "p"), (3, 0, "", ""), (4, 0, "", ""), (5, 0, "x", "p")])
    assert groups(corpus) == [[1, 2], [3], [4], [5]]


def test_pseudo_albums_are_runs_of_near_track_ids_of_one_artist():
    corpus = table([(141, 0, "x", ""), (100, 0, "x", ""), (120, 0, "x", ""), (110, 0, "y", ""), (125, 0, "x", "p")])
    assert groups(corpus) == [[141], [100, 120], [110], [125]]
    assert groups(corpus, gap=21) == [[141, 100, 120], [110], [125]]
    assert groups(corpus, gap=0) == [[141, 100, 120], [110], [125]]


def test_single_clip_bags(corpus):
    bags = single_clip_bags(corpus, "test")
    assert (bags.sizes == 1).all()
    np.testing.assert_array_equal(bags.label, corpus.label[corpus.indices("test")])


def test_bags_hold_only_their_split(corpus):
    for split in ("train", "validation", "test"):
        bags = bags_of(corpus, split, "paper")
        np.testing.assert_array_equal(np.sort(bags.clips), corpus.indices(split))


@pytest.mark.parametrize("key", ["paper", "pair"])
def test_an_empty_split_has_no_bags(corpus, key):
    without = dataclasses.replace(corpus, split=np.full(len(corpus), "train"))
    assert len(bags_of(without, "test", key)) == 0
