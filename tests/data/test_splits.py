import dataclasses
import logging

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from sklearn.model_selection import train_test_split

from mgc_jax.config import checks, identity, keys
from mgc_jax.data.corpus import INNER
from mgc_jax.data.open import open_corpus
from mgc_jax.data.splits import SPLITS, artists_in_several_splits, cross_validation, stratified_split
from mgc_jax.errors import UserError


def config_for(corpus, folder, **changes):
    config = keys.default()
    config.update_from_flattened_dict(save_arrays(corpus, folder) | changes)
    return config


def first_clips(corpus, clips):
    columns = {column.name: getattr(corpus, column.name) for column in dataclasses.fields(corpus)}
    return dataclasses.replace(
        corpus, **{name: value[:clips] for name, value in columns.items() if isinstance(value, np.ndarray)}
    )


def test_cross_validation_keeps_artists_together_and_uses_every_clip_once():
    corpus = make_corpus(num_clips=400)
    folds = [cross_validation(corpus, 4, fold) for fold in range(4)]
    rows = np.concatenate([fold.indices("validation") for fold in folds])
    np.testing.assert_array_equal(np.sort(rows), np.flatnonzero(corpus.split != "test"))
    for fold in folds:
        np.testing.assert_array_equal(fold.indices("test"), corpus.indices("test"))
        train, validation = fold.with_inner_in_training().indices("train"), fold.indices("validation")
        assert not set(corpus.artist[train]) & set(corpus.artist[validation])
        shares = [np.bincount(corpus.label[part], minlength=3) / len(part) for part in (train, validation)]
        np.testing.assert_allclose(*shares, atol=0.15)
    with pytest.raises(UserError, match="artists"):
        cross_validation(corpus, 300, 0)


@pytest.mark.parametrize("folds", [2, 5])
def test_the_fold_that_is_scored_does_not_select(folds):
    """The inner validation clips are of the other folds, and of artists of their own."""
    corpus = make_corpus(num_clips=1500)
    for fold in range(folds):
        dealt, scored = (cross_validation(corpus, folds, fold, selection=how) for how in ("inner", "scored"))
        np.testing.assert_array_equal(dealt.indices("validation"), scored.indices("validation"))
        np.testing.assert_array_equal(dealt.with_inner_in_training().split, scored.split)
        assert (dealt.selects_on, scored.selects_on) == (INNER, "validation")
        artists = [set(corpus.artist[dealt.indices(split)]) for split in ("train", INNER, "validation")]
        assert sum(map(len, artists)) == len(set.union(*artists))
        inner, train = dealt.indices(INNER), scored.indices("train")
        assert len(inner) == pytest.approx(len(train) / 5, rel=0.15)  # with two folds, too
        shares = [np.bincount(corpus.label[part], minlength=3) / len(part) for part in (train, inner)]
        np.testing.assert_allclose(*shares, atol=0.15)


def test_8_1_1_albums_keeps_albums_together_and_spreads_genres(caplog):
    corpus = make_corpus(num_clips=900)
    unknown = np.arange(len(corpus)) % 10 == 0
    unused = dataclasses.replace(
        corpus,
        album=np.where(unknown, "", corpus.album),
        split=np.where(corpus.split == "validation", "unused", corpus.split),
    )
    data = keys.default().data
    with caplog.at_level(logging.WARNING):
        dealt = SPLITS["8-1-1-albums"](unused, data)
    assert "8-1-1-albums ignores artists" in caplog.text
    assert set(dealt.split) == {"train", "validation", "test"}  # also what the corpus's own split leaves out
    for album in set(dealt.album) - {""}:
        assert len(set(dealt.split[dealt.album == album])) == 1
    assert len(set(dealt.split[dealt.album == ""])) == 3
    first = np.unique(np.where(unknown, dealt.track_id.astype(str), dealt.album), return_index=True)[1]
    for genre in range(3):
        split = dealt.split[first][dealt.label[first] == genre]
        for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
            assert abs(np.sum(split == name) - share * len(split)) < 2
    data.split_seed = 1
    assert (SPLITS["8-1-1-albums"](unused, data).split != dealt.split).any()


def test_albums_of_one_title_by_two_artists_are_two():
    corpus = make_corpus(num_clips=100)
    titled = dataclasses.replace(corpus, album=np.full(100, "Greatest Hits"), artist=corpus.track_id.astype(str))
    split = SPLITS["8-1-1-albums"](titled, keys.default().data).split
    assert abs(np.sum(split == "train") - 80) < 6


