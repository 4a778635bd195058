"""The arrays corpus on real FMA data (skipped where it is absent)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mgc_jax.config import validate
from mgc_jax.data.bags import bags_of
from mgc_jax.data.corpus import open_corpus
from mgc_jax.train import train_and_evaluate

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
    config.batch.rows, config.batch.clips_per_row = 8, 32  # eight fake devices
    validate(config)
    validation = train_and_evaluate(config, tmp_path / "run")["splits"]["validation"]
    assert validation["clip"]["accuracy"] > validation["majority_accuracy"] + 0.2
    assert validation["clip_mean"]["accuracy"] > validation["clip"]["accuracy"]  # bags help


def test_mean_pooling_with_a_linear_head_is_the_clip_average(real_data, tmp_path):
    """The bag's logits are the mean of its clips' logits, so both views must agree."""
    config = echonest_config(real_data, "mean")
    config.train.epochs, config.batch.rows, config.batch.clips_per_row = 2, 8, 32
    validation = train_and_evaluate(config, tmp_path / "run")["splits"]["validation"]
    assert validation["bag"]["accuracy"] == pytest.approx(validation["clip_mean"]["accuracy"], abs=0.002)
    assert validation["bag"]["micro_ap"] == pytest.approx(validation["clip_mean"]["micro_ap"], abs=1e-4)
