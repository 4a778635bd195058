import json

import numpy as np
import pytest
from test_predictions import make_predictions

from mgc_jax.evaluation import results as results_module
from mgc_jax.evaluation.metrics import genre_metrics
from mgc_jax.evaluation.predictions import concatenate
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions
from mgc_jax.evaluation.results import (
    finish,
    format_table,
    level_metrics,
    rare_limits,
    rare_lists,
    show_earlier,
    summaries,
    summary,
)

COUNTS = {"train_clips": np.array([50.0, 150, 5000]), "train_clips_outside_small": np.array([50.0, 90, 4200])}
METRICS = {"accuracy": 0.5, "macro_f1": 0.5, "micro_ap": 0.5}
ABOUT = {"model": "M", "fingerprint": "f", "best_step": 3}


def test_every_level_has_its_metrics():
    predictions = make_predictions(clips=60, **COUNTS)
    result = summary(predictions)
    for level in ("clip", "clip_mean", "bag"):
        expected = genre_metrics(predictions.label, predictions.levels[level])
        assert {name: result[level][name] for name in expected} == expected
        for name in ("accuracy", "macro_f1", "micro_ap"):
            low, high = result["intervals"][level][name]
            assert low < result[level][name] < high
    assert (result["clips"], result["bags"], result["artists"]) == (60, 20, 10 + 3)
    assert result["majority_accuracy"] == np.mean(predictions.label == 2)
    assert level_metrics(predictions).items() <= result.items()
    json.dumps(result, allow_nan=False)


def test_named_genres_count_for_accuracy_and_scores_for_average_precision():
    predictions = make_predictions()
    predicted = predictions.replace(predicted_genres={"clip": predictions.label})
    assert summary(predicted)["clip"]["accuracy"] == 1.0
    assert summary(predicted)["clip"]["micro_ap"] == summary(predictions)["clip"]["micro_ap"]
    assert summary(predicted)["clip_mean"] == summary(predictions)["clip_mean"]


def test_paper_accuracy_weighs_bags_by_size_and_trusts_the_first_label():
    predictions = make_predictions()
    offsets = predictions.offsets
    right = sum(
        offsets[b + 1] - offsets[b]
        for b in range(len(offsets) - 1)
        if predictions.bag_scores[offsets[b]].argmax() == predictions.label[offsets[b]]
    )
    assert level_metrics(predictions)["bag"]["paper_accuracy"] == pytest.approx(right / 30)


def test_clips_that_are_alone_in_their_bag():
    predictions = make_predictions().take(np.array([0, 1, 3, 7, 8, 10]))  # bags of 2, 1, 2 and 1
    right = predictions.predicted("clip") == predictions.label
    assert summary(predictions)["alone"] == {"clips": 2, "accuracy": np.mean(right[[2, 5]])}
    assert summary(make_predictions())["alone"] == {"clips": 0, "accuracy": None}


def test_rare_genres_are_found_from_the_counts():
    predictions = make_predictions(clips=90, **COUNTS)
    assert rare_lists(predictions, (100, 200)) == {
        "<100": (0,), "<200": (0, 1), "<100 (paper)": (0, 1), "<200 (paper)": (0, 1)
    }  # fmt: skip
    assert list(rare_lists(make_predictions(train_clips=COUNTS["train_clips"]), (100, 200))) == ["<100", "<200"]
    assert rare_limits(predictions) == (100, 200)
    assert rare_limits(make_predictions(info={"corpus": "demo"})) == (5, 8)
    top = summary(predictions)["top_k"]["clip"]["<200"]
    rare = predictions.label < 2
    order = np.argsort(-predictions.clip_scores[rare], axis=1)
    assert top["clips"] == rare.sum()
    assert top["2"] == pytest.approx(np.mean((order[:, :2] == predictions.label[rare, None]).any(axis=1)))
    low, high = top["intervals"]["2"]
    assert 0 <= low <= top["2"] <= high <= 1
    frequency = summary(predictions)["frequency"]["clip"]
    assert {part: values["genres"] for part, values in frequency.items()} == {
        "head": ["Rock"], "mid": [], "tail": ["Old-Time / Historic", "Jazz"]
    }  # fmt: skip
    assert frequency["mid"]["accuracy"] is None


