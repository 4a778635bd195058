"""Metrics where a clip may have several genres of a tree: per genre, over all genres, and over the tree.

In all of them `label` is bool [n, genre] and `log_odds` float [n, genre]; both fit the tree: whoever has a genre has
its parent, and no genre has a higher score than its parent (`models.genre_tree.tree_consistent`). A genre is predicted
where its probability, the sigmoid of its log odds, is at least `THRESHOLD`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mgc_jax.evaluation.bootstrap import ArtistBootstrap, json_interval
from mgc_jax.evaluation.metrics import Metric, micro_ap, one_against_rest, or_none
from mgc_jax.evaluation.predictions import Predictions

THRESHOLD = 0.5  # a probability; fixed, so that no split is looked at to choose it


def average_precision(label: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """Average precision of every genre, as scikit-learn has it: float64 [genre]; NaN for a genre that no clip has."""
    from sklearn.metrics import average_precision_score

    return _per_genre(average_precision_score, label, log_odds, label.sum(axis=0) > 0)


def roc_auc(label: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of every genre: float64 [genre]; NaN for one that no clip has, or every clip."""
    from sklearn.metrics import roc_auc_score

    clips = label.sum(axis=0)
    return _per_genre(roc_auc_score, label, log_odds, (clips > 0) & (clips < len(label)))


def _per_genre(
    score: Callable[[np.ndarray, np.ndarray], float], label: np.ndarray, log_odds: np.ndarray, defined: np.ndarray
) -> np.ndarray:
    values = np.full(label.shape[1], np.nan)
    for genre in np.flatnonzero(defined):
        values[genre] = score(label[:, genre], log_odds[:, genre])
    return values


def macro_ap(label: np.ndarray, log_odds: np.ndarray) -> float:
    """Mean average precision of the genres that occur."""
    return _mean(average_precision(label, log_odds))


def macro_auc(label: np.ndarray, log_odds: np.ndarray) -> float:
    """Mean area under the ROC curve of the genres that some clips have and others not; NaN without any."""
    return _mean(roc_auc(label, log_odds))


def micro_auc(label: np.ndarray, log_odds: np.ndarray) -> float:
    """Area under the ROC curve of all n x genre scores; NaN if all are true, or none."""
    from sklearn.metrics import roc_auc_score

    true, score = one_against_rest(label, log_odds)
    return float(roc_auc_score(true, score)) if 0 < true.sum() < len(true) else float("nan")


def _mean(values: np.ndarray) -> float:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else float("nan")


def predicted_genres(log_odds: np.ndarray) -> np.ndarray:
    """Returns which genres are predicted: bool [n, genre]."""
    return log_odds >= np.log(THRESHOLD / (1 - THRESHOLD))


def _counts(label: np.ndarray, log_odds: np.ndarray) -> np.ndarray:
    """Genres per clip that are predicted and true, predicted, and true: int64 [3, n]."""
    predicted = predicted_genres(log_odds)
    return np.stack([(predicted & label).sum(axis=1), predicted.sum(axis=1), label.sum(axis=1)])


def _precision(right: Any, predicted: Any, true: Any) -> Any:
    return right / np.maximum(predicted, 1)  # nothing right where nothing is predicted


def _recall(right: Any, predicted: Any, true: Any) -> Any:
    return right / np.maximum(true, 1)


def _f1(right: Any, predicted: Any, true: Any) -> Any:
    return 2 * right / np.maximum(predicted + true, 1)


def _hierarchical(title: str, ratio: Callable[[Any, Any, Any], Any], **options: Any) -> Metric:
    """Hierarchical precision, recall or F1 (Kiritchenko et al. 2005): of sets of genres with all their ancestors,
    summed over the clips.
    """
    return Metric(
        title,
        from_scores=lambda label, log_odds: float(ratio(*_counts(label, log_odds).sum(axis=1))),
        resampled=lambda bootstrap, label, log_odds: ratio(*map(bootstrap.sum, _counts(label, log_odds))),
        **options,
    )


def _ranking(title: str, name: str, from_scores: Callable[[np.ndarray, np.ndarray], float], **options: Any) -> Metric:
    """A metric that depends on the order of the scores alone; `ArtistBootstrap.ranking` has its resamples by name."""
    return Metric(
        title,
        from_scores=from_scores,
        resampled=lambda bootstrap, label, log_odds: bootstrap.ranking(label, log_odds)[name],
        **options,
    )


