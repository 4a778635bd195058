"""A whole run with several genres per clip: training, results, files, report."""

import json

import jaxtyping
import numpy as np
import pytest
from helpers import make_corpus, small_config

from mgc_jax.analysis.opening import opened
from mgc_jax.config.checks import validate
from mgc_jax.config.loading import load_config
from mgc_jax.data.open import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions_file import load_predictions
from mgc_jax.export.formats import write_stablehlo
from mgc_jax.inference import load_export
from mgc_jax.modes import bench, cross_validate, evaluate, export, train
from mgc_jax.report.comparison import write_comparison
from mgc_jax.report.run_page import write_report
from tfds_fma.clips.make import Clip
from tfds_fma.clips.sources import ClipSource
from tfds_fma.labels import GENRES
from tfds_fma.preparation import prepare_clips
from tfds_fma.representations.feature_vector import Precomputed
from tfds_fma.source.tracks import Track

# Genre of the small corpus, and the sub-genre of its loud albums, with FMA's ids.
TREE = {"Rock": (12, "Punk", 25), "Folk": (17, "Psych-Folk", 33), "Jazz": (4, "Free-Jazz", 74)}
NAMES = ["Rock", "Punk", "Folk", "Psych-Folk", "Jazz", "Free-Jazz"]


def prepare_loud_albums(folder):
    """Prepares the small corpus as FMA-large, half of its clips without a top genre. Half of its albums are loud, in a
    band of its own, which makes their sub-genre.
    """
    corpus = make_corpus(240, (8,))
    loud = np.random.default_rng(1).random(200)[corpus.album.astype(int)] < 0.5
    corpus.clips[:, 5] = np.where(loud, 2.0, -2.0)
    corpus.clips[np.arange(len(corpus)), corpus.label] += 1.5  # clearer than elsewhere: sub-genres have few clips
    tracks = []
    for row, (track_id, album) in enumerate(zip(corpus.track_id.tolist(), corpus.album.tolist(), strict=True)):
        genre = corpus.genres[corpus.label[row]]
        top, _, sub = TREE[genre]
        ids, split, artist = (sub, top) if loud[row] else (top,), str(corpus.split[row]), int(corpus.artist[row])
        shown = genre if row % 2 else ""
        tracks.append(Track(track_id, split, shown, artist, int(album), "", "", 30.0, genres_all=ids, subset="large"))
    clip_of = dict(zip(corpus.track_id.tolist(), corpus.clips, strict=True))
    source = ClipSource(
        tuple(tracks), GENRES, Precomputed("mine", (8,), "float16", "numbers"),
        lambda track: Clip(clip_of[track.track_id], padded=False), False, "", resampler="r 1",
    )  # fmt: skip
    prepare_clips(lambda: source, "large", "mine", folder, progress=False)
    return corpus


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained MLP with MATT: its folder, configuration and results."""
    folder = tmp_path_factory.mktemp("multi_label")
    config = small_config(folder, prepare_loud_albums(folder))
    with config.unlocked():
        config.task, config.train.select = "multi_label", "bag/macro_ap"
        config.data.update(corpus="fma_large", representation="mine", data_dir=str(folder), bag_key="paper")
        config.model.encoder = {"name": "mlp", "hidden": (16,), "dropout": 0.0}
        config.model.head_dropout = 0.0
    config.train.epochs, config.train.eval_every_epochs, config.optimizer.learning_rate = 60, 30, 0.02
    validate(config)
    return folder / "run", config, train(config, folder / "run")


def test_what_is_heard_is_learned_along_the_tree(run):
    folder, _, results = run
    assert results["task"] == "multi_label"
    assert results["selected_by"] == "validation/bag/macro_ap"
    validation = results["splits"]["validation"]
    per_genre = validation["per_genre"]["bag"]
    assert list(per_genre) == NAMES
    assert [row["parent"] for row in per_genre.values()] == [None, "Rock", None, "Folk", None, "Jazz"]
    assert all(row["ap"] > 0.9 for row in per_genre.values() if row["support"])
    assert validation["bag"]["macro_ap"] > validation["chance_macro_ap"] + 0.5
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert any("validation/bag/hierarchical_f1" in line for line in log)
    assert not any("train/accuracy" in line for line in log)


def test_all_clips_are_there_in_memory_and_on_the_disk(run):
    _, config, _ = run
    corpus = open_corpus(config.data, config.task)
    assert len(corpus) == 240
    assert corpus.genres == tuple(NAMES)
    data = config.data.copy_and_resolve_references()
    data.placement = "stream"
    streamed = open_corpus(data, config.task)
    assert streamed.fingerprint == corpus.fingerprint
    np.testing.assert_array_equal(streamed.label, corpus.label)
    one_genre = open_corpus(config.data)
    assert len(one_genre) == 120
    rows = np.flatnonzero(np.isin(corpus.track_id, one_genre.track_id))
    np.testing.assert_array_equal(corpus.clips[rows], one_genre.clips)


def test_files_and_report_show_the_same(run):
    folder, _, results = run
    predictions = load_predictions(folder / "predictions.parquet")
    assert (predictions.genres, predictions.parents) == (tuple(NAMES), (-1, 0, -1, 2, -1, 4))
    for scores in (predictions.clip_scores, predictions.bag_scores):
        assert (scores[:, ::2] >= scores[:, 1::2]).all()
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
    assert exported.meta.genre_parents == (-1, 0, -1, 2, -1, 4)
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
    (written / "config.json").write_text(json.dumps(saved | {"genre_parents": [1, 0, -1, 2, -1, 4]}))
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
        ({"data.bag_key": "pair"}, "it is about bags of one genre"),
    ],
)
def test_what_is_about_one_genre_is_refused(changes, message):
    with pytest.raises(UserError, match=rf"with config\.task=multi_label .*{message}"):
        load_config("matt_crnn_tf", {"task": "multi_label"} | changes)


def test_the_query_of_one_genre_has_no_effect():
    with pytest.raises(UserError, match=r"train_query='own' has no effect with config\.task=multi_label"):
        load_config("matt_crnn_tf", {"task": "multi_label", "model.pooling.train_query": "own"})


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
