import contextlib
import csv
import dataclasses
import logging
import zlib

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from sklearn.preprocessing import StandardScaler

from mgc_jax.config import checks
from mgc_jax.config.keys import default
from mgc_jax.data.bags import bags_of
from mgc_jax.data.inputs import make_inputs
from mgc_jax.data.open import open_corpus, resolve_auto
from mgc_jax.data.standardization import standardization
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import training_clips
from mgc_jax.runtime.workdir import OtherCorpusError, check_same_corpus
from tfds_fma.clips.make import Clip
from tfds_fma.clips.sources import ClipSource
from tfds_fma.labels import GENRES
from tfds_fma.preparation import prepare_arrays, prepare_clips
from tfds_fma.representations.feature_vector import Precomputed
from tfds_fma.source.arrays import ArrayFiles
from tfds_fma.source.tracks import Track
from tfds_fma.sub_genres import find_subgenres


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


@pytest.mark.parametrize(("axes", "other"), [("clip time mel", "clip mel time"), ("clip mel time", "clip time mel")])
def test_fewer_frames_than_mel_bands_are_doubtful(tmp_path, corpus, caplog, axes, other):
    config = config_for(tmp_path, corpus, **{"data.arrays.axes": axes})
    clips = corpus.clips if axes == "clip time mel" else corpus.clips.transpose(0, 2, 1)
    np.savez(tmp_path / "clips.npz", clips=clips, track_id=corpus.track_id)
    config.data.frames = 5  # which was asked for
    open_corpus(config.data)
    assert not caplog.records
    np.savez(tmp_path / "clips.npz", clips=clips.transpose(0, 2, 1), track_id=corpus.track_id)
    assert "clips of 5 frames x 40 mels" in open_corpus(config.data).summary()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"read as '{axes}', its clips have only 12 frames of 40 mel bands. If" in record.message
    assert record.message.endswith(f"set --config.data.arrays.axes='NAMES' to '{other}'")