def test_results_remember_the_test_split_and_count_looks_at_it(tmp_path, capsys):
    validation, test = make_predictions(**COUNTS), make_predictions("test", seed=5, **COUNTS)
    first = finish(validation, ABOUT, tmp_path, "a model")
    assert first["test_evaluations"] == 0
    assert set(first["splits"]) == {"validation"}
    second = finish(concatenate([validation, test]), ABOUT, tmp_path, "a model")
    assert second["test_evaluations"] == 1
    third = finish(validation, ABOUT, tmp_path, "a model")
    assert third["test_evaluations"] == 1
    assert third["splits"] == second["splits"]
    assert load_predictions(tmp_path / PREDICTIONS_FILE).splits == ["validation", "test"]
    assert json.loads((tmp_path / "results.json").read_text()) == third
    (tmp_path / PREDICTIONS_FILE).write_bytes(b"PAR1")  # damaged: the results stay, without scores
    without = finish(validation, ABOUT, tmp_path, "a model")
    assert without["splits"] == second["splits"]
    assert without["test_evaluations"] == 1
    assert load_predictions(tmp_path / PREDICTIONS_FILE).splits == ["validation"]
    for changed in ({"best_step": 9}, {"fingerprint": "other"}, {"logit_adjustment": 1.0}):  # not the same scores
        again = finish(concatenate([validation, test]), ABOUT, tmp_path, "a model")
        other = finish(validation, ABOUT | changed, tmp_path, "a model")
        assert set(other["splits"]) == {"validation"}
        assert other["test_evaluations"] == again["test_evaluations"]
    assert other["test_evaluations"] == 4
    finish(test, ABOUT, tmp_path, "a model")
    assert set(finish(validation, ABOUT, tmp_path, "a model", keep_test=False)["splits"]) == {"validation"}
    assert "clip mean" in capsys.readouterr().out


FULL = ABOUT | {"weights": 7, "logit_adjustment": 0.0, "bag_key": "pair"}


