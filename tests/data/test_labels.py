"""Several genres per clip: closed upwards, of training clips alone; corpora and bags that have them."""

import dataclasses

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from scipy.special import expit

from mgc_jax.config.keys import MULTI_LABEL, default
from mgc_jax.data.bags import genre_shares, single_clip_bags, training_bags
from mgc_jax.data.fma import _genre_sets
from mgc_jax.data.labels import of_fma, of_names
from mgc_jax.data.open import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.training.losses import multi_label_loss, targets
from tfds_fma.source.tracks import read_tracks

ROCK, PUNK, HARDCORE, JAZZ, BE_BOP = 12, 25, 109, 4, 178


def sets_of(*ids):
    return of_fma(ids, "fma_large")


def names_of(sets, clip):
    return {genre for genre, has in zip(sets.genres, sets.label[clip], strict=True) if has}


def test_a_clip_has_all_genres_above_its_own():
    sets = sets_of([HARDCORE], [ROCK, JAZZ], [])
    assert len(sets.genres) == 163
    assert [names_of(sets, clip) for clip in range(3)] == [{"Rock", "Punk", "Hardcore"}, {"Rock", "Jazz"}, set()]
    assert sets.parents[sets.genres.index("Punk")] == sets.genres.index("Rock")
    assert sets.parents[sets.genres.index("Rock")] == -1


def test_genres_of_no_training_clip_are_left_out_and_the_rest_is_a_tree(caplog):
    caplog.set_level("INFO")
    sets = sets_of([PUNK], [HARDCORE], [JAZZ, BE_BOP]).trainable(np.array([True, False, False]))
    assert (sets.genres, sets.parents) == (("Rock", "Punk"), (-1, 0))
    assert sets.label.tolist() == [[True, True], [True, True], [False, False]]
    assert "161 of 163 genres have no training clip and are left out" in caplog.text
    assert sets.trainable(np.array([True, False, False])) == (sets.genres, sets.parents, pytest.approx(sets.label))


def test_datasets_without_genre_lists_and_unknown_ids_are_refused():
    with pytest.raises(UserError, match="no clip of fma_large has genres beside its top genre"):
        sets_of([], [])
    with pytest.raises(UserError, match="genre id 7777 is none of the 163"):
        sets_of([ROCK], [7777])


def test_clips_without_a_top_genre_stay(caplog):
    caplog.set_level("INFO")
    columns = {
        "genre": np.array([-1, 0, -1]), "track_id": np.array([7, 8, 9]), "split": np.array(["train"] * 3),
        "artist_id": np.array([1, -1, 2]), "album_id": np.array([3, 4, 5]), "subset": np.array(["large"] * 3, object),
        "genres_all": np.array([[PUNK, JAZZ], [ROCK], []], object),
    }  # fmt: skip
    rows, fields = _genre_sets("fma_large", columns, ("Rock", "Jazz"))
    assert rows.tolist() == [0, 1]
    assert "1 of 3 clips have no known genre and are left out" in caplog.text
    assert (fields["genres"], fields["parents"]) == (("Rock", "Punk", "Jazz"), (-1, 0, -1))
    assert fields["label"].tolist() == [[True, True, True], [True, False, False]]
    assert fields["artist"].tolist() == ["1", ""]


def test_names_in_a_cell():
    sets = of_names(["Rock| Punk", "Jazz", "Punk|"], ("Jazz", "Punk", "Rock"))
    assert sets.label.astype(int).tolist() == [[0, 1, 1], [1, 0, 0], [0, 1, 0]]
    assert sets.parents == (-1, -1, -1)


def test_genre_lists_of_fma_are_closed_already(real_data):
    tracks = read_tracks(real_data / "fma_sample", "large")
    sets = of_fma([track.genres_all for track in tracks], "fma_large")
    assert sets.label.sum(axis=1).tolist() == [len(track.genres_all) for track in tracks]
    top = {track.genre for track in tracks if track.genre}
    assert sum(not track.genre for track in tracks) > 50
    for track, has in zip(tracks, sets.label, strict=True):
        assert not track.genre or has[sets.genres.index(track.genre)]
    assert top <= set(sets.genres)