def test_rows_without_a_clip_long_texts_and_ids_with_a_decimal(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    whole = open_corpus(config.data)
    lines = (tmp_path / "tracks.csv").read_text().splitlines()
    lines = [f"{line},{'x' * 140_000 if i == 3 else 'x'}" for i, line in enumerate(lines)]
    lines = [line.replace(",", ".0,", 1) if i else line for i, line in enumerate(lines)]
    (tmp_path / "tracks.csv").write_text("\n".join([*lines, "7.0,,,1,1,x", "8.0,None,nan,1,1,x", ""]))
    opened = open_corpus(config.data)
    assert opened.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(opened.track_id, corpus.track_id)
    assert csv.field_size_limit() == 131072  # as it was


def test_every_clip_counts_where_all_are_in_memory(tmp_path):
    """The fingerprint covers about a thousand of them."""
    corpus = make_corpus(num_clips=2100, clip_shape=(6,))
    clips = corpus.clips.copy()
    clips[1] *= -1
    changed = dataclasses.replace(corpus, clips=clips)
    assert changed.fingerprint == corpus.fingerprint
    assert corpus.clips_digest == f"{zlib.crc32(corpus.clips.tobytes()):08x}"
    assert dataclasses.replace(corpus, clips=np.asfortranarray(corpus.clips)).clips_digest == corpus.clips_digest
    before = {"corpus": "arrays", "fingerprint": corpus.fingerprint, "clips_digest": corpus.clips_digest}
    check_same_corpus(corpus, before, tmp_path)
    with pytest.raises(OtherCorpusError, match=f"clips {corpus.clips_digest}.* but this one .*{changed.clips_digest}"):
        check_same_corpus(changed, before, tmp_path)
    for name, value in (("clips_digest", ""), ("fingerprint", "f")):  # of an early version, or on the disk; another
        before[name] = value
        with contextlib.nullcontext() if value == "" else pytest.raises(OtherCorpusError, match="fingerprint f"):
            check_same_corpus(changed, before, tmp_path)


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


def test_words_for_unknown_artists_and_albums_are_counted(tmp_path, corpus, caplog):
    rng = np.random.default_rng(0)
    words = rng.choice(["", "nan", "None", "NA", "-1", "-1.0"], (2, len(corpus)))
    known = rng.random((2, len(corpus))) < 0.5
    artist, album = np.where(known, (corpus.artist, corpus.album), words)
    config = config_for(tmp_path, dataclasses.replace(corpus, artist=artist, album=album))
    with caplog.at_level(logging.INFO, "mgc_jax"):
        opened = open_corpus(config.data)
    for mine, theirs, these in zip((opened.artist, opened.album), (corpus.artist, corpus.album), known, strict=True):
        np.testing.assert_array_equal(mine, np.where(these, theirs, ""))
    assert f"column 'artist_id': {np.sum(~known[0] & (words[0] != ''))} of 120 are taken as unknown" in caplog.text


def test_training_clips_outside_fma_small(tmp_path, corpus):
    config = config_for(tmp_path, corpus)
    unknown = open_corpus(config.data)
    assert (unknown.subset == "").all()
    in_training = [np.sum(corpus.label[corpus.split == "train"] == label) for label in range(3)]
    counts, outside = training_clips(unknown)
    assert [counts.tolist(), outside] == [in_training, None]

    subset = np.random.default_rng(0).choice(["small", "medium", "large", ""], len(corpus))
    lines = (tmp_path / "tracks.csv").read_text().splitlines()
    lines = [f"{line},{word}" for line, word in zip(lines, ["part", *subset], strict=True)]
    (tmp_path / "tracks.csv").write_text("\n".join(lines))
    config.data.arrays.columns.subset = "part"
    opened = open_corpus(config.data)
    np.testing.assert_array_equal(opened.subset, subset)
    assert opened.fingerprint == unknown.fingerprint
    counts, outside = training_clips(opened)
    assert counts.tolist() == in_training
    known_outside = (corpus.split == "train") & (subset == "medium")  # MATT's list is of FMA-medium
    assert outside.tolist() == [np.sum(known_outside & (corpus.label == label)) for label in range(3)]
    # Of the training clips nothing is known, or only that they are of FMA-small.
    of_training = corpus.split == "train"
    others_known = dataclasses.replace(opened, subset=np.where(of_training, "", "medium"))
    assert training_clips(others_known)[1] is None
    all_small = dataclasses.replace(opened, subset=np.where(of_training, "small", "medium"))
    assert training_clips(all_small)[1] is None


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


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(120) + 0.5,
        np.full(120, np.nan),
        np.char.add("a", np.arange(120).astype(str)),
        np.zeros((120, 2), int),
    ],
)
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
    np.savez(path, clips=corpus.clips, track_id=corpus.track_id, names=np.array(["a", None]))
    with pytest.raises(
        UserError, match=r"the array 'names' in .*clips\.npz cannot be read.*numbers or text, or leave"
    ):
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


def test_statistics_of_features_are_those_of_all_training_clips():
    """A sample would give neural systems other inputs than scikit-learn's baselines in the same table."""
    corpus = make_corpus(num_clips=7000, clip_shape=(3,))
    inputs = make_inputs(default(), corpus)
    scaler = StandardScaler().fit(corpus.clips[corpus.indices("train")].astype(np.float64))
    assert scaler.n_samples_seen_ > 4096
    np.testing.assert_allclose(inputs.statistics.mean, scaler.mean_, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(inputs.statistics.std, scaler.scale_, rtol=1e-5)


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
        ({"data.arrays.ids_key": "track"}, r"no 'track'; it holds clips, track_id\. Correct .*arrays\.ids_key=NAME"),
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
        ("1000,,train,1,1", "'genre_top' is empty for track 1000, which has a clip"),
        ("1000,nan,train,1,1", "'genre_top' is empty for track 1000, which has a clip"),
        ("1000,Rock,,1,1\n1001,Rock,,1,1", "'split' is empty for track 1000 and 1 others, which have clips"),
        (",Rock,train,1,1", "not whole numbers"),
        ("a1,Rock,train,1,1", "not whole numbers"),
        ("1001,Rock,train,1,1", "track id 1001 occurs more than once"),
    ],
)
def test_bad_rows_are_named(tmp_path, corpus, line, message):
    config = config_for(tmp_path, corpus)
    lines = (tmp_path / "tracks.csv").read_text().splitlines()
    below = 2 + line.count("\n")
    (tmp_path / "tracks.csv").write_text("\n".join([lines[0], line, *lines[below:]]))
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


