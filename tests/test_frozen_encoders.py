"""The probes of configs/probe.py, on embeddings in the shapes of published encoders."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from ml_collections import ConfigDict

from mgc_jax import baselines
from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError
from mgc_jax.modes import train

PROBE = str(Path(__file__).parents[1] / "configs" / "probe.py")


def embeddings(features, *, spread=1.0, noise=0.5, seed=0):
    """A corpus of vectors whose genre is their direction; their length, uneven by `spread`, says nothing."""
    rng = np.random.default_rng(seed)
    corpus = make_corpus(num_clips=180, clip_shape=(features,))
    direction = np.linalg.qr(rng.normal(size=(features, len(corpus.genres))))[0].T[corpus.label]
    clips = direction + noise * rng.normal(size=(len(corpus), features)) / np.sqrt(features)
    length = np.sqrt(features) * np.exp(spread * rng.normal(size=(len(corpus), 1)))
    return dataclasses.replace(corpus, clips=(length * clips).astype(np.float32))


def probe_config(probe, corpus, folder, **changes):
    return load_config(f"{PROBE}:{probe}", save_arrays(corpus, folder) | changes)


@pytest.mark.parametrize(("probe", "features"), [("linear", 768), ("mlp+mean", 1024), ("knn", 1280)])
def test_a_probe_finds_genres_that_planes_through_the_origin_separate(tmp_path, probe, features):
    corpus = embeddings(features, spread=0.1 if "mlp" in probe else 2.0)  # the others do not see the length
    epochs = {} if probe == "knn" else {"train.epochs": 8, "train.eval_every_epochs": 8}
    results = train(probe_config(probe, corpus, tmp_path, **epochs), tmp_path / "run")
    level = "bag" if "+" in probe else "clip"
    assert results["splits"]["validation"][level]["accuracy"] > 0.95
    assert results["splits"]["validation"]["clip_mean"]["accuracy"] > 0.95


def test_the_neighbours_of_the_probe_are_those_of_x_ares(tmp_path):
    """`KNN` of X-ARES, in NumPy: unit vectors, the 10 highest dot products, their softmax at temperature 0.07."""
    corpus = embeddings(16, noise=3.0)
    config = probe_config("knn", corpus, tmp_path)
    fitted = baselines.fit(baselines.make_estimator(config.baseline, 0), corpus, config.data.standardize)
    unit = corpus.clips / np.linalg.norm(corpus.clips, axis=1, keepdims=True)
    train_rows, rows = corpus.indices("train"), corpus.indices("validation")
    similarity = unit[rows] @ unit[train_rows].T
    nearest = np.argsort(-similarity, axis=1)[:, :10]
    weight = np.exp(np.take_along_axis(similarity, nearest, axis=1) / 0.07)
    votes = (weight / weight.sum(axis=1, keepdims=True))[..., None] * np.eye(3)[corpus.label[train_rows][nearest]]
    expected = votes.sum(axis=1)
    np.testing.assert_allclose(fitted.classifier.predict_proba(corpus.clips[rows]), expected, atol=1e-5)
    assert np.mean(expected.max(axis=1) < 0.9) > 0.2  # the weights matter


def test_a_distant_neighbour_has_a_finite_weight():
    weight = baselines.softmax_weights(np.array([[0.0, 0.07, 1e4], [1e4, 1e4, 1e4]]))
    np.testing.assert_allclose(weight, [[1, np.exp(-1), 0], [1, 1, 1]])
    knn = ConfigDict({"name": "knn", "weights": "distance"})
    assert baselines.make_estimator(knn, 0).weights == "distance"


@pytest.mark.parametrize("argument", ["knn+mean", "svm", "", "+mean"])
def test_what_is_no_probe_is_named(argument):
    with pytest.raises(UserError, match="is no probe"):
        load_config(f"{PROBE}:{argument}")
    with pytest.raises(UserError, match="is no encoder"):
        load_config(f"{PROBE}:mlp+median")