# By name, as in `evaluation.metrics.METRICS`; the first one selects checkpoints (`config.keys.SELECTED_BY`).
MULTI_LABEL_METRICS: dict[str, Metric] = {
    "macro_ap": _ranking("macro AP", "macro_ap", macro_ap),
    "micro_ap": _ranking("micro AP", "micro_ap", micro_ap),
    "macro_auc": _ranking("macro AUC", "macro_auc", macro_auc),
    "micro_auc": _ranking("micro AUC", "micro_auc", micro_auc, compared=False, in_terminal=False),
    "hierarchical_precision": _hierarchical("hierarchical precision", _precision, compared=False, in_terminal=False),
    "hierarchical_recall": _hierarchical("hierarchical recall", _recall, compared=False, in_terminal=False),
    "hierarchical_f1": _hierarchical("hierarchical F1", _f1),
}


def set_metrics(label: np.ndarray, log_odds: np.ndarray) -> dict[str, float]:
    """Computes all `MULTI_LABEL_METRICS`, without those that these clips leave undefined."""
    scored = {name: metric.from_scores for name, metric in MULTI_LABEL_METRICS.items()}
    values = {name: float(function(label, log_odds)) for name, function in scored.items() if function is not None}
    return {name: value for name, value in values.items() if not np.isnan(value)}


def set_metric_samples(bootstrap: ArtistBootstrap, label: np.ndarray, log_odds: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the `MULTI_LABEL_METRICS` of each resample, those that can be resampled: float64 [resample] by name.

    A resample has no genre whose artists were all not drawn, and more than its share of one whose artists were: the
    average precision of rare genres is higher in resamples. So their values are moved by the difference of their mean
    from the metric.
    """
    values, samples = set_metrics(label, log_odds), {}
    for name, metric in MULTI_LABEL_METRICS.items():
        if metric.resampled is not None:
            drawn = metric.resampled(bootstrap, label, log_odds)
            samples[name] = np.clip(drawn - (_mean(drawn) - values.get(name, np.nan)), 0, 1)
    return samples


def level_metrics(predictions: Predictions) -> dict[str, Any]:
    """Returns the metrics of each level of one split, as computed after every epoch.

    Every clip counts with its own genres, at the level bag with the scores of its bag. Also `clips`, `bags`, and
    `chance_macro_ap`, about the macro AP of scores drawn at random: the mean share of the clips that have a genre.
    """
    label = predictions.label
    result: dict[str, Any] = {"clips": len(predictions), "bags": len(predictions.bag_sizes)}
    result["chance_macro_ap"] = float(label.mean(axis=0)[label.any(axis=0)].mean())
    return result | {level: set_metrics(label, scores) for level, scores in predictions.levels.items()}


def summary(predictions: Predictions) -> dict[str, Any]:
    """Returns what `results.json` holds for one split: all metrics, their intervals, and those of every genre.

    Returns:
        What `level_metrics` returns, and: `artists`; `threshold`; `intervals` (95 %, bootstrap over artists; None of
        too few) and `per_genre`, each by level.
    """
    bootstrap = ArtistBootstrap(predictions.artists)
    result = level_metrics(predictions) | {"artists": len(bootstrap.artists), "threshold": THRESHOLD}
    intervals: dict[str, Any] = {}
    for level, scores in predictions.levels.items():
        samples = set_metric_samples(bootstrap, predictions.label, scores)
        intervals[level] = {name: json_interval(values, len(bootstrap.artists)) for name, values in samples.items()}
    per_genre = {level: genre_table(predictions, scores) for level, scores in predictions.levels.items()}
    return result | {"intervals": intervals, "per_genre": per_genre}


def genre_table(predictions: Predictions, log_odds: np.ndarray) -> dict[str, dict[str, Any]]:
    """Returns for every genre its `parent` (a name, None for a top genre), `support` (clips that have it), their
    `artists`, `train_clips`, average precision `ap` and area under the ROC curve `auc` (None where undefined).
    """
    label, genres, parents = predictions.label, predictions.genres, predictions.parents
    ap, auc = average_precision(label, log_odds), roc_auc(label, log_odds)
    train = predictions.train_clips
    return {
        genre: {
            "parent": genres[parents[i]] if parents[i] >= 0 else None,
            "support": int(label[:, i].sum()),
            "artists": len(np.unique(predictions.artists[label[:, i]])),
            "train_clips": None if train is None else int(train[i]),
            "ap": or_none(ap[i]),
            "auc": or_none(auc[i]),
        }
        for i, genre in enumerate(genres)
    }
