"""The arrays corpus on real FMA data (skipped where it is absent)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mgc_jax.config.checks import validate
from mgc_jax.data.bags import bags_of
from mgc_jax.data.open import open_corpus
from mgc_jax.modes import train as train_and_evaluate
from tfds_fma.labels import genres_of
from tfds_fma.preparation import prepare_arrays
from tfds_fma.source.arrays import ArrayFiles
from tfds_fma.source.track_table import Columns

CONFIGS = Path(__file__).parents[2] / "configs"


def load_config(name, *arguments):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*arguments)


def mels_config(real_data, *arguments):
    config = load_config("fma_small_mels", *arguments)
    config.data.arrays.clips = str(real_data / "fma_small_mels" / "mels.npz")
    config.data.arrays.table = str(real_data / "fma_small_mels" / "tracks.csv")
    return config


def echonest_config(real_data, *arguments):
    config = load_config("echonest", *arguments)
    config.data.arrays.table = str(real_data / "fma_medium_tables" / "echonest.csv")
    return config


def test_pseudo_album_bags_of_fma_small(real_data):
    corpus = open_corpus(mels_config(real_data).data)
    assert corpus.clips.shape == (7194, 250, 100)
    assert corpus.clips.dtype == np.uint8
    assert len(corpus.genres) == 8
    train, validation = (bags_of(corpus, split, "pair", 20) for split in ("train", "validation"))
    # calibration of these bags, measured independently: 2,527 and 304 bags, mean 2.65 clips in validation
    assert (len(train), len(validation)) == (2527, 304)
    assert len(train.clips) == 6394
    unknown = np.flatnonzero(corpus.artist == "")
    assert len(unknown) == 79
    alone = {int(train.clips[a]) for a, b in zip(train.offsets[:-1], train.offsets[1:], strict=True) if b == a + 1}
    assert set(unknown[corpus.split[unknown] == "train"].tolist()) <= alone


def test_album_artist_bags_of_echonest_tracks(real_data):
    corpus = open_corpus(echonest_config(real_data).data)
    assert corpus.clips.shape == (4752, 8)
    assert len(corpus.genres) == 12
    bags = bags_of(corpus, "train", "pair")
    pairs = set(zip(corpus.artist[bags.clips], corpus.album[bags.clips], strict=True))
    assert len(bags) == len(pairs)
    assert {len(set(bags_of(corpus, split, "paper").clips)) for split in ("train", "validation")} == {4167, 585}


@pytest.mark.parametrize("pooling", ["none", "mean", "matt"])
def test_echonest_features_learn(real_data, tmp_path, pooling):
    config = echonest_config(real_data, pooling)
    config.train.epochs = 10
    config.batch.clips = 256
    validate(config)
    validation = train_and_evaluate(config, tmp_path / "run")["splits"]["validation"]
    assert validation["clip"]["accuracy"] > validation["majority_accuracy"] + 0.2
    assert validation["clip_mean"]["accuracy"] > validation["clip"]["accuracy"]  # bags help


def test_mean_pooling_with_a_linear_head_is_the_clip_average(real_data, tmp_path):
    """The bag's logits are the mean of its clips' logits, so both views must agree."""
    config = echonest_config(real_data, "mean")
    config.train.epochs, config.batch.clips = 16, 32
    validation = train_and_evaluate(config, tmp_path / "run")["splits"]["validation"]
    assert validation["bag"]["accuracy"] == pytest.approx(validation["clip_mean"]["accuracy"], abs=0.002)
    assert validation["bag"]["micro_ap"] == pytest.approx(validation["clip_mean"]["micro_ap"], abs=1e-4)


def test_fma_small_prepared_from_arrays_is_the_same_corpus(real_data, tmp_path):
    config = mels_config(real_data)
    arrays = open_corpus(config.data)
    columns = Columns(album="", title="title", artist_name="artist_name")
    files = ArrayFiles(
        config.data.arrays.table, config.data.arrays.clips, "mel", axes="clip mel time", columns=columns
    )
    lines: list[str] = []
    prepare_arrays(files, "small", "mel_100x250", tmp_path, progress=False, log=lines.append)
    assert lines[-2] == ("small-mel_100x250: 7194 clips written (train 6394, validation 800); 0 rejected; 0 padded")
    config.data.corpus, config.data.representation, config.data.data_dir = "fma_small", "mel_100x250", str(tmp_path)
    validate(config)
    prepared = open_corpus(config.data)
    assert prepared.genres == arrays.genres == genres_of("small")
    row = {track_id: i for i, track_id in enumerate(arrays.track_id.tolist())}
    rows = np.array([row[track_id] for track_id in prepared.track_id.tolist()])
    for column in ("label", "split", "artist", "album"):
        np.testing.assert_array_equal(getattr(prepared, column), getattr(arrays, column)[rows])
    for i in range(0, len(prepared), 500):
        np.testing.assert_array_equal(prepared.clips[i], arrays.clips[rows[i]])
    for split, count in (("train", 2527), ("validation", 304)):
        assert len(bags_of(prepared, split, "pair", 20)) == count
