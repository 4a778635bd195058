import dataclasses

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from sklearn.preprocessing import StandardScaler

from mgc_jax.config import default
from mgc_jax.data.corpus import open_corpus, resolve_auto, standardization
from mgc_jax.errors import UserError


def config_for(folder, corpus, **changes):
    config = default()
    config.update_from_flattened_dict(save_arrays(corpus, folder))
    config.update_from_flattened_dict(changes)
    return config


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_arrays_come_back_as_they_were(tmp_path, corpus, dtype):
    clips = (100 + 10 * corpus.clips.astype(np.float32)).astype(dtype)
    config = config_for(tmp_path, corpus)
    np.savez(tmp_path / "clips.npz", clips=clips, track_id=corpus.track_id)
    opened = open_corpus(config.data)
    assert opened.clips.dtype == dtype
    np.testing.assert_array_equal(opened.clips, clips)
    for column in ("track_id", "split", "artist", "album"):
        np.testing.assert_array_equal(getattr(opened, column), getattr(corpus, column))
    assert [opened.genres[i] for i in opened.label] == [corpus.genres[i] for i in corpus.label]


def test_clips_and_table_are_joined_by_track_id(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    rng = np.random.default_rng(0)
    some = rng.permutation(len(corpus))[:50]
    np.savez(tmp_path / "clips.npz", clips=corpus.clips[some], track_id=corpus.track_id[some])
    opened = open_corpus(config.data)
    np.testing.assert_array_equal(opened.track_id, corpus.track_id[some])
    assert [opened.genres[i] for i in opened.label] == [corpus.genres[i] for i in corpus.label[some]]
    np.testing.assert_array_equal(opened.album, corpus.album[some])


def test_npy_with_ids_beside_it_and_mel_before_time(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    np.save(tmp_path / "clips.npy", corpus.clips.transpose(0, 2, 1))
    np.save(tmp_path / "ids.npy", corpus.track_id)
    config.data.arrays.clips = str(tmp_path / "clips.npy")
    config.data.arrays.ids = str(tmp_path / "ids.npy")
    config.data.arrays.axes = "clip mel time"
    np.testing.assert_array_equal(open_corpus(config.data).clips, corpus.clips)


def test_unknown_artists_and_albums(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    text = (tmp_path / "tracks.csv").read_text().splitlines()
    text[1] = ",".join([*text[1].split(",")[:3], "", "-1"])
    (tmp_path / "tracks.csv").write_text("\n".join(text))
    opened = open_corpus(config.data)
    assert (opened.artist[0], opened.album[0]) == ("", "")
    assert opened.artist[1] == corpus.artist[1]
    config.data.arrays.columns.album = ""
    assert (open_corpus(config.data).album == "").all()


def test_columns_of_the_table_as_features(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    config.data.arrays.clips = ""
    config.data.arrays.features = ("tempo", "energy")
    values = np.random.default_rng(0).normal(size=(len(corpus), 2)).astype(np.float32)
    lines = (tmp_path / "tracks.csv").read_text().splitlines()
    lines[0] += ",tempo,energy"
    lines[1:] = [f"{line},{t},{e}" for line, (t, e) in zip(lines[1:], values, strict=True)]
    (tmp_path / "tracks.csv").write_text("\n".join(lines))
    np.testing.assert_allclose(open_corpus(config.data).clips, values, rtol=1e-6)


def test_a_mistyped_genre_of_fma_is_a_mistake_and_foreign_genres_are_not(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    text = (tmp_path / "tracks.csv").read_text()
    (tmp_path / "tracks.csv").write_text(text.replace("Folk", "Flok"))
    with pytest.raises(UserError, match="'Flok' in column 'genre_top' is not one of Rock, Jazz"):
        open_corpus(config.data)
    foreign = text.replace("Folk", "samba").replace("Rock", "rock").replace("Jazz", "jazz")
    (tmp_path / "tracks.csv").write_text(foreign)
    assert open_corpus(config.data).genres == ("jazz", "rock", "samba")


@pytest.mark.parametrize("ids", [np.arange(120) + 0.5, np.arange(120).astype(str), np.zeros((120, 2), int)])
def test_ids_that_are_none(tmp_path, corpus, ids):
    config = config_for(tmp_path, corpus)
    np.savez(tmp_path / "clips.npz", clips=corpus.clips, track_id=ids)
    with pytest.raises(UserError, match="track ids must be whole numbers"):
        open_corpus(config.data)


def test_damaged_arrays_are_named(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    path = tmp_path / "clips.npz"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(5):
        damaged = bytearray(whole)
        at = int(rng.integers(200, len(whole) // 2))
        damaged[at : at + 50] = rng.bytes(50)
        path.write_bytes(bytes(damaged))
        with pytest.raises(UserError, match=r"clips\.npz"):
            open_corpus(config.data)
    for damaged in (whole[:5000], b"", b"text"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"clips\.npz"):
            open_corpus(config.data)
    np.savez(path, clips=np.array([{}, {}]), track_id=corpus.track_id[:2])
    with pytest.raises(UserError, match="cannot be read"):
        open_corpus(config.data)


def test_frames_keeps_the_beginning(tmp_path, corpus):
    config = config_for(tmp_path, corpus, **{"data.frames": 16})
    np.testing.assert_array_equal(open_corpus(config.data).clips, corpus.clips[:, :16])


def test_the_fingerprint_changes_with_the_corpus(tmp_path, corpus):
    assert make_corpus().fingerprint == corpus.fingerprint
    assert make_corpus(seed=1).fingerprint != corpus.fingerprint


@pytest.mark.parametrize("shape", [(6,), (10, 6)])
def test_standardization_is_scikit_learns_of_the_training_clips(shape):
    corpus = make_corpus(clip_shape=shape)
    statistics = standardization(corpus, enabled=True)
    train = corpus.clips[corpus.indices("train")].astype(np.float64).reshape(-1, 6)
    scaler = StandardScaler().fit(train)
    np.testing.assert_allclose(statistics.mean, scaler.mean_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(statistics.std, scaler.scale_, rtol=1e-5)


def test_a_constant_feature_stays_at_zero_however_large():
    corpus = make_corpus(clip_shape=(200,))
    constants = np.linspace(1e3, 1e6, 200, dtype=np.float32)
    clips = np.broadcast_to(constants, corpus.clips.shape)
    statistics = standardization(dataclasses.replace(corpus, clips=clips), enabled=True)
    np.testing.assert_array_equal(statistics.std, 1)
    np.testing.assert_allclose(statistics.mean, constants)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.arrays.table": "gone.csv"}, "gone.csv does not exist"),
        ({"data.arrays.clips": "gone.npz"}, "gone.npz does not exist"),
        ({"data.arrays.columns.genre": "style"}, "no column 'style'"),
        ({"data.arrays.clips_key": "mel"}, "say which one is the clips"),
        ({"data.arrays.axes": "clip feature"}, "3 axes"),
        ({"data.arrays.genres": ("Rock", "Folk")}, "'Jazz' in column 'genre_top' is not one of Rock, Folk"),
        ({"data.frames": 41}, "data.frames=41"),
    ],
)
def test_bad_input_is_named(tmp_path, corpus, changes, message):
    config = config_for(tmp_path, corpus, **changes)
    with pytest.raises(UserError, match=message):
        open_corpus(config.data)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1000,Rock,dev-test,1,1", "'dev-test' in column 'split' is not one of"),
        ("1000,,train,1,1", "'genre_top' is empty for track '1000'"),
        ("a1,Rock,train,1,1", "not whole numbers"),
        ("1001,Rock,train,1,1", "track id 1001 occurs more than once"),
    ],
)
def test_bad_rows_are_named(tmp_path, corpus, line, message):
    config = config_for(tmp_path, corpus)
    lines = (tmp_path / "tracks.csv").read_text().splitlines()
    (tmp_path / "tracks.csv").write_text("\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(UserError, match=message):
        open_corpus(config.data)


def test_a_clip_without_a_row_and_a_clip_that_is_not_finite(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    np.savez(tmp_path / "clips.npz", clips=corpus.clips, track_id=corpus.track_id + 1)
    with pytest.raises(UserError, match="has track 1120, which"):
        open_corpus(config.data)
    clips = corpus.clips.copy()
    clips[7, 3, 2] = np.nan
    np.savez(tmp_path / "clips.npz", clips=clips, track_id=corpus.track_id)
    with pytest.raises(UserError, match="track 1007 are not all finite"):
        open_corpus(config.data)


def test_a_corpus_that_is_not_prepared_tells_how_to_get_it(tmp_path):
    config = default()
    config.data.corpus, config.data.data_dir = "fma_small", str(tmp_path)
    with pytest.raises(UserError, match=r"tfds_fma\.prepare"):
        open_corpus(config.data)


def test_auto_without_fma_is_the_demo(tmp_path):
    config = default()
    config.data.data_dir = str(tmp_path)
    corpus, why = resolve_auto(config.data)
    assert corpus == "demo"
    assert "SYNTHETIC" in why
