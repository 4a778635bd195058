import json
import os
import shutil

import numpy as np
import pytest
from helpers import make_corpus, save_arrays, small_config

from mgc_jax import modes
from mgc_jax.config.checks import validate
from mgc_jax.config.options import encoder_options
from mgc_jax.data.open import open_corpus
from mgc_jax.data.splits import cross_validation
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions, save_predictions
from mgc_jax.experiment import Experiment
from mgc_jax.papers.fma import baseline
from mgc_jax.report.finished_run import read_run


@pytest.fixture
def config(tmp_path):
    config = baseline("lr", "")
    config.update_from_flattened_dict(save_arrays(make_corpus(num_clips=200, clip_shape=(6,)), tmp_path))
    config.data.arrays.axes = "clip feature"
    config.data.bag_key = "pair"
    config.data.folds = 3
    validate(config)
    return config


def test_cross_validation_scores_every_clip_by_a_model_that_never_saw_its_artist(tmp_path, config, capsys):
    results = modes.cross_validate(config, tmp_path / "run")
    predictions = load_predictions(tmp_path / "run" / PREDICTIONS_FILE)
    corpus = open_corpus(config.data)
    outside_test = corpus.track_id[corpus.split != "test"]
    np.testing.assert_array_equal(np.sort(predictions.track_id), np.sort(outside_test))
    assert predictions.splits == ["validation"]
    for fold in range(3):
        dealt = cross_validation(corpus, 3, fold)
        of_fold = dealt.track_id[dealt.indices("validation")]
        np.testing.assert_array_equal(np.sort(predictions.track_id[predictions.fold == fold]), np.sort(of_fold))
        alone = json.loads((tmp_path / "run" / f"fold-{fold}" / "results.json").read_text())
        part = predictions.take(predictions.fold == fold)
        right = part.predicted("clip") == part.label
        assert alone["splits"]["validation"]["clip"]["accuracy"] == pytest.approx(np.mean(right))
    right = predictions.predicted("clip") == predictions.label
    assert results["splits"]["validation"]["clip"]["accuracy"] == pytest.approx(np.mean(right))
    np.testing.assert_allclose(predictions.train_clips.sum(), len(outside_test) * 2 / 3)
    assert results["folds"] == 3
    assert "LR on arrays, 3 folds grouped by artist" in capsys.readouterr().out
    assert modes.cross_validate(config, tmp_path / "run")["splits"] == results["splits"]


def test_two_folds_that_scored_the_same_clips_are_not_pooled(tmp_path, config, monkeypatch):
    modes.cross_validate(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "fold-1")
    shutil.copytree(tmp_path / "run" / "fold-0", tmp_path / "run" / "fold-1")
    pooled = (tmp_path / "run" / "results.json").read_bytes()
    monkeypatch.setattr(modes, "train", lambda _, folder: json.loads((folder / "results.json").read_text()))
    with pytest.raises(UserError, match=r"fold-0 and fold-1 in .* both scored track"):
        modes.cross_validate(config, tmp_path / "run")
    assert (tmp_path / "run" / "results.json").read_bytes() == pooled


def test_a_report_of_other_results_is_written_again_whatever_its_date(tmp_path, config, caplog):
    caplog.set_level("INFO", "mgc_jax")
    config.data.folds = 0
    report = tmp_path / "run" / "report.html"
    modes.run("train", config, tmp_path / "run")
    first = report.read_bytes()
    os.utime(report, (2**32, 2**32))  # of a clock that was wrong
    modes.run("train", config, tmp_path / "run")
    assert report.stat().st_mtime == 2**32
    config.data.bag_key = "published"
    modes.run("eval", config, tmp_path / "run")
    assert report.read_bytes() != first


def test_the_scores_of_a_run_evaluated_alone_are_no_run(tmp_path, config):
    config.data.folds = 0
    modes.train(config, tmp_path / "run")
    scores = load_predictions(tmp_path / "run" / PREDICTIONS_FILE)
    of_model = scores.info | {"model": "M", "best_step": 3, "weights": 7, "bag_key": "pair"}
    save_predictions(scores.replace(info=of_model), tmp_path / "scores.parquet")
    modes.evaluate_predictions([tmp_path / "scores.parquet"], None, tmp_path / "alone")
    alone = read_run(tmp_path / "alone")
    assert alone.results["model"] == "M"
    assert not {"best_step", "weights"} & alone.results.keys()
    assert (tmp_path / "alone" / "report.html").exists()


def test_the_scores_of_several_runs_are_averaged(tmp_path, config, capsys):
    config.data.folds = 0
    for number, strength in enumerate((0.001, 1.0)):
        config.baseline.C = strength
        modes.train(config, tmp_path / str(number))
    folders = [tmp_path / "0", tmp_path / "1"]
    modes.evaluate_predictions(folders, None, tmp_path / "both")
    assert "the average of 2 models' scores: 0 + 1" in capsys.readouterr().out
    parts = [load_predictions(folder / PREDICTIONS_FILE).of_split("validation") for folder in folders]
    found = load_predictions(tmp_path / "both" / PREDICTIONS_FILE).of_split("validation")
    np.testing.assert_allclose(found.clip_scores, np.mean([part.clip_scores for part in parts], axis=0), atol=1e-5)
    assert read_run(tmp_path / "both").results["model"] == "0 + 1"


