"""Figures belong to the code that made them: other code is refused, and a finished run is left as it is."""

import functools
import json
import logging
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_corpus, small_config

from mgc_jax import modes
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.loading import load_model
from mgc_jax.models.classifier import split_model
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.probe import ChangedCodeError, require_same_scores
from mgc_jax.tables import runs

CHANGES = {"train.epochs": 2, "data.arrays.axes": "clip feature"}


@pytest.fixture
def config(tmp_path):
    config = small_config(tmp_path, make_corpus(clip_shape=(6,)), **CHANGES)
    config.model.encoder = {"name": "mlp", "hidden": (8,), "dropout": 0.0}
    return config


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name not in ("train.log", ".lock")
    }


def test_weights_under_changed_code_are_refused_everywhere_and_nothing_is_overwritten(tmp_path, config, monkeypatch):
    workdir, half = tmp_path / "run", tmp_path / "half"
    modes.train(config, workdir)
    modes.export(config, workdir)
    longer = config.copy_and_resolve_references()
    modes.train(longer, half)
    longer.train.epochs = 4
    before = contents(workdir), contents(half)
    meta = json.loads((workdir / "export" / "config.json").read_text())
    assert "sources " in meta["code"]
    assert np.shape(meta["probe"]) == (2, 3)
    monkeypatch.setattr(nnx, "relu", nnx.tanh)  # an edit of the encoder
    monkeypatch.setattr("mgc_jax.inference.code_version", lambda: "0.2.0, sources 0")
    for use in (
        lambda: modes.train(config, workdir), lambda: modes.evaluate(config, workdir),
        lambda: modes.export(config, workdir), lambda: modes.train(longer, half),
    ):  # fmt: skip
        with pytest.raises(ChangedCodeError, match=r"checkpoint of step \d+ in .* the code of the model has changed"):
            use()
    with pytest.raises(ChangedCodeError, match="the export in"):
        load_model(workdir / "export")
    assert (contents(workdir), contents(half)) == before


def test_tables_take_a_run_of_other_code_only_where_it_gives_the_same_scores(tmp_path, config, monkeypatch):
    modes.train(config, tmp_path / "run")
    monkeypatch.setattr(runs, "code_version", lambda: "0.2.0, sources 0")
    run = runs._read(tmp_path / "run")
    assert runs._is_of_this_code(tmp_path / "run", run)
    monkeypatch.setattr(nnx, "relu", nnx.tanh)
    assert not runs._is_of_this_code(tmp_path / "run", run)


def test_files_of_two_exports_are_not_taken_for_one_model(tmp_path, config):
    one, two = tmp_path / "one", tmp_path / "two"
    modes.train(config, one)
    config.seed = 1
    modes.train(config, two)
    folders = [modes.export(config, two)]
    config.seed = 0
    folders.append(modes.export(config, one))
    shutil.copy(folders[0] / "weights.safetensors", folders[1])
    with pytest.raises(UserError, match="its files are not those that were saved together"):
        load_model(folders[1])
    labels = json.loads((folders[0] / "labels.json").read_text())
    (folders[0] / "labels.json").write_text(json.dumps(labels[::-1]))
    with pytest.raises(UserError, match=r"labels\.json is not of this model, whose genres are Rock, Folk, Jazz"):
        load_model(folders[0])


def test_a_finished_run_shows_its_results_and_stays_as_it_is(tmp_path, config, capsys, caplog):
    caplog.set_level(logging.INFO, "mgc_jax")
    workdir = tmp_path / "run"
    modes.run("train", config, workdir)
    shown, before = capsys.readouterr().out, contents(workdir)
    modes.run("train", config, workdir)
    assert capsys.readouterr().out == shown
    assert "nothing was computed again" in caplog.text
    assert contents(workdir) == before
    modes.evaluate(config, workdir)  # asked for
    assert contents(workdir)["results.json"] != before["results.json"]
    assert modes.train(config, workdir, test=True)["splits"].keys() == {"train", "validation", "test"}
    before = contents(workdir)
    assert modes.train(config, workdir)["test_evaluations"] == 1
    assert contents(workdir) == before
    (workdir / "predictions.parquet").unlink()  # then it is not finished
    modes.train(config, workdir)
    assert (workdir / "predictions.parquet").is_file()