def test_folds_leave_out_what_the_corpus_leaves_out():
    corpus = make_corpus(num_clips=400)
    unused = corpus.album.astype(int) % 7 == 0
    corpus = dataclasses.replace(corpus, split=np.where(unused, "unused", corpus.split))
    for fold in range(3):
        np.testing.assert_array_equal(cross_validation(corpus, 3, fold).split == "unused", unused)
    assert f"{unused.sum()} unused" in corpus.summary()


def test_clips_of_unknown_artist_are_dealt_one_by_one():
    corpus = make_corpus()
    corpus = dataclasses.replace(corpus, artist=np.full(len(corpus), ""))
    fold = cross_validation(corpus, 5, 0)
    assert 0.15 < len(fold.indices("validation")) / np.sum(corpus.split != "test") < 0.25


def test_no_fold_may_be_empty():
    """Regression: scikit-learn spreads genres evenly, if need be with a fold that has no clip to validate on."""
    artist = np.repeat(np.arange(5), [3, 9, 2, 2, 5])
    corpus = dataclasses.replace(
        first_clips(make_corpus(), len(artist)),
        artist=artist.astype(str),
        label=np.array([2, 2, 2, 2, 1], np.int32)[artist],
        split=np.full(len(artist), "train"),
    )
    for fold in range(5):  # before the first one is trained
        with pytest.raises(UserError, match=r"folds=5 is too many for the 5 artists .* fold 2, .* Give fewer folds"):
            cross_validation(corpus, 5, fold)
    assert len(cross_validation(corpus, 2, 0, selection="scored").indices("validation"))


def artists_of(labels, sizes):
    """A corpus of artists of one genre each."""
    artist = np.repeat(np.arange(len(labels)), sizes)
    clips = first_clips(make_corpus(num_clips=max(30, len(artist))), len(artist))
    label = np.array(labels, np.int32)[artist]
    return dataclasses.replace(clips, artist=artist.astype(str), label=label, split=np.full(len(artist), "train"))


def test_genres_are_spread_over_the_folds():
    """Regression: scikit-learn before 1.8 did not, and left folds without the rare ones."""
    rng = np.random.default_rng(0)
    corpus = artists_of(rng.choice(3, 150, p=[0.7, 0.2, 0.1]), rng.geometric(0.25, 150))
    dealt = [cross_validation(corpus, 5, fold, selection="scored") for fold in range(5)]
    counts = np.stack([np.bincount(corpus.label[fold.indices("validation")], minlength=3) for fold in dealt])
    assert (counts.std(axis=0) < 0.1 * counts.mean(axis=0)).all()


@pytest.mark.parametrize(
    ("labels", "sizes", "folds"), [([0, 1], [4, 5], 2), ([0, 1, 2], [1, 1, 3], 2), ([0, 0, 1], [9, 2, 2], 2)]
)
def test_a_fold_without_clips_to_select_on_is_refused_with_the_first(labels, sizes, folds):
    corpus = artists_of(labels, sizes)
    for fold in range(folds):
        with pytest.raises(UserError, match=rf"^config\.data\.folds={folds}: the clips outside fold \d are of one "):
            cross_validation(corpus, folds, fold)
        assert len(cross_validation(corpus, folds, fold, selection="scored").indices("validation"))


def test_all_folds_are_possible_or_none():
    rng = np.random.default_rng(0)
    for seed in range(60):  # folds up to the number of artists
        labels = rng.integers(3, size=rng.integers(2, 8))
        corpus, folds = artists_of(labels, rng.integers(1, 8, len(labels))), int(rng.integers(2, len(labels) + 1))
        failed = 0
        for fold in range(folds):
            try:
                dealt = cross_validation(corpus, folds, fold, seed)
            except UserError:
                failed += 1
                continue
            assert {INNER, "train", "validation"} == set(dealt.split)
        assert failed in (0, folds)


def test_the_stratified_split_is_8_1_1_in_every_genre_as_scikit_learn_has_it():
    label = np.repeat(np.arange(5), [1000, 333, 47, 19, 1])
    np.random.default_rng(1).shuffle(label)
    split = stratified_split(label, seed=0)
    rest, test = train_test_split(np.flatnonzero(label < 4), test_size=0.1, stratify=label[label < 4], random_state=0)
    train, validation = train_test_split(rest, test_size=1 / 9, stratify=label[rest], random_state=0)
    for name, theirs in {"train": train, "validation": validation, "test": test}.items():
        ours = np.bincount(label[split == name], minlength=5)[:4]
        assert np.abs(ours - np.bincount(label[theirs], minlength=4)).max() <= 1
    assert [np.sum(split == name) for name in ("train", "validation", "test")] == [1120, 140, 140]