@pytest.mark.parametrize("selection", ["inner", "scored"])
def test_a_fold_is_looked_at_once_by_a_model_that_was_selected_on_other_clips(tmp_path, monkeypatch, selection):
    corpus = make_corpus(num_clips=200, clip_shape=(6,))
    changes = {"data.folds": 2, "data.fold_selection": selection, "data.arrays.axes": "clip feature"}
    config = small_config(tmp_path, corpus, **changes, **{"train.epochs": 2, "train.log_every_steps": 100})
    config.model.encoder = encoder_options("mlp", hidden=(4,))
    scored, predict = [], Experiment.predict

    def noted(experiment, split, *weights):
        predictions = predict(experiment, split, *weights)
        scored.append((split, set(predictions.track_id.tolist())))
        return predictions

    monkeypatch.setattr(Experiment, "predict", noted)
    results = modes.train(config, tmp_path / "run")
    split = "inner validation" if selection == "inner" else "validation"
    assert [name for name, _ in scored] == [split, split, "train", "validation"]
    assert (scored[0][1] & scored[-1][1] == set()) == (selection == "inner")
    assert results["selected_by"] == f"{split}/bag/micro_ap"


def test_select_last_scores_a_fold_once_after_training_on_all_clips_of_the_others(tmp_path):
    corpus = make_corpus(num_clips=200, clip_shape=(6,))
    changes = {"data.folds": 2, "data.arrays.axes": "clip feature", "train.select": "last", "train.epochs": 2}
    config = small_config(tmp_path, corpus, **changes)
    config.model.encoder = encoder_options("mlp", hidden=(4,))
    results = modes.train(config, tmp_path / "run")
    assert (results["selected_by"], results["best_step"]) == ("last step", results["last_step"])
    splits = results["splits"]
    assert set(splits) == {"train", "validation"}
    assert splits["train"]["clips"] + splits["validation"]["clips"] == (corpus.split != "test").sum()
    config.optimizer.plateau_factor = 0.5
    with pytest.raises(UserError, match=r"train\.select=last scores none"):
        modes.train(config, tmp_path / "other")


def test_baselines_are_fitted_on_what_selects_a_checkpoint(tmp_path, config):
    """They choose nothing: their scores are those of a fold that sets no clip aside."""
    modes.cross_validate(config, tmp_path / "run")
    of_fold = json.loads((tmp_path / "run" / "fold-0" / "results.json").read_text())
    inner = modes.train(config, tmp_path / "inner")  # one fold alone is the same
    assert (inner["splits"], inner["fingerprint"]) == (of_fold["splits"], of_fold["fingerprint"])
    config.data.fold_selection = "scored"
    scored = modes.train(config, tmp_path / "scored")
    assert inner["splits"]["validation"] == scored["splits"]["validation"]
    assert inner["fingerprint"] != scored["fingerprint"]


def test_cross_validation_needs_folds_and_takes_them_all(tmp_path, config):
    config.data.fold = 1
    with pytest.raises(UserError, match=r"leave out --config.data.fold=1"):
        modes.cross_validate(config, tmp_path / "run")
    config.data.fold, config.data.folds = 0, 0
    with pytest.raises(UserError, match=r"--config.data.folds=5, for instance"):
        modes.cross_validate(config, tmp_path / "run")


def test_a_cross_validation_and_a_single_run_do_not_share_a_folder(tmp_path, config):
    results = modes.cross_validate(config, tmp_path / "run")
    for job in (modes.train, modes.evaluate):
        with pytest.raises(UserError, match=r"holds a cross-validation: give --mode cross_validate"):
            job(config, tmp_path / "run")
    config.data.folds = 4
    with pytest.raises(UserError, match=r"data.folds: 3 there, 4 now"):
        modes.cross_validate(config, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["folds"] == 3
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == results
    modes.train(config, tmp_path / "single")
    with pytest.raises(UserError, match=r"holds a single run, not a cross-validation"):
        modes.cross_validate(config, tmp_path / "single")
    folds = results["per_fold"]["clip"]["accuracy"]
    assert len(folds) == 3
    assert min(folds) <= results["splits"]["validation"]["clip"]["accuracy"] <= max(folds)


def test_an_svm_whose_names_agree_with_its_scores_on_some_splits(tmp_path, config):
    """Regression: the file of such a split lists no names."""
    config.baseline = type(config)({"name": "svm"})
    config.data.folds = 0
    tested = modes.train(config, tmp_path / "run", test=True)
    assert modes.evaluate(config, tmp_path / "run")["splits"] == tested["splits"]
    config.data.folds = 3
    assert modes.cross_validate(config, tmp_path / "folds")["folds"] == 3
