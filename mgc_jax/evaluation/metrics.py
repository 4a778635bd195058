"""Genre metrics of labels and log scores: the registry `METRICS`, those of both papers, and averages over bags.

They have scikit-learn's definitions, unless noted. In all of them `label` is int [n], `log_scores` [n, genre] and
`predicted` int [n], the predicted genres. Scores need not sum to one: MATT scores
every genre under its own query.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mgc_jax.config.keys import LAST
from mgc_jax.errors import UserError
from mgc_jax.evaluation.levels import LEVELS


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of one level of one split: an entry of `METRICS`.

    Give `from_confusion`, or `from_scores` and, for intervals and paired differences, `resampled`.

    Attributes:
        title: in tables and charts.
        from_confusion: maps confusion matrices [..., true genre, predicted genre] to float [...].
        from_scores: maps label [n] and log scores [n, genre] to a float.
        resampled: maps an `ArtistBootstrap`, label and log scores to float [resample].
        higher_is_better: whether checkpoints can be selected by it; its values must then lie in [-1, 1].
        compared: whether paired differences of it are shown.
        in_terminal: whether the table in the terminal has it.
    """

    title: str
    from_confusion: Callable[[np.ndarray], np.ndarray] | None = None
    from_scores: Callable[[np.ndarray, np.ndarray], float] | None = None
    resampled: Callable[[Any, np.ndarray, np.ndarray], np.ndarray] | None = None
    higher_is_better: bool = True
    compared: bool = True
    in_terminal: bool = True

    def __post_init__(self) -> None:
        if (self.from_confusion is None) == (self.from_scores is None):
            raise ValueError(f"the metric {self.title!r} needs either from_confusion or from_scores")


def genre_metrics(label: np.ndarray, log_scores: np.ndarray, predicted: np.ndarray | None = None) -> dict[str, float]:
    """Computes all `METRICS`.

    Examples:
        >>> import mgc_jax, numpy as np
        >>> scores = np.log([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]])
        >>> mgc_jax.genre_metrics(np.array([0, 1, 1]), scores)["balanced_accuracy"]
        0.75

    Args:
        label: int [n], n at least 1.
        log_scores: [n, genre].
        predicted: int [n]; by default the genres of the highest scores.

    Returns:
        The values, by name of the metric.
    """
    if predicted is None:
        predicted = log_scores.argmax(axis=1)
    counts = confusion(label, predicted, log_scores.shape[1])
    values = {}
    for name, metric in METRICS.items():
        if metric.from_confusion is not None:
            values[name] = float(metric.from_confusion(counts))
        elif metric.from_scores is not None:
            values[name] = float(metric.from_scores(label, log_scores))
    return values


def check_selection(select: str, metrics: Mapping[str, Metric] | None = None) -> None:
    """Raises `UserError` unless `config.train.select` is `LAST`, or a level and a metric to select checkpoints by.

    Args:
        select: the value.
        metrics: those of the task; by default `METRICS`.
    """
    if select == LAST:
        return
    level, _, metric = select.partition("/")
    names = [name for name, entry in (METRICS if metrics is None else metrics).items() if entry.higher_is_better]
    if level not in LEVELS or metric not in names:
        raise UserError(
            f"config.train.select={select!r} is invalid: write <level>/<metric> with a level of "
            f"{', '.join(LEVELS)} and a metric of {', '.join(names)}, or {LAST}."
        )


def confusion(label: np.ndarray, predicted: np.ndarray, num_genres: int) -> np.ndarray:
    """Counts clips by true genre (rows) and predicted genre (columns): int64 [genre, genre]."""
    cells = np.asarray(label, np.int64) * num_genres + predicted
    return np.bincount(cells, minlength=num_genres**2).reshape(num_genres, num_genres)


def accuracy(counts: np.ndarray) -> np.ndarray:
    """Share of clips whose genre is predicted, of confusion matrices [..., genre, genre]: [...]; NaN without clips."""
    return _ratio(_right(counts).sum(axis=-1), counts.sum(axis=(-2, -1)))


def balanced_accuracy(counts: np.ndarray) -> np.ndarray:
    """Mean recall of the genres that occur; argument and result as `accuracy`."""
    support = counts.sum(axis=-1)
    return _ratio(_ratio(_right(counts), support, 0).sum(axis=-1), (support > 0).sum(axis=-1))


def macro_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the genres that occur among labels or predictions; argument and result as `accuracy`."""
    either = counts.sum(axis=-1) + counts.sum(axis=-2)
    return _ratio(_f1(counts).sum(axis=-1), (either > 0).sum(axis=-1))


def weighted_f1(counts: np.ndarray) -> np.ndarray:
    """Mean F1 of the genres, weighted by their clips; argument and result as `accuracy`."""
    support = counts.sum(axis=-1)
    return _ratio((_f1(counts) * support).sum(axis=-1), support.sum(axis=-1))


def _right(counts: np.ndarray) -> np.ndarray:
    return np.diagonal(counts, axis1=-2, axis2=-1)


def _f1(counts: np.ndarray) -> np.ndarray:
    return _ratio(2 * _right(counts), counts.sum(axis=-1) + counts.sum(axis=-2), 0)


def per_genre(label: np.ndarray, predicted: np.ndarray, genres: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support (true clips) of every genre; what is 0 / 0 counts as 0."""
    counts = confusion(label, predicted, len(genres))
    right, support = _right(counts), counts.sum(axis=1)
    precision, recall, f1 = _ratio(right, counts.sum(axis=0), 0), _ratio(right, support, 0), _f1(counts)
    return {
        genre: {
            "precision": float(precision[i]),
            "recall": float(recall[i]),
            "f1": float(f1[i]),
            "support": int(support[i]),
        }
        for i, genre in enumerate(genres)
    }