def arrays_config(folder, cells):
    """Saved arrays whose cells of genres are replaced."""
    corpus = make_corpus(len(cells), (6,))
    config = default()
    config.update_from_flattened_dict(save_arrays(corpus, folder))
    config.data.arrays.axes = "clip feature"
    lines = (folder / "tracks.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    rows = [[row[0], cell, *row[2:]] for row, cell in zip(rows, cells, strict=True)]
    (folder / "tracks.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    return config


def test_arrays_of_ones_own(tmp_path):
    cells = ["Polka", "Polka|Rock", "Jazz", "Rock"] * 10
    config = arrays_config(tmp_path, cells)
    corpus = open_corpus(config.data, MULTI_LABEL)
    assert corpus.multi_label
    assert corpus.genres == ("Jazz", "Polka", "Rock")
    assert corpus.label[:4].astype(int).tolist() == [[0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]]
    with pytest.raises(UserError, match=r"'Polka' in column 'genre_top' is not one of"):
        open_corpus(config.data)
    config.data.arrays.genres = ("Jazz", "Rock")
    with pytest.raises(UserError, match="'Polka' in column 'genre_top' is not one of Jazz, Rock"):
        open_corpus(config.data, MULTI_LABEL)


def test_labels_are_in_the_fingerprint(tmp_path):
    corpus = several(make_corpus(40, (6,)))
    other = corpus.label.copy()
    other[3] = ~other[3]
    assert corpus.fingerprint != dataclasses.replace(corpus, label=other, subgenre=None).fingerprint


def several(corpus):
    """The corpus with a second genre for some clips: where the first number of a clip is positive."""
    label = corpus.label[:, None] == np.arange(3)
    label[:, 2] |= corpus.clips.reshape(len(corpus), -1)[:, 0] > 0
    return dataclasses.replace(corpus, label=label, parents=(-1, -1, -1), subgenre=None)


@pytest.mark.parametrize("key", ["paper", "pair"])
def test_the_target_of_a_bag_is_the_share_of_its_clips(key):
    corpus = several(make_corpus())
    bags, shares = genre_shares(corpus, training_bags(corpus, key))
    assert len(np.unique(shares, axis=0)) == len(shares)
    for bag in range(len(bags)):
        clips = bags.clips[bags.offsets[bag] : bags.offsets[bag + 1]]
        assert len(set(zip(corpus.artist[clips], corpus.album[clips], strict=True))) == 1
        np.testing.assert_allclose(shares[bags.label[bag]], corpus.label[clips].mean(axis=0), rtol=1e-6)
    alone, sets = genre_shares(corpus, single_clip_bags(corpus, "train"))
    np.testing.assert_array_equal(sets[alone.label], corpus.label[corpus.indices("train")])


def test_the_loss_of_a_bag_is_the_mean_over_its_clips():
    """Under the share as target; each clip's is the negative log likelihood of its set of genres."""
    rng = np.random.default_rng(0)
    labels, log_odds = rng.random((5, 4)) < 0.5, rng.normal(size=4)
    p = expit(log_odds)
    of_clips = -np.log(np.where(labels, p, 1 - p)).sum(axis=1)
    shares = labels.mean(axis=0, keepdims=True).astype(np.float32)
    target = targets(np.zeros(1, int), 4, shares=shares)
    log_odds = log_odds[None].astype(np.float32)
    np.testing.assert_allclose(multi_label_loss(log_odds, target), of_clips.mean(), rtol=1e-5)


def test_mixed_targets_are_mixed_shares():
    shares = np.array([[1, 0.5], [0, 1]], np.float32)
    mixed = targets(np.array([0]), 2, np.array([1]), np.array([0.75], np.float32), shares=shares)
    np.testing.assert_allclose(mixed, [[0.75, 0.625]])
