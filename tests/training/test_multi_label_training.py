"""A whole run with several genres per clip: training, results, files, report."""

import json

import jaxtyping
import numpy as np
import pytest
from helpers import make_corpus, small_config

from mgc_jax.analysis.opening import opened
from mgc_jax.config.loading import load_config
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.open import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions_file import load_predictions
from mgc_jax.export.formats import write_stablehlo
from mgc_jax.inference import load_export
from mgc_jax.modes import bench, cross_validate, evaluate, export, train
from mgc_jax.report.comparison import write_comparison
from mgc_jax.report.run_page import write_report


def several_genres() -> tuple[Corpus, np.ndarray]:
    """The small corpus, and which of its clips are "Loud" too: half of the albums, in a band of its own."""
    corpus = make_corpus(160, (8,))
    loud = np.random.default_rng(1).random(200)[corpus.album.astype(int)] < 0.5
    corpus.clips[:, 5] = np.where(loud, 2.0, -2.0)
    return corpus, loud


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained MLP with MATT: its folder, configuration and results."""
    folder = tmp_path_factory.mktemp("multi_label")
    corpus, loud = several_genres()
    config = small_config(folder, corpus, **{"data.arrays.axes": "clip feature"})
    lines = (folder / "tracks.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines[1:]]
    rows = [[row[0], row[1] + "|Loud" * has, *row[2:]] for row, has in zip(rows, loud.tolist(), strict=True)]
    (folder / "tracks.csv").write_text("\n".join([lines[0], *map(",".join, rows)]) + "\n")
    with config.unlocked():
        config.task, config.train.select = "multi_label", "bag/macro_ap"
        config.model.encoder = {"name": "mlp", "hidden": (16,), "dropout": 0.0}
        config.model.head_dropout = 0.0
    config.train.epochs, config.train.eval_every_epochs, config.optimizer.learning_rate = 24, 12, 0.03
    return folder / "run", config, train(config, folder / "run")


def test_what_is_heard_in_a_clip_is_learned(run):
    folder, _, results = run
    assert results["task"] == "multi_label"
    assert results["selected_by"] == "validation/bag/macro_ap"
    validation = results["splits"]["validation"]
    assert list(validation["per_genre"]["clip"]) == ["Folk", "Jazz", "Loud", "Rock"]
    assert validation["per_genre"]["clip"]["Loud"]["ap"] > 0.95
    assert validation["per_genre"]["bag"]["Rock"]["ap"] > 0.8
    assert validation["clip"]["macro_ap"] > validation["chance_macro_ap"] + 0.3
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/bag/hierarchical_f1" in line for line in log)
    assert not any("train/accuracy" in line for line in log)


def test_files_and_report_show_the_same(run):
    folder, _, results = run
    predictions = load_predictions(folder / "predictions.parquet")
    assert predictions.genres == ("Folk", "Jazz", "Loud", "Rock")
    assert (predictions.label.sum(axis=1) >= 1).all()
    page = write_report(folder).read_text()
    assert "hierarchical F1" in page
    assert 'class="tree"' in page
    assert f"{results['splits']['validation']['bag']['macro_ap']:.3f}" in page
    assert "<script" not in page


def test_evaluation_again_gives_the_same(run):
    folder, config, results = run
    again = evaluate(config, folder)
    assert again["splits"] == results["splits"]


def test_runs_of_two_tasks_are_not_compared(run, tmp_path):
    folder, _, results = run
    other = tmp_path / "other"
    other.mkdir()
    one = {"clips": 3, "bags": 2, "clip": {"accuracy": 0.5}}
    (other / "results.json").write_text(json.dumps({"splits": {"validation": one}, "corpus": "demo"}))
    with pytest.raises(UserError, match="are of two tasks"):
        write_comparison([folder, other], tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("results.json", "config.json", "metrics.jsonl", "predictions.parquet"):
        (copy / name).write_bytes((folder / name).read_bytes())
    page = write_comparison([folder, copy], tmp_path).read_text()
    assert "AP of every genre" in page
    assert "McNemar" not in page
    assert f"{results['splits']['validation']['bag']['macro_ap']:.3f}" in page


@pytest.fixture
def symbols_are_lengths():
    """As in `tests/export/conftest.py`."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_an_export_gives_the_scores_of_the_run(run, symbols_are_lengths):
    folder, config, results = run
    written = export(config, folder)
    exported = load_export(written)
    assert exported.meta.genre_parents == (-1,) * 4
    predictions = load_predictions(folder / "predictions.parquet").of_split("validation")
    corpus = open_corpus(config.data, config.task)
    row_of = {track: row for row, track in enumerate(corpus.track_id.tolist())}
    clips = corpus.clips[[row_of[track] for track in predictions.track_id.tolist()]]
    scores, _ = exported(clips, predictions.bag)
    np.testing.assert_allclose(scores[predictions.bag], predictions.bag_scores, rtol=1e-4, atol=1e-4)
    assert write_stablehlo(written, exported)[0].difference < 1e-5
    card = (written / "MODEL_CARD.md").read_text()
    assert "log odds of each genre by itself" in card
    assert f"{results['splits']['validation']['bag']['macro_ap']:.3f}" in card
    saved = json.loads((written / "config.json").read_text())
    (written / "config.json").write_text(json.dumps(saved | {"genre_parents": [1, 0, -1, -1]}))
    with pytest.raises(UserError, match=r"config.json does not describe a model .*is no tree"):
        load_export(written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss.name": "focal"}, "its loss is the binary cross entropy of each genre"),
        ({"batch.sampling": "sqrt"}, "cannot be drawn by genre"),
        ({"eval.logit_adjustment": "1"}, "the prior of one genre among all"),
        ({"train.classifier_epochs": "2"}, "bags that are drawn by genre"),
        ({"data.folds": "5"}, "folds are stratified by one genre"),
        ({"data.bag_key": "published"}, "it counts bags of one genre"),
    ],
)
def test_what_is_about_one_genre_is_refused(changes, message):
    with pytest.raises(UserError, match=rf"with config\.task=multi_label .*{message}"):
        load_config("matt_crnn_tf", {"task": "multi_label"} | changes)


def test_the_task_brings_its_metric_unless_one_is_given():
    assert load_config("matt_crnn_tf", {"task": "multi_label"}).train.select == "bag/macro_ap"
    given = {"task": "multi_label", "train.select": "clip/micro_auc"}
    assert load_config("matt_crnn_tf", given).train.select == "clip/micro_auc"
    assert load_config("crnn_tf", {"task": "multi_label"}).train.select.endswith("/macro_ap")
    assert (
        load_config("matt_crnn_tf", {"task": "single_label"}).train.select == load_config("matt_crnn_tf").train.select
    )


def test_what_knows_one_genre_per_clip_is_refused(run, tmp_path):
    folder, config, _ = run
    with pytest.raises(UserError, match="bench measures models of one genre per clip"):
        bench(config, tmp_path / "bench")
    with pytest.raises(UserError, match="analyse shows models of one genre per clip"), opened(folder, {}):
        pass
    with pytest.raises(UserError, match="cross-validation needs folds"):
        cross_validate(config, tmp_path / "cv")
    changed = config.copy_and_resolve_references()
    changed.train.select = "bag/accuracy"
    with pytest.raises(UserError, match=r"select='bag/accuracy' is invalid.*macro_ap"):
        train(changed, tmp_path / "accuracy")
