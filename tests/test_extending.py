"""The examples of docs/extending.md, as they are written there."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import make_corpus, save_arrays
from sklearn.metrics import cohen_kappa_score

from mgc_jax.config.checks import validate
from mgc_jax.config.keys import default
from mgc_jax.data import splits
from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import ArtistBootstrap
from mgc_jax.models import encoders, pooling
from mgc_jax.modes import train
from mgc_jax.training import optimizer
from tfds_fma.representations import registry
from tfds_fma.representations.base import AudioRepresentation

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def load(kind, folder, monkeypatch, name):
    """Writes the block of the document to a file and imports it, as the reader would."""
    (code,) = re.findall(rf"```python {kind}\n(.*?)```", TEXT, re.DOTALL)
    path = folder / f"{name.replace('.', '_')}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def register(module, entries, monkeypatch, **names):
    """Adds to a registry the line `"NAME": VALUE,` of the document that holds what a module defines."""
    defined = {name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    for name, value in re.findall(r'^    "(\w+)": (.+),$', TEXT, re.MULTILINE):
        if defined & set(re.findall(r"\w+", value)):
            monkeypatch.setitem(entries, name, eval(value, vars(module) | names))
            return name
    raise AssertionError(f"the page registers nothing of {defined}")


def test_encoder_pooling_and_configuration_train(tmp_path, corpus, monkeypatch):
    for kind, registry_of, package in (
        ("encoder", encoders.ENCODERS, "mgc_jax.models.encoders"),
        ("pooling", pooling.POOLINGS, "mgc_jax.models.pooling"),
    ):
        (path,) = re.findall(rf"Write `{package.replace('.', '/')}/(\w+)\.py`", TEXT)
        register(load(kind, tmp_path, monkeypatch, f"{package}.{path}"), registry_of, monkeypatch)
    config = load("config", tmp_path, monkeypatch, "my_config").get_config()
    config.update_from_flattened_dict(save_arrays(corpus, tmp_path))
    config.data.bag_key = "pair"
    config.batch.clips = 64
    config.optimizer.learning_rate = 0.03  # the test has 20 steps
    validate(config)
    results = train(config, tmp_path / "run")
    assert results["model"] == "BAND-STATISTICS + MIL (loudest) (sharpness=2.0)"
    assert results["splits"]["train"]["bag"]["accuracy"] > results["splits"]["train"]["majority_accuracy"] + 0.1


def test_metric(tmp_path, monkeypatch):
    module = load("metric", tmp_path, monkeypatch, "my_metric")
    name = register(module, metrics.METRICS, monkeypatch, Metric=metrics.Metric)
    rng = np.random.default_rng(0)
    label, log_scores = rng.integers(0, 4, 200), rng.normal(size=(200, 4))
    log_scores[np.arange(200), label] += 1
    value = metrics.genre_metrics(label, log_scores)[name]
    assert value == pytest.approx(cohen_kappa_score(label, log_scores.argmax(axis=1)))
    samples = ArtistBootstrap(rng.integers(0, 40, 200).astype(str)).metrics(label, log_scores)[name]
    assert np.quantile(samples, 0.025) < value < np.quantile(samples, 0.975)
    config = default()
    config.train.select = f"bag/{name}"
    validate(config)


def test_representation(tmp_path, monkeypatch):
    (path,) = re.findall(r"Write\s+`tfds_fma/representations/(\w+)\.py`", TEXT)
    module = load("representation", tmp_path, monkeypatch, f"tfds_fma.representations.{path}")
    ((row, name),) = re.findall(r'^(Mfcc\("(\w+)", .*\))$', TEXT, re.MULTILINE)
    made = eval(row, vars(module))
    monkeypatch.setitem(registry.REPRESENTATIONS, name, made)
    assert isinstance(registry.get_representation(name), AudioRepresentation)
    audio = np.random.default_rng(0).normal(size=made.samples).astype(np.float32)
    computed = made.compute(audio)
    assert computed.shape == made.shape == tuple(map(int, re.search(r"(\d+)x(\d+)", name).groups()))
    assert computed.dtype == made.dtype


def test_split(tmp_path, monkeypatch):
    module = load("split", tmp_path, monkeypatch, "my_split")
    name = register(module, splits.SPLITS, monkeypatch)
    config = default()
    config.data.split = name
    corpus = make_corpus(600)
    dealt = splits.find_split(config.data)(corpus, config.data)
    assert set(dealt.split) == {"train", "validation", "test"}
    assert np.mean(dealt.split == "train") == pytest.approx(0.8, abs=0.1)
    for album in set(corpus.album):
        assert len(set(dealt.split[corpus.album == album])) == 1


def test_schedule(tmp_path, monkeypatch):
    name = register(load("schedule", tmp_path, monkeypatch, "my_schedule"), optimizer.SCHEDULES, monkeypatch)
    config = default()
    config.optimizer.update(schedule=name, learning_rate=0.1, warmup_epochs=1.0)
    schedule = optimizer.make_schedule(config.optimizer, epochs=5, steps_per_epoch=10)
    np.testing.assert_allclose([schedule(step) for step in (0, 10, 50)], [0, 0.1, 0.01], rtol=1e-6)