def test_results_of_other_weights_are_not_shown(tmp_path, config):
    workdir = tmp_path / "run"
    before = modes.train(config, workdir)
    shutil.rmtree(workdir / "checkpoints")
    stale = {**before, "weights": 1}  # as if something else had been computed then
    (workdir / "results.json").write_text(json.dumps(stale))
    again = modes.train(config, workdir)
    assert again["weights"] == before["weights"] != 1
    assert json.loads((workdir / "results.json").read_text())["weights"] == before["weights"]


def test_weights_that_the_code_has_no_place_for_say_which_code_saved_them(tmp_path, config, monkeypatch, caplog):
    modes.train(config, tmp_path / "run")
    for module in ("mgc_jax.training.checkpoint", "mgc_jax.tables.runs"):
        monkeypatch.setattr(f"{module}.code_version", lambda: "0.2.0, sources 0")
    monkeypatch.setitem(ENCODERS, "mlp", Wider)
    with pytest.raises(UserError, match=r"saved by 0\.1\..*; this is 0\.2\.0, sources 0, which may have"):
        modes.evaluate(config, tmp_path / "run")
    assert not runs._is_of_this_code(tmp_path / "run", runs._read(tmp_path / "run"))
    assert "The run is made again, in another folder" in caplog.text


class Wider(ENCODERS["mlp"]):
    """An edit of the encoder: one more weight."""

    @functools.wraps(ENCODERS["mlp"].__init__)
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.scale = nnx.Param(jnp.ones(()))


def test_finished_baselines_and_cross_validations_stay_as_they_are_too(tmp_path, config, caplog):
    caplog.set_level(logging.INFO, "mgc_jax")
    folds = config.copy_and_resolve_references()
    folds.data.folds = 2
    modes.cross_validate(folds, tmp_path / "folds")
    config.baseline.name = "lr"
    modes.train(config, tmp_path / "lr")
    folders = [tmp_path / "lr", tmp_path / "folds", tmp_path / "folds" / "fold-0", tmp_path / "folds" / "fold-1"]
    before = [contents(folder) for folder in folders]
    modes.cross_validate(folds, tmp_path / "folds")
    modes.train(config, tmp_path / "lr")
    assert [contents(folder) for folder in folders] == before
    assert caplog.text.count("nothing was computed again") == 4


def test_rounding_is_no_change_of_the_code():
    saved = [[-0.5, -3.0], [-8.0, -0.001]]
    args = {"what": "it", "code": ("", "0.2")}
    off = [[score * 1.0005 + 0.0005 for score in row] for row in saved]
    require_same_scores(saved, off, coarse=False, **args)
    require_same_scores([], off, coarse=False, **args)  # of an early version
    off[1][0] += 0.05
    require_same_scores(saved, off, coarse=True, **args)
    with pytest.raises(ChangedCodeError, match=r"by up to 0\.047.* a version that did not record itself, and is 0\.2"):
        require_same_scores(saved, off, coarse=False, **args)


def test_the_probe_sees_the_pooling_and_not_the_logit_adjustment(tmp_path, config):
    corpus = make_corpus(clip_shape=(6,))
    one = Experiment(config, tmp_path, corpus=corpus)
    config.eval.logit_adjustment = 1.0
    adjusted = Experiment(config, tmp_path, corpus=corpus)
    state = one.params, one.batch_stats
    scores = np.array(one.probe(*state))
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores, adjusted.probe(*state))
    _, params, _ = split_model(nnx.merge(one.graph, *state))
    params["pooling"]["views"]["queries"] = -params["pooling"]["views"]["queries"]
    changed = np.array(one.probe(params, one.batch_stats))
    np.testing.assert_allclose(changed[0], scores[0], rtol=1e-6)  # a bag of one: its clip has all the weight
    assert np.abs(changed[1] - scores[1]).max() > 1e-3
