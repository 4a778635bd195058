"""Metrics of several genres per clip, against scikit-learn and plain counts; their files."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from scipy.special import expit, logit

from mgc_jax.data.corpus import Corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation import multi_label
from mgc_jax.evaluation.bootstrap import ArtistBootstrap
from mgc_jax.evaluation.metrics import check_selection
from mgc_jax.evaluation.multi_label import MULTI_LABEL_METRICS, set_metrics
from mgc_jax.evaluation.predictions import Predictions, concatenate
from mgc_jax.evaluation.predictions_file import load_predictions, save_predictions
from mgc_jax.evaluation.results import format_table, level_metrics, summaries

GENRES = ("Rock", "Punk", "Hardcore", "Psych-Rock", "Jazz")
PARENTS = (-1, 0, 1, 0, -1)


def closed(label):
    label = label.copy()
    for genre in (2, 1, 3):
        label[:, PARENTS[genre]] |= label[:, genre]
    return label


def case(clips=80, seed=0, tied=False):
    """Labels and log odds that fit the tree, scores better than chance."""
    rng = np.random.default_rng(seed)
    label = closed(rng.random((clips, len(GENRES))) < (0.3, 0.2, 0.1, 0.2, 0.4))
    label[~label.any(axis=1), 4] = True
    scores = rng.normal(size=label.shape) + 1.5 * label - 1
    scores = np.round(scores) if tied else scores
    for genre in (2, 1, 3):
        scores[:, PARENTS[genre]] = np.maximum(scores[:, PARENTS[genre]], scores[:, genre])
    return label, scores


def predictions_of(clips=80, **changes):
    label, scores = case(clips)
    rng = np.random.default_rng(7)
    bag = np.sort(rng.integers(0, clips // 3, clips))
    bag = np.unique(bag, return_inverse=True)[1]
    made = Predictions(
        genres=GENRES, parents=PARENTS, track_id=np.arange(clips) + 10, split=np.full(clips, "validation"),
        label=label, artist=(bag // 2).astype(str), album=bag.astype(str), bag=bag,
        clip_scores=scores.astype(np.float32), bag_scores=scores[np.searchsorted(bag, bag)].astype(np.float32),
        train_clips=np.array([9.0, 5, 2, 4, 8]),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


@pytest.mark.parametrize("tied", [False, True])
def test_average_precision_and_area_are_scikit_learns(tied):
    label, scores = case(tied=tied)
    ours = set_metrics(label, scores)
    assert ours["macro_ap"] == pytest.approx(sklearn.metrics.average_precision_score(label, scores, average="macro"))
    assert ours["micro_ap"] == pytest.approx(sklearn.metrics.average_precision_score(label, scores, average="micro"))
    assert ours["macro_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(label, scores, average="macro"))
    assert ours["micro_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(label, scores, average="micro"))


def test_hierarchical_metrics_are_those_of_sets_with_their_ancestors():
    label, scores = case()
    right = predicted = true = 0
    for wanted, given in zip(label, expit(scores) >= 0.5, strict=True):
        wanted, given = set(np.flatnonzero(wanted)), set(np.flatnonzero(given))
        assert all(PARENTS[genre] in given | {-1} for genre in given)
        right, predicted, true = right + len(wanted & given), predicted + len(given), true + len(wanted)
    ours = set_metrics(label, scores)
    assert ours["hierarchical_precision"] == pytest.approx(right / predicted)
    assert ours["hierarchical_recall"] == pytest.approx(right / true)
    assert ours["hierarchical_f1"] == pytest.approx(
        2 * ours["hierarchical_precision"] * ours["hierarchical_recall"]
        / (ours["hierarchical_precision"] + ours["hierarchical_recall"])
    )  # fmt: skip


def test_a_punk_song_taken_for_its_parent_counts_half():
    """Kiritchenko et al. 2005: an error near the truth is smaller than one in another branch."""
    punk = np.array([[True, True, False, False, False]])
    as_rock, as_jazz = (np.where(np.arange(5) == genre, 1.0, -1.0)[None] for genre in (0, 4))
    assert set_metrics(punk, as_rock)["hierarchical_f1"] == pytest.approx(2 / 3)
    assert set_metrics(punk, as_jazz)["hierarchical_f1"] == 0


def test_genres_that_do_not_occur_are_left_out():
    label, scores = case()
    label[:, 2], label[:, 0] = False, True
    ap, auc = multi_label.average_precision(label, scores), multi_label.roc_auc(label, scores)
    assert np.isnan(ap).tolist() == [False, False, True, False, False]
    assert np.isnan(auc).tolist() == [True, False, True, False, False]
    assert set_metrics(label, scores)["macro_ap"] == pytest.approx(np.mean(ap[[0, 1, 3, 4]]))
    assert "macro_auc" not in set_metrics(np.ones((2, 2), bool), np.zeros((2, 2)))


@pytest.mark.parametrize("tied", [False, True])
def test_a_resample_is_the_metric_of_its_clips(tied, monkeypatch):
    monkeypatch.setattr("mgc_jax.evaluation.bootstrap._MOST_COUNTS", 300)  # in several parts
    label, scores = case(tied=tied)
    artists = np.random.default_rng(1).integers(0, 12, len(label))
    bootstrap = ArtistBootstrap(artists, resamples=6)
    for name, metric in MULTI_LABEL_METRICS.items():
        if metric.resampled is None:
            continue
        samples = metric.resampled(bootstrap, label, scores)
        for draw, value in zip(bootstrap.draws, samples, strict=True):
            drawn = np.repeat(np.arange(len(label)), draw[artists].astype(int))
            assert value == pytest.approx(set_metrics(label[drawn], scores[drawn])[name]), name


def test_samples_lie_around_the_metric():
    """Of rare genres, whose average precision is higher in the resamples that have them."""
    rng = np.random.default_rng(0)
    label, scores = rng.random((60, 8)) < 0.04, rng.normal(size=(60, 8))
    label[:, 0] = True
    bootstrap = ArtistBootstrap(np.arange(60))
    value, drawn = set_metrics(label, scores)["macro_ap"], bootstrap.ranking(label, scores)["macro_ap"]
    assert drawn.mean() > value + 0.03
    samples = multi_label.set_metric_samples(bootstrap, label, scores)["macro_ap"]
    assert samples.mean() == pytest.approx(value, abs=1e-3)
    assert samples.std() == pytest.approx(drawn.std(), rel=0.05)


def test_the_mean_of_a_bag_averages_log_odds():
    predictions = predictions_of()
    levels = predictions.levels
    for bag in (0, 5):
        rows = predictions.bag == bag
        mean = predictions.clip_scores[rows].astype(float).mean(axis=0)
        np.testing.assert_allclose(levels["clip_mean"][rows], np.broadcast_to(mean, levels["clip_mean"][rows].shape))
    assert (levels["clip_mean"][:, 0] >= levels["clip_mean"][:, 1]).all()  # which keeps to the tree


def test_results_of_a_split():
    predictions = predictions_of()
    result = summaries(predictions)["validation"]
    assert level_metrics(predictions).items() <= result.items()
    assert result["threshold"] == 0.5
    assert result["chance_macro_ap"] == pytest.approx(predictions.label.mean(axis=0).mean())
    low, high = result["intervals"]["bag"]["macro_ap"]
    assert low < result["bag"]["macro_ap"] < high
    punk = result["per_genre"]["clip"]["Punk"]
    assert (punk["parent"], punk["support"], punk["train_clips"]) == ("Rock", predictions.label[:, 1].sum(), 5)
    assert punk["artists"] == len(set(predictions.artists[predictions.label[:, 1]]))
    aps = [genre["ap"] for genre in result["per_genre"]["clip"].values()]
    assert np.mean(aps) == pytest.approx(result["clip"]["macro_ap"])
    table = format_table({"validation": result}, MULTI_LABEL_METRICS)
    assert "macro AP" in table.splitlines()[0]
    assert f"{result['bag']['macro_ap']:.3f}" in table
    assert "accuracy" not in table


def test_files_give_the_same_results(tmp_path):
    predictions = concatenate(
        [predictions_of(), predictions_of(split=np.full(80, "test"), track_id=np.arange(80) + 500)]
    )
    results = summaries(predictions)
    for name in ("p.parquet", "p.csv"):
        save_predictions(predictions, tmp_path / name)
        read = load_predictions(tmp_path / name)
        np.testing.assert_array_equal(read.label, predictions.label)
        np.testing.assert_array_equal(read.clip_scores, predictions.clip_scores)
        assert read.multi_label
        if name == "p.parquet":
            assert (read.parents, read.genres) == (PARENTS, GENRES)
            assert summaries(read) == results
        else:  # a table has no tree, and none is needed: scores and labels fit it already
            assert summaries(read)["test"]["bag"] == results["test"]["bag"]


def test_probabilities_of_other_software_become_log_odds(tmp_path, caplog):
    caplog.set_level("INFO")
    p = [[0.9, 0.0], [0.25, 1.0]]
    rows = ["track_id,split,genres,clip/a,clip/b"]
    rows += [f"{i},test,{genres},{a},{b}" for i, genres, (a, b) in zip((1, 2), ("a", "b|a"), p, strict=True)]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    read = load_predictions(tmp_path / "p.csv")
    assert "taken as probabilities, of each genre by itself" in caplog.text
    np.testing.assert_allclose(read.clip_scores[:, 0], logit([0.9, 0.25]))
    assert np.isfinite(read.clip_scores).all()
    assert read.label.tolist() == [[True, False], [True, True]]


def tree_corpus():
    """Three clips of a corpus with a tree: Punk below Rock."""
    label = np.array([[True, True, False], [False, False, True], [True, False, True]])
    text = np.array(["a", "b", "c"])
    return Corpus(
        name="fma_large", genres=("Rock", "Punk", "Jazz"), parents=(-1, 0, -1), clips=np.zeros((3, 2), np.float32),
        track_id=np.array([1, 2, 3]), label=label, split=np.array(["test"] * 3), artist=text, album=text,
    )  # fmt: skip


def test_scores_alone_get_labels_and_tree_of_the_corpus(tmp_path):
    scores = "clip/Rock,clip/Punk,clip/Jazz\n1,{},-1,2,0\n2,{},0,1,3\n3,{},4,1,2\n"
    (tmp_path / "p.csv").write_text("track_id,genres," + scores.format("Punk|Rock", "Jazz", "Rock| Jazz"))
    (tmp_path / "alone.csv").write_text("track_id," + scores.replace("{},", ""))
    for name in ("p.csv", "alone.csv"):
        read = load_predictions(tmp_path / name, tree_corpus())
        np.testing.assert_array_equal(read.label, tree_corpus().label)
        assert read.parents == (-1, 0, -1)
        np.testing.assert_array_equal(read.clip_scores[:, 0], [2, 1, 4])  # at least those of Punk
    (tmp_path / "p.csv").write_text("track_id,genres," + scores.format("Rock", "Jazz", "Rock|Jazz"))
    with pytest.raises(UserError, match=r"1 of 3 clips have other genres .* track 1: 'Rock'"):
        load_predictions(tmp_path / "p.csv", tree_corpus())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("track_id,split,genre,genres,clip/a\n1,test,a,a,0.5", "has both a column genre and a column genres"),
        ("track_id,split,genres,clip/a\n1,test,a|polka,0.5", "'polka' in the column genres is no genre"),
        ("track_id,split,genres,clip/a\n1,test,a,90\n2,test,a,3", r"up to 90, so neither .* Divide percent by 100\."),
        ("track_id,split,genres,clip/a\n1,test,,0.5", "no clip has a genre in the column genres"),
    ],
)
def test_mixtures_and_unknown_genres_are_refused(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        load_predictions(tmp_path / "p.csv")


def test_a_clip_without_a_genre_is_left_out(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "p.csv").write_text("track_id,split,genres,clip/a,clip/b\n1,test,a,2,-1\n2,test,,1,1\n3,test,b,0,3\n")
    assert load_predictions(tmp_path / "p.csv").track_id.tolist() == [1, 3]
    assert "1 clips without a genre are left out" in caplog.text
    table = {"track_id": [1, 2], "split": ["test"] * 2, "genres": [["a", None], None], "clip/a": [0.5, -1.0]}
    pq.write_table(pa.table(table), tmp_path / "p.parquet")
    assert load_predictions(tmp_path / "p.parquet").track_id.tolist() == [1]
    pq.write_table(pa.table(table | {"genres": [3, 4]}), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="the column genres is neither text nor lists of text"):
        load_predictions(tmp_path / "p.parquet")


def test_log_probabilities_are_doubted(tmp_path, caplog):
    (tmp_path / "p.csv").write_text("track_id,split,genres,clip/a\n1,test,a,-0.1\n2,test,a,-3\n")
    load_predictions(tmp_path / "p.csv")
    assert "If they are log probabilities, give probabilities instead" in caplog.text


def test_a_file_of_the_other_task_is_refused(tmp_path, corpus):
    save_predictions(predictions_of(), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=r"has several genres per clip; evaluate it with --config\.task=multi_label"):
        load_predictions(tmp_path / "p.parquet", corpus)


def test_a_file_whose_genres_are_no_tree_is_refused(tmp_path):
    save_predictions(predictions_of(parents=(1, 0, -1, -1, -1)), tmp_path / "p.parquet")
    with pytest.raises(UserError, match="the parents of its genres are no tree"):
        load_predictions(tmp_path / "p.parquet")


def test_checkpoints_are_selected_by_metrics_of_the_task():
    check_selection("bag/macro_ap", MULTI_LABEL_METRICS)
    with pytest.raises(UserError, match=r"select='bag/accuracy' is invalid.* macro_ap, micro_ap"):
        check_selection("bag/accuracy", MULTI_LABEL_METRICS)
    with pytest.raises(UserError, match="select='bag/macro_ap' is invalid"):
        check_selection("bag/macro_ap")