def test_an_interruption_leaves_no_mixture(tmp_path, monkeypatch, caplog):
    """The scores are written once all is computed; where the results then fail, both say of what they are."""
    validation, test = make_predictions(**COUNTS), make_predictions("test", seed=5, **COUNTS)
    both = concatenate([validation, test])
    finish(both, FULL, tmp_path, "a model")
    before = (tmp_path / PREDICTIONS_FILE).read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    changed = FULL | {"logit_adjustment": 4.0}
    for step in ("summaries", "write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(results_module, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                finish(both, changed, tmp_path, "a model")
        same = (tmp_path / PREDICTIONS_FILE).read_bytes() == before
        assert same == (step == "summaries")
        shown = show_earlier(FULL, tmp_path, "a model", test=True)
        assert (shown is not None) == same
    assert "another evaluation" in caplog.text
    again = finish(validation, FULL, tmp_path, "a model")  # whose results on test are there, but not the scores
    assert load_predictions(tmp_path / PREDICTIONS_FILE).splits == ["validation"]
    assert again["splits"].keys() == {"validation", "test"}
    assert again["splits"]["test"] == summaries(both)["test"]


def test_the_test_scores_that_stay_are_those_of_the_weights(tmp_path, caplog):
    validation, test = make_predictions(**COUNTS), make_predictions("test", seed=5, **COUNTS)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for folder, about, part in ((ours, FULL, test), (theirs, FULL | {"weights": 8}, make_predictions("test", seed=9))):
        folder.mkdir()
        finish(concatenate([validation, part]), about, folder, "a model")
    kept = json.loads((ours / "results.json").read_text())["splits"]["test"]

    scores, results = (ours / PREDICTIONS_FILE).read_bytes(), (ours / "results.json").read_bytes()
    (ours / PREDICTIONS_FILE).write_bytes((theirs / PREDICTIONS_FILE).read_bytes())
    assert show_earlier(FULL, ours, "a model", test=True) is None
    assert finish(validation, FULL, ours, "a model")["splits"]["test"] == kept  # without the scores of another model
    assert load_predictions(ours / PREDICTIONS_FILE).splits == ["validation"]

    (ours / PREDICTIONS_FILE).write_bytes(scores)
    (ours / "results.json").write_bytes((theirs / "results.json").read_bytes())
    assert finish(validation, FULL, ours, "a model")["splits"]["test"] == kept  # the scores say whose

    (ours / "results.json").write_bytes(results)
    caplog.clear()
    assert "test" not in finish(validation, FULL | {"weights": 9}, ours, "a model")["splits"]
    assert "are left out; --test" in caplog.text


@pytest.mark.parametrize(("saved", "stays"), [(None, True), (0.0, True), (4.0, False)])
def test_results_of_before_the_logit_adjustment_was_recorded(tmp_path, saved, stays):
    """It is that of the configuration."""
    validation, test = make_predictions(**COUNTS), make_predictions("test", seed=5, **COUNTS)
    finish(concatenate([validation, test]), ABOUT, tmp_path, "a model")
    if saved is not None:
        (tmp_path / "config.json").write_text(json.dumps({"eval": {"logit_adjustment": saved}}))
    again = finish(validation, FULL, tmp_path, "a model")
    assert ("test" in again["splits"]) == stays
    assert again["test_evaluations"] == 1


def test_results_of_older_versions_always_looked_at_the_test_split(tmp_path):
    old = ABOUT | {"splits": {"validation": {}, "test": {"clips": 30, "bags": 10, "clip": METRICS}}}
    (tmp_path / "results.json").write_text(json.dumps(old))
    results = finish(make_predictions(**COUNTS), ABOUT, tmp_path, "a model")
    assert results["test_evaluations"] == 1
    assert results["splits"]["test"] == old["splits"]["test"]
    (tmp_path / "results.json").write_text(json.dumps(ABOUT | {"splits": None}))
    assert finish(make_predictions(**COUNTS), ABOUT, tmp_path, "a model")["test_evaluations"] == 0


def test_intervals_and_parts_are_of_the_genres_that_the_model_names():
    predictions = make_predictions(clips=60, **COUNTS)
    right = summary(predictions.replace(predicted_genres={"clip": predictions.label}))
    assert right["intervals"]["clip"]["accuracy"] == [1.0, 1.0]
    assert right["frequency"]["clip"]["head"]["accuracy"] == 1.0
    assert summary(predictions)["frequency"]["clip"]["head"]["accuracy"] < 1


@pytest.mark.parametrize("artists", [1, 2, 9, 10])
def test_few_artists_have_no_interval(artists):
    """One has no width at all: 0.000 to 0.000 would be false certainty."""
    predictions = make_predictions(clips=60, artist=(np.arange(60) // 3 % artists).astype(str), **COUNTS)
    rare = predictions.replace(artist=np.where(predictions.label == 0, "X", np.arange(60).astype(str)))
    assert summary(rare)["top_k"]["clip"]["<100"]["intervals"]["2"] == [None, None]  # the rare genre's only artist
    assert None not in summary(rare)["intervals"]["clip"]["accuracy"]
    result = summary(predictions)
    table = format_table({"train": level_metrics(predictions), "validation": result})
    if artists < 10:
        assert all(bounds == [None, None] for level in result["intervals"].values() for bounds in level.values())
        assert table.count(" - ") == 3
        assert "(-: fewer than 10 artists, too few for an interval)" in table
    else:
        assert all(None not in bounds for level in result["intervals"].values() for bounds in level.values())
        assert " - " not in table
    json.dumps(result, allow_nan=False)


def test_the_table_warns_of_genres_that_one_artist_carries():
    one = make_predictions(artist=np.full(30, "X"))
    table = format_table(summaries(one))
    assert "warning, validation: Old-Time / Historic: 8 clips by 1 artist" in table
    assert "(2 more such genres: results.json)" in table
    assert "warning" not in format_table({"train": level_metrics(one)})