def one_against_rest(label: np.ndarray, log_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One-vs-rest, every score of every genre a case: (whether it is a true genre, score), both [n * genre].

    `label` is int [n], or bool [n, genre] where several genres can be true.
    The scores are ranked as they are: probabilities below the smallest float would be tied at 0.
    """
    label = np.asarray(label)
    true = label if label.ndim == 2 else np.arange(log_scores.shape[1]) == label[:, None]
    lowest = np.finfo(np.float64).min  # stands for log 0: scikit-learn takes finite scores only
    return true.ravel(), np.maximum(log_scores.astype(np.float64), lowest).ravel()


def precision_recall(label: np.ndarray, log_scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The precision-recall curve of all n x genre scores (MATT, section IV-B), in scikit-learn's order.

    Returns:
        Precision and recall [point], one for each distinct score, from recall 1 down, and the end (1, 0).
    """
    from sklearn.metrics import precision_recall_curve

    precision, recall, _ = precision_recall_curve(*one_against_rest(label, log_scores))
    return precision, recall


def precision_at(precision: np.ndarray, recall: np.ndarray, recalls: Sequence[float]) -> list[float]:
    """Precision where the recall first reaches each of `recalls`: at the smallest recall that is at least as high."""
    ascending, precision = recall[::-1], precision[::-1]
    # A hair below: a recall of 7 / 10 has reached 0.7 however both are rounded.
    return [float(precision[np.searchsorted(ascending, wanted - 1e-12)]) for wanted in recalls]


def micro_ap(label: np.ndarray, log_scores: np.ndarray) -> float:
    """Average precision of all n x genre scores (MATT, section IV-B); `label` as in `one_against_rest`."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*one_against_rest(label, log_scores)))


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
    """Accuracy of MATT's notebooks: a bag has its first clip's genre, and counts as many times as it has clips.

    Args:
        label: int [clip], bag after bag.
        log_scores: [clip, genre]: the bag's, the same for all its clips.
        offsets: [bag + 1], as in `Bags`.
    """
    first = offsets[:-1]
    return float(np.average(log_scores[first].argmax(axis=1) == label[first], weights=np.diff(offsets)))


def bag_accuracy(label: np.ndarray, log_scores: np.ndarray, offsets: np.ndarray) -> float:
    """Share of the bags whose first clip's genre is predicted; arguments as `paper_accuracy`."""
    first = offsets[:-1]
    return float(np.mean(log_scores[first].argmax(axis=1) == label[first]))


def bag_micro_ap(label: np.ndarray, log_scores: np.ndarray, offsets: np.ndarray) -> float:
    """Micro average precision with a row per bag, which has its first clip's genre; arguments as `paper_accuracy`."""
    first = offsets[:-1]
    return micro_ap(label[first], log_scores[first])


def bag_genres(label: np.ndarray, offsets: np.ndarray, num_genres: int) -> np.ndarray:
    """Returns the genres of each bag's clips, all of them: bool [bag, genre]; arguments as `paper_accuracy`.

    So do MATT's notebooks label the bags for the average precision over bags.
    """
    return np.logical_or.reduceat(np.arange(num_genres) == np.asarray(label)[:, None], offsets[:-1], axis=0)


def rare_genres(train_clips: np.ndarray, below: float) -> tuple[int, ...]:
    """Indexes of the genres with fewer than `below` training clips: MATT has a table of top-k accuracy for them."""
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
    mean = mean_log_odds(log_scores, offsets)
    return mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)


def mean_log_odds(log_odds: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Averages the clips' log odds over each bag: each genre's two log probabilities, averaged and normalized.

    Args:
        log_odds: [clip, genre], bag after bag.
        offsets: [bag + 1], as in `Bags`.

    Returns:
        Log odds [bag, genre].
    """
    return np.add.reduceat(log_odds, offsets[:-1], axis=0) / np.diff(offsets)[:, None]


def or_none(value: float) -> float | None:
    """Returns a value as JSON has it, which has no NaN: None instead."""
    return None if np.isnan(value) else float(value)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """Divides; where the denominator is 0 the result is another value."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.full(numerator.shape, otherwise, np.float64)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


# By name: the key in results.json and metrics.jsonl, and in `train.select`. Tables have this order.
METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy", accuracy),
    "balanced_accuracy": Metric("balanced accuracy", balanced_accuracy, in_terminal=False),
    "macro_f1": Metric("macro F1", macro_f1),
    "weighted_f1": Metric("weighted F1", weighted_f1, compared=False, in_terminal=False),
    "micro_ap": Metric(
        "micro AP",
        from_scores=micro_ap,
        resampled=lambda bootstrap, label, log_scores: bootstrap.micro_ap(label, log_scores),
    ),
    "ece": Metric(
        "ECE",
        from_scores=expected_calibration_error,
        resampled=lambda bootstrap, label, log_scores: bootstrap.expected_calibration_error(label, log_scores),
        higher_is_better=False,
        compared=False,
        in_terminal=False,
    ),
}
"""Name -> `Metric`: `mgc_jax.METRICS["macro_f1"].title`; `genre_metrics` computes them all."""