def test_music_of_ones_own_that_is_not_prepared_tells_how_to_prepare_it(tmp_path):
    config = default()
    config.data.corpus, config.data.data_dir = "own_mine", str(tmp_path)
    checks.validate(config)
    with pytest.raises(UserError, match=r"own_mine .* --audio FOLDER --name mine --representation mel_1360x96"):
        open_corpus(config.data)
    config.data.corpus = "mine"
    with pytest.raises(UserError, match="or own_NAME"):
        checks.validate(config)


def test_a_representation_that_is_not_prepared_is_named_with_what_is(tmp_path, corpus):
    save_arrays(corpus, tmp_path)
    files = ArrayFiles(str(tmp_path / "tracks.csv"), str(tmp_path / "clips.npz"))
    prepare_arrays(files, "medium", "mine", tmp_path, progress=False)
    config = default()
    config.data.data_dir, config.data.representation = str(tmp_path), "mnie"
    for name, find in (("auto", resolve_auto), ("fma_medium", open_corpus)):
        config.data.corpus = name
        message = r"mnie is not prepared in .* there: medium-mine\. mnie is none of .* \(mel_1360x96, .* --from_arrays"
        with pytest.raises(UserError, match=message):
            find(config.data)
    config.data.representation = "mel_1360x96"
    with pytest.raises(UserError, match=r"Prepared there: medium-mine\. Get fma_metadata.zip and fma_medium.zip"):
        open_corpus(config.data)
    config.data.corpus = "auto"
    assert resolve_auto(config.data)[0] == "demo"
    config.data.representation = "mine"
    assert resolve_auto(config.data)[0] == "fma_medium"


def groups(corpus, split, key, gap=20):
    """The bags of a split as sets of track ids, and the genre of each."""
    bags = bags_of(corpus, split, key, gap)
    return {
        frozenset(corpus.track_id[bags.clips[a:b]].tolist()): corpus.genres[label]
        for a, b, label in zip(bags.offsets[:-1], bags.offsets[1:], bags.label, strict=True)
    }


