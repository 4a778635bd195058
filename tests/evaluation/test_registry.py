"""A metric is one entry of METRICS: it is then in the results, the terminal, the pages, each fold, and selectable."""

import json

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, log_loss
from test_predictions import make_predictions

from mgc_jax import modes
from mgc_jax.config import keys
from mgc_jax.errors import UserError
from mgc_jax.evaluation.metrics import METRICS, Metric, check_selection, genre_metrics
from mgc_jax.evaluation.results import finish
from mgc_jax.report.comparison import write_comparison
from mgc_jax.report.run_page import write_report


def kappa(counts):
    """Agreement beyond chance (Cohen 1960), of confusion matrices [..., genre, genre]."""
    clips = counts.sum(axis=(-2, -1))
    observed = np.diagonal(counts, axis1=-2, axis2=-1).sum(axis=-1) / clips
    expected = (counts.sum(axis=-1) * counts.sum(axis=-2)).sum(axis=-1) / clips**2
    return (observed - expected) / (1 - expected)


@pytest.fixture
def with_kappa(monkeypatch):
    monkeypatch.setitem(METRICS, "kappa", Metric("Cohen's kappa", kappa))


@pytest.mark.usefixtures("with_kappa")
def test_a_new_metric_is_seen_everywhere(tmp_path, capsys):
    runs = []
    for name, seed in (("first", 0), ("second", 1)):
        (tmp_path / name).mkdir()
        predictions = make_predictions(clips=60, seed=seed)
        runs.append(finish(predictions, {"model": "M", "fingerprint": "f"}, tmp_path / name, "a model"))
    second = runs[1]["splits"]["validation"]
    for level in ("clip", "clip_mean", "bag"):
        expected = cohen_kappa_score(predictions.label, predictions.predicted(level))
        assert second[level]["kappa"] == pytest.approx(expected)
        low, high = second["intervals"][level]["kappa"]
        assert low < expected < high
    assert json.loads((tmp_path / "second" / "results.json").read_text())["splits"]["validation"] == second
    assert "Cohen's kappa" in capsys.readouterr().out
    page = write_report(tmp_path / "second").read_text()
    assert page.count("Cohen&#39;s kappa</th>") == 2  # results, and what bag and pooling add
    assert f"{second['bag']['kappa']:.3f}" in page
    compared = write_comparison([tmp_path / "first", tmp_path / "second"], tmp_path).read_text()
    assert compared.count("Cohen&#39;s kappa</th>") == 2  # results, and paired differences
    check_selection("bag/kappa")


@pytest.mark.usefixtures("with_kappa")
def test_a_new_metric_is_in_every_fold(tmp_path, monkeypatch):
    """The runs of the folds are those of another test: here they leave their predictions."""

    def train(config, folder, *, test=False):
        folder.mkdir(exist_ok=True)
        fold = config.data.fold
        scores = make_predictions(seed=fold, track_id=np.arange(30) + 100 * fold)
        return finish(scores, {"model": "M", "corpus": "c", "seconds": {}}, folder, "")

    monkeypatch.setattr(modes, "train", train)
    config = keys.default()
    config.data.folds = 2
    per_fold = modes.cross_validate(config, tmp_path / "run")["per_fold"]
    expected = [genre_metrics(make_predictions(seed=i).label, make_predictions(seed=i).clip_scores) for i in (0, 1)]
    assert per_fold["clip"]["kappa"] == [values["kappa"] for values in expected]
    assert list(per_fold["bag"]) == list(METRICS)


def test_a_metric_of_scores_needs_no_resampled_form(tmp_path, monkeypatch):
    monkeypatch.setitem(
        METRICS,
        "log_loss",
        Metric(
            "log loss",
            from_scores=lambda label, x: log_loss(label, np.exp(x), labels=range(3)),
            higher_is_better=False,
        ),
    )
    (tmp_path / "run").mkdir()
    results = finish(make_predictions(), {"model": "M"}, tmp_path / "run", "a model")["splits"]["validation"]
    assert results["clip"]["log_loss"] > 0
    assert "log_loss" not in results["intervals"]["clip"]
    page = write_report(tmp_path / "run").read_text()
    assert page.count("log loss<small>lower is better</small></th>") == 1  # no paired difference without resamples
    with pytest.raises(UserError, match="bag/log_loss"):
        check_selection("bag/log_loss")


@pytest.mark.parametrize("select", ["bag/f1", "bag/ece", "view/accuracy", "accuracy", ""])
def test_an_impossible_selection_is_refused(select):
    with pytest.raises(
        UserError, match=r"config\.train\.select=.*write <level>/<metric> with a level of clip, clip_mean"
    ):
        check_selection(select)


def test_the_selection_is_checked_before_the_corpus_is_read(tmp_path):
    from mgc_jax.experiment import Experiment

    config = keys.default()
    config.data.corpus, config.data.data_dir, config.train.select = "fma_small", str(tmp_path / "none"), "bag/f1"
    config.data.folds = 2
    config.model.encoder.name, config.model.pooling.name = "crnn", "mean"
    with pytest.raises(UserError, match=r"config\.train\.select='bag/f1' is invalid"):
        Experiment(config, tmp_path)
    with pytest.raises(UserError, match=r"config\.train\.select='bag/f1' is invalid"):
        modes.cross_validate(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_metric_has_one_definition():
    with pytest.raises(ValueError, match="either from_confusion or from_scores"):
        Metric("nothing")
