"""Genre metrics of labels and log scores, as scikit-learn defines them, both papers' own, and averages over bags.

In all of them `label` is int [n], `log_scores` [n, genre] and `predicted` int [n], the genres that were named. Scores
need not sum to one: MATT scores every genre with the bag as that genre's query sees it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


def genre_metrics(label: np.ndarray, log_scores: np.ndarray, predicted: np.ndarray | None = None) -> dict[str, float]:
    """The metrics of a table, as scikit-learn defines them.

    Example:
        >>> import mgc_jax, numpy as np
        >>> scores = np.log([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
        >>> mgc_jax.genre_metrics(np.array([0, 1, 1]), scores)["balanced_accuracy"]
        0.75

    Args:
        label: int [n], n at least 1.
        log_scores: [n, genre].
        predicted: int [n]; by default the genres of the highest scores.

    Returns:
        Those of `confusion_metrics`; `micro_ap`, the average precision of all n x genre scores against the one-hot
        labels (MATT, section IV-B); and `ece`, the expected calibration error of the scores.
    """
    from sklearn.metrics import average_precision_score

    if predicted is None:
        predicted = log_scores.argmax(axis=1)
    metrics = confusion_metrics(confusion(label, predicted, log_scores.shape[1]))
    return {name: float(value) for name, value in metrics.items()} | {
        "micro_ap": float(average_precision_score(*one_against_rest(label, log_scores))),
        "ece": expected_calibration_error(label, log_scores),
    }


def confusion(label: np.ndarray, predicted: np.ndarray, num_genres: int) -> np.ndarray:
    """Counts clips by true genre (rows) and named genre (columns): int64 [genre, genre]."""
    cells = np.asarray(label, np.int64) * num_genres + predicted
    return np.bincount(cells, minlength=num_genres**2).reshape(num_genres, num_genres)


def confusion_metrics(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of confusion matrices [..., true genre, named genre]: each an array [...], NaN without clips.

    Returns:
        `accuracy`; `balanced_accuracy`, the mean recall of the genres that occur; `macro_f1`, the mean F1 of the
        genres that occur among labels or named genres; `weighted_f1`, the mean F1 weighted by the clips of a genre.
    """
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    support, named = counts.sum(axis=-1), counts.sum(axis=-2)
    clips = support.sum(axis=-1)
    f1 = _ratio(2 * right, support + named, 0)
    return {
        "accuracy": _ratio(right.sum(axis=-1), clips),
        "balanced_accuracy": _ratio(_ratio(right, support, 0).sum(axis=-1), (support > 0).sum(axis=-1)),
        "macro_f1": _ratio(f1.sum(axis=-1), (support + named > 0).sum(axis=-1)),
        "weighted_f1": _ratio((f1 * support).sum(axis=-1), clips),
    }


def per_genre(label: np.ndarray, predicted: np.ndarray, genres: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (true clips) of every genre; what is 0 / 0 counts as 0."""
    counts = confusion(label, predicted, len(genres))
    right, support, named = np.diagonal(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _ratio(right, named, 0), _ratio(right, support, 0)
    f1 = _ratio(2 * right, support + named, 0)
    return {
        genre: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, genre in enumerate(genres)
    }


def classification_report(label: np.ndarray, predicted: np.ndarray, genres: Sequence[str]) -> dict[str, Any]:
    """The report of PRCNN's authors (figures 2 and 3), which is that of scikit-learn.

    Returns:
        `genres`: as `per_genre`, of the genres that occur among labels or named genres; `accuracy`; and `macro avg`
        and `weighted avg`, the averages over those genres, with the keys of a genre.
    """
    named = set(np.unique(label)) | set(np.unique(predicted))
    table = per_genre(label, predicted, genres)
    rows = {genre: table[genre] for i, genre in enumerate(genres) if i in named}
    support = [row["support"] for row in rows.values()]

    def average(weights: list[float] | None) -> dict[str, float]:
        means = {
            name: float(np.average([row[name] for row in rows.values()], weights=weights))
            for name in ("precision", "recall", "f1")
        }
        return means | {"support": sum(support)}

    return {
        "genres": rows,
        "accuracy": float(np.mean(np.asarray(label) == predicted)),
        "macro avg": average(None),
        "weighted avg": average(support),
    }


def one_against_rest(label: np.ndarray, log_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every score of every genre as a case of its own: (whether it is the true genre, score), both [n * genre].

    The scores are ranked as they are: probabilities below the smallest float would be tied at 0.
    """
    one_hot = np.arange(log_scores.shape[1]) == np.asarray(label)[:, None]
    lowest = np.finfo(np.float64).min  # stands for log 0: scikit-learn takes finite scores only
    return one_hot.ravel(), np.maximum(log_scores.astype(np.float64), lowest).ravel()


def precision_recall(label: np.ndarray, log_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The precision-recall curve of all n x genre scores (MATT, section IV-B), in scikit-learn's order.

    Returns:
        Precision and recall [point], one for each distinct score, from recall 1 down, and the end (1, 0).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(*one_against_rest(label, log_scores))
    return precision, recall


def thin_curve(precision: np.ndarray, recall: np.ndarray, points: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Picks at most so many points of a curve of `precision_recall`: both ends, and others evenly over recall."""
    if len(recall) <= points:
        return precision, recall
    ascending = recall[::-1]
    levels = np.linspace(0, 1, points - 1)
    kept = np.unique(np.r_[np.searchsorted(ascending, levels), len(recall) - 1])
    kept = len(recall) - 1 - kept[::-1]
    return precision[kept], recall[kept]


def block_means(values: np.ndarray, most: int = 150) -> np.ndarray:
    """Averages neighbouring values [n, ...] so that at most so many are left, for pictures."""
    return np.stack([part.mean(axis=0) for part in np.array_split(values, min(len(values), most))])


def precision_at(precision: np.ndarray, recall: np.ndarray, levels: Sequence[float]) -> list[float]:
    """Precision where the recall first reaches each level: at the smallest recall that is at least as high."""
    ascending, precision = recall[::-1], precision[::-1]
    # A hair below the level: a recall of 7 / 10 has reached 0.7 however both are rounded.
    return [float(precision[np.searchsorted(ascending, level - 1e-12)]) for level in levels]


def max_f1(precision: np.ndarray, recall: np.ndarray) -> float:
    """The highest F1 on a precision-recall curve."""
    return float(_ratio(2 * precision * recall, precision + recall, 0).max())


def top_k(label: np.ndarray, log_scores: np.ndarray, genres_considered: Sequence[int], k: int) -> float:
    """Share of the clips of some genres whose genre has one of the k highest scores of all genres.

    Args:
        label: int [n].
        log_scores: [n, genre].
        genres_considered: indexes of genres; MATT's are the rare ones (`rare_genres`).
        k: how many scores.

    Returns:
        The share; NaN if there is no such clip.
    """
    rows = np.isin(label, genres_considered)
    if not rows.any():
        return float("nan")
    return float(np.mean(among_top_k(np.asarray(label)[rows], log_scores[rows], k)))


def among_top_k(label: np.ndarray, log_scores: np.ndarray, k: int) -> np.ndarray:
    """Whether a clip's genre has one of the k highest scores: bool [n].

    Of tied scores the later genre has the higher one, as in scikit-learn's `top_k_accuracy_score`.
    """
    highest = np.argsort(log_scores, axis=1, kind="stable")[:, -k:]
    return np.any(highest == label[:, None], axis=1)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How often the genre of the highest score is right, by its normalized probability.

    Attributes:
        confidence: [bin]: mean probability; NaN in a bin without clips.
        accuracy: [bin]: share of right ones; NaN in a bin without clips.
        count: int64 [bin]: clips. Bin i of m holds the probabilities above i / m, up to (i + 1) / m.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def calibration(label: np.ndarray, log_scores: np.ndarray, bins: int = 15) -> Calibration:
    """Reliability of the highest probability, in bins of equal width (Guo et al. 2017)."""
    confidence, right, number = confidence_bins(label, log_scores, bins)
    count = np.bincount(number, minlength=bins)
    return Calibration(
        confidence=_ratio(np.bincount(number, confidence, bins), count),
        accuracy=_ratio(np.bincount(number, right, bins), count),
        count=count,
    )


def expected_calibration_error(label: np.ndarray, log_scores: np.ndarray, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over the bins of `calibration`, weighted by clips (Guo et al. 2017)."""
    confidence, right, number = confidence_bins(label, log_scores, bins)
    return float(np.abs(np.bincount(number, right - confidence, bins)).sum() / len(right))


def confidence_bins(
    label: np.ndarray, log_scores: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what `calibration` bins: (highest normalized probability, whether its genre is right, bin), each [n]."""
    scores = log_scores.astype(np.float64)
    confidence = np.exp(scores.max(axis=1) - np.logaddexp.reduce(scores, axis=1))
    right = scores.argmax(axis=1) == label
    return confidence, right, np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def paper_accuracy(label: np.ndarray, log_scores: np.ndarray, offsets: np.ndarray) -> float:
    """Accuracy as MATT's notebooks count it: a bag, with all its clips, is right if its first clip's genre is named.

    Args:
        label: int [clip], bag after bag.
        log_scores: [clip, genre]: the bag's, the same for all its clips.
        offsets: [bag + 1], as in `Bags`.
    """
    first = offsets[:-1]
    return float(np.average(log_scores[first].argmax(axis=1) == label[first], weights=np.diff(offsets)))


def bag_accuracy(label: np.ndarray, log_scores: np.ndarray, offsets: np.ndarray) -> float:
    """Share of the bags whose first clip's genre is named; arguments as `paper_accuracy`."""
    first = offsets[:-1]
    return float(np.mean(log_scores[first].argmax(axis=1) == label[first]))


def bag_micro_ap(label: np.ndarray, log_scores: np.ndarray, offsets: np.ndarray) -> float:
    """Micro average precision with a row per bag, which has its first clip's genre; arguments as `paper_accuracy`."""
    from sklearn.metrics import average_precision_score

    first = offsets[:-1]
    return float(average_precision_score(*one_against_rest(label[first], log_scores[first])))


def rare_genres(train_clips: np.ndarray, below: float) -> tuple[int, ...]:
    """Indexes of the genres with fewer than so many training clips, for which MATT has a table of top-k accuracy."""
    return tuple(np.flatnonzero(np.asarray(train_clips) < below).tolist())


def paper_rare_genres(
    train_clips: np.ndarray, train_clips_outside_small: np.ndarray, below: float, smallest: float = 100
) -> tuple[int, ...]:
    """The rare genres of MATT's notebooks, whose shortest list was counted on FMA-medium without FMA-small.

    There International has 14 training clips, but 814 in all; so its 102 test clips are more than half of the 170 in
    the paper's list of genres under 100, which has 68 when it is counted right. Longer lists hold the shortest one.

    Args:
        train_clips: [genre].
        train_clips_outside_small: [genre].
        below: the limit of this list.
        smallest: the limit of the shortest list.
    """
    return tuple(sorted({*rare_genres(train_clips, below), *rare_genres(train_clips_outside_small, smallest)}))


def frequency_groups(train_clips: np.ndarray, limits: tuple[float, float] = (200, 1000)) -> dict[str, tuple[int, ...]]:
    """Indexes of the genres by training clips: `tail` has fewer than the first limit, `head` at least the second."""
    tail, head = limits
    clips = np.asarray(train_clips)
    masks = {"head": clips >= head, "mid": (clips >= tail) & (clips < head), "tail": clips < tail}
    return {name: tuple(np.flatnonzero(mask).tolist()) for name, mask in masks.items()}


def mean_log_scores(log_scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Averages the clips' log scores over each bag and normalizes: the clip-average baseline.

    Args:
        log_scores: [clip, genre], bag after bag.
        offsets: [bag + 1], as in `Bags`.

    Returns:
        Log scores [bag, genre].
    """
    mean = np.add.reduceat(log_scores, offsets[:-1], axis=0) / np.diff(offsets)[:, None]
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """Divides; where the denominator is 0 the result is another value."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, otherwise, np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)