@pytest.mark.parametrize("unknown", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_prepared_arrays_train_as_the_arrays_do(tmp_path, corpus, named, unknown):
    rng = np.random.default_rng(0)
    if named:
        corpus = dataclasses.replace(corpus, artist=np.char.add("by ", corpus.artist))
    if unknown:
        some = rng.random((2, len(corpus))) < 0.4
        artist, album = (np.where(s, "", v) for s, v in zip(some, (corpus.artist, corpus.album), strict=True))
        corpus = dataclasses.replace(corpus, artist=artist, album=album)
    config = config_for(tmp_path, corpus)
    arrays = open_corpus(config.data)
    files = ArrayFiles(str(tmp_path / "tracks.csv"), str(tmp_path / "clips.npz"))
    prepare_arrays(files, "medium", "mine", tmp_path / "data", progress=False)
    config.data.corpus, config.data.representation = "fma_medium", "mine"
    config.data.data_dir = str(tmp_path / "data")
    prepared = open_corpus(config.data)
    assert prepared.name == "fma_medium"
    assert prepared.genres == GENRES
    for split in ("train", "validation", "test"):
        for key in ("paper", "pair"):
            assert groups(prepared, split, key) == groups(arrays, split, key)
        ours, theirs = prepared.indices(split), arrays.indices(split)
        np.testing.assert_array_equal(prepared.track_id[ours], arrays.track_id[theirs])
        np.testing.assert_array_equal(prepared.clips[ours], arrays.clips[theirs])
    for ours, theirs in zip(standardize(prepared), standardize(arrays), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def standardize(corpus):
    return dataclasses.astuple(standardization(corpus, enabled=True))


@pytest.mark.parametrize("name", ["large", "full"])  # the same tracks, and clips as long
def test_clips_without_a_top_genre_are_left_out_and_counted(tmp_path, caplog, name):
    genres = ("", "Rock", "", "Jazz", "Rock", "")
    splits = ("train", "train", "validation", "validation", "test", "test")
    subsets = ("large", "small", "large", "", "medium", "large")
    tracks = tuple(
        Track(number, split, genre, number // 2, -1, "", "", 30.0, subset=subset)
        for number, (split, genre, subset) in enumerate(zip(splits, genres, subsets, strict=True))
    )

    def make(track):
        return Clip(np.full((3, 2), track.track_id, np.float16), padded=False)

    source = ClipSource(
        tracks, GENRES, Precomputed("mine", (3, 2), "float16", "numbers"), make, False, "", resampler="r 1"
    )
    prepare_clips(lambda: source, name, "mine", tmp_path, progress=False)
    config = default()
    config.data.corpus, config.data.representation, config.data.data_dir = f"fma_{name}", "mine", str(tmp_path)
    checks.validate(config)
    with caplog.at_level(logging.INFO, "mgc_jax"):
        corpus = open_corpus(config.data)
    assert "3 of 6 clips have no top genre and are left out" in caplog.text
    assert corpus.track_id.tolist() == [1, 3, 4]
    assert [corpus.genres[label] for label in corpus.label] == ["Rock", "Jazz", "Rock"]
    assert corpus.split.tolist() == ["train", "validation", "test"]
    assert corpus.artist.tolist() == ["0", "1", "2"]
    assert corpus.subset.tolist() == ["small", "", "medium"]
    assert corpus.resampler == "r 1"
    np.testing.assert_array_equal(corpus.clips[:, 0, 0], [1, 3, 4])
    assert corpus.clips.shape == (3, 3, 2)


def test_the_sub_genre_is_the_commonest_below_the_top_one():
    top = {12, 2}
    genres_all = [[12, 45, 58], [12, 45], [12, 45, 58], [12, 58, 45], [12, 99], [2, 45], [2], [12]]
    label = np.array([0, 0, 0, 0, 0, 1, 1, 0])
    train = np.array([True, True, True, False, True, True, True, True])
    names, parents, subgenre = find_subgenres(genres_all, label, train, ("Rock", "International"), top, min_clips=2)
    # 45 occurs three times in training with Rock, 58 twice; 99 and 45 with International once, which is too few.
    assert names == ("Rock", "International", "Rock/45", "Rock/58")
    assert parents == (0, 1, 0, 0)
    assert subgenre.tolist() == [2, 2, 2, 2, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("clip", "features", "words"),
    [
        (np.zeros((40, 12), np.float16), "", "clips of 40 frames x 12 mels ("),
        (np.zeros(140, np.float32), "mfcc", "clips of 140 features (mfcc) ("),
        (np.zeros(518, np.float32), "", "clips of 518 features ("),
        (np.zeros(72000, np.int16), "", "clips of 72000 samples ("),
    ],
)
def test_the_summary_names_the_axes_of_a_clip(clip, features, words):
    corpus = make_corpus(num_clips=30)
    corpus = dataclasses.replace(corpus, clips=np.broadcast_to(clip, (30, *clip.shape)), features=features)
    assert words in corpus.summary()