def test_fma_small_gets_the_counts_of_the_report():
    split = stratified_split(np.tile(np.arange(8), 1000), seed=3)
    for genre in range(8):
        assert [np.sum(split[genre::8] == name) for name in ("train", "validation", "test")] == [800, 100, 100]


def test_the_stratified_split_follows_its_seed_alone(tmp_path):
    corpus = make_corpus(num_clips=200)
    config = config_for(corpus, tmp_path, **{"data.split": "8-1-1"})
    first, again = open_corpus(config.data), open_corpus(config.data)
    assert first.fingerprint == again.fingerprint
    config.data.split_seed = 1
    other = open_corpus(config.data)
    assert other.fingerprint != first.fingerprint
    assert np.mean(other.split != first.split) > 0.2
    # The test split is a new one too, of all clips.
    assert len(first.indices("test")) == 20
    assert np.mean(corpus.split[first.indices("test")] == "test") < 0.6


def test_artists_on_both_sides_are_counted_in_the_log(tmp_path, caplog):
    corpus = make_corpus(num_clips=200)
    corpus.artist[:10] = ""
    assert artists_in_several_splits(dataclasses.replace(corpus, artist=np.full(200, ""))).tolist() == []
    with caplog.at_level(logging.WARNING):
        cut = open_corpus(config_for(corpus, tmp_path, **{"data.split": "8-1-1"}).data)
    shared = [
        artist for artist in np.unique(cut.artist) if artist and len(np.unique(cut.split[cut.artist == artist])) > 1
    ]
    assert artists_in_several_splits(cut).tolist() == shared
    known = len(np.unique(corpus.artist)) - 1
    assert f"ignores artists: {len(shared)} of {known} known artists have clips in more than one split" in caplog.text
    assert len(shared) > known / 2


def test_folds_by_name_and_by_number_are_the_same(tmp_path):
    corpus = make_corpus(num_clips=200)
    named = config_for(corpus, tmp_path, **{"data.split": "folds", "data.folds": 3, "data.fold": 1})
    numbered = config_for(corpus, tmp_path, **{"data.folds": 3, "data.fold": 1})
    given = config_for(corpus, tmp_path)
    assert open_corpus(named.data).fingerprint == open_corpus(numbered.data).fingerprint
    np.testing.assert_array_equal(open_corpus(given.data).split, corpus.split)
    before = keys.to_json(numbered)
    del before["data"]["split"], before["data"]["split_seed"]  # as a run of before these keys has it
    assert identity.differences(named, before) == []
    given.data.fold_selection = "scored"
    assert identity.differences(given, keys.to_json(config_for(corpus, tmp_path))) == []  # of no fold
    assert "data.split: 'folds' there, 'fma' now" in identity.differences(given, before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.split": "folds"}, "say how many folds"),
        ({"data.split": "8-1-1", "data.folds": 5}, "has no folds"),
        ({"data.split_seed": -1}, "at least 0"),
        ({"data.fold_selection": "outer"}, "choose one of inner, scored"),
    ],
)
def test_impossible_splits_are_refused(changes, message):
    config = keys.default()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        checks.validate(config)


def test_an_unknown_split_is_refused_before_anything_is_read():
    config = keys.default()
    config.data.corpus, config.data.arrays.clips, config.data.split = "arrays", "nowhere.npz", "random"
    with pytest.raises(UserError, match=r"split='random' is no split rule. Choose from fma, folds, 8-1-1"):
        open_corpus(config.data)


def test_a_corpus_too_small_for_8_1_1_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"leaves no clip for test: .* only 9 clips"):
        open_corpus(config_for(first_clips(make_corpus(), 9), tmp_path, **{"data.split": "8-1-1"}).data)


def test_a_new_rule_is_one_function_and_one_line(tmp_path, monkeypatch):
    def by_track_id(corpus, data):
        return dataclasses.replace(corpus, split=np.where(corpus.track_id % 5, "train", "validation"))

    monkeypatch.setitem(SPLITS, "by_track_id", by_track_id)
    corpus = open_corpus(config_for(make_corpus(), tmp_path, **{"data.split": "by_track_id"}).data)
    assert corpus.track_id[corpus.indices("validation")].tolist() == list(range(1000, 1120, 5))
