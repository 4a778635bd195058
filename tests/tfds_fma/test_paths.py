"""Paths as people type them, wherever a path is taken."""

import pytest
from helpers import make_corpus, small_config

import mgc_jax
from mgc_jax import modes
from mgc_jax.data.open import open_corpus
from mgc_jax.evaluation.predictions_file import load_predictions
from mgc_jax.report.finished_run import read_run
from tfds_fma.demo import make_demo_tree
from tfds_fma.errors import UserError
from tfds_fma.paths import local_path
from tfds_fma.prepare import prepare
from tfds_fma.source.arrays import ArrayFiles
from tfds_fma.storage import layout


def test_the_home_folder_is_meant_and_colons_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/runs/x") == tmp_path / "runs" / "x"
    assert str(local_path("runs/12:30/x")) == "runs/12:30/x"
    assert str(local_path("C:/runs")) == "C:/runs"
    with pytest.raises(UserError, match="the home folder of that user is not known"):
        local_path("~nobody-of-this-name/x")


def test_a_run_in_the_home_folder(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path)
    config = small_config(home, make_corpus(clip_shape=(6,)), **{"data.arrays.axes": "clip feature"})
    config.baseline.name = "lr"
    config.data.arrays.table, config.data.arrays.clips = "~/tracks.csv", "~/clips.npz"
    modes.train(config, "~/runs/lr")
    assert read_run("~/runs/lr").results["model"] == "LR"
    assert (home / "runs" / "lr" / "results.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://bucket/x", "https://example.org/x", "gs:/bucket/x"])
def test_urls_are_refused_wherever_a_path_is_taken(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    config = mgc_jax.load_config("matt_crnn_tf")
    corpus = config.copy_and_resolve_references().data
    corpus.corpus, corpus.data_dir = "fma_medium", url
    demo = config.copy_and_resolve_references().data
    demo.corpus, demo.data_dir = "demo", url
    for use in (
        lambda: modes.evaluate(config, url), lambda: modes.train(config, url), lambda: modes.export(config, url),
        lambda: mgc_jax.load_model(url), lambda: mgc_jax.load_config(url), lambda: load_predictions(url),
        lambda: open_corpus(corpus), lambda: open_corpus(demo), lambda: ArrayFiles(url), lambda: read_run(url),
        lambda: layout.version_dir(url, "small", "mel_1360x96"), lambda: make_demo_tree(url),
        lambda: prepare(url, "small", "mel_1360x96", tmp_path), lambda: prepare(tmp_path, "small", "mel_1360x96", url),
    ):  # fmt: skip
        with pytest.raises(UserError, match="files and folders must be on this machine"):
            use()
    assert not list(tmp_path.iterdir())
