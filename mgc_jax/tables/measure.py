"""One number of a table: of one run's predictions, and with mean, deviation and interval over the runs of a cell.

A metric is one word, or a word and what it is of: `accuracy`, `top_2 <100`, `f1 Rock`.
"""

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mgc_jax.evaluation import metrics
from mgc_jax.evaluation.bootstrap import ArtistBootstrap, interval
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.papers.matt_tables import RECALLS

AVERAGES = ("macro", "weighted")  # over genres
PERCENT = ("accuracy", "paper_accuracy", "alone_accuracy", "top_")  # how such a name begins


@dataclass(frozen=True)
class Measured:
    """A number of ours; percent for accuracies.

    Attributes:
        mean: over the seeds.
        deviation: standard deviation over the seeds; None of one.
        seeds: how many.
        low: lower end of the 95 % interval (bootstrap over artists, of the mean over seeds); None: not computed, or
            of too few artists.
        high: upper end.
        clips: the clips that it is of.
    """

    mean: float
    deviation: float | None
    seeds: int
    low: float | None
    high: float | None
    clips: int


def measure(metric: str, runs: Sequence[Predictions], level: str, resamples: int = 1000) -> Measured | None:
    """Measures the runs of a cell, which differ in their seed.

    The interval is about other artists: in each resample the runs see the same ones, and their mean is taken.

    Args:
        metric: see above.
        runs: predictions of one split, of the same clips.
        level: clip, clip_mean or bag.
        resamples: of the bootstrap.

    Returns:
        None where the runs do not have the level, or no clip counts.
    """
    if not runs or any(level not in run.levels for run in runs):
        return None
    scale = 100.0 if metric.startswith(PERCENT) else 1.0
    of_run = [_statistic(metric, run, level, resamples) for run in runs]
    if of_run[0].clips == 0:
        return None
    values = scale * np.array([statistic.value for statistic in of_run])
    low, high = None, None
    if of_run[0].resampled is not None:
        samples = np.mean([statistic.resampled() for statistic in of_run if statistic.resampled], axis=0)
        bounds = interval(samples, of_run[0].artists)
        if not np.isnan(bounds).any():
            low, high = (scale * bound for bound in bounds)
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    return Measured(float(values.mean()), deviation, len(runs), low, high, of_run[0].clips)


@dataclass(frozen=True)
class _Statistic:
    """A value of one run, and how to get those of the resamples."""

    value: float
    clips: int
    artists: int = 0  # who have clips that count
    resampled: Callable[[], np.ndarray] | None = None


@functools.lru_cache(maxsize=8)
def _drawn(artists: bytes, dtype: np.dtype, resamples: int) -> ArtistBootstrap:
    return ArtistBootstrap(np.frombuffer(artists, dtype), resamples)


def _bootstrap(artists: np.ndarray, resamples: int) -> ArtistBootstrap:
    """Draws once for all metrics of the same clips."""
    return _drawn(artists.tobytes(), artists.dtype, resamples)


def _statistic(metric: str, run: Predictions, level: str, resamples: int) -> _Statistic:
    kind, _, of = metric.partition(" ")
    scores, label = run.levels[level], run.label

    def bootstrap() -> ArtistBootstrap:
        return _bootstrap(run.artists, resamples)

    def artists(counted: np.ndarray | slice = slice(None)) -> int:
        return len(np.unique(run.artists[counted]))

    per_clip = _per_clip(kind, of, run, level)
    if per_clip is not None:
        right, counted = per_clip
        mean = float(right[counted].mean()) if counted.any() else float("nan")
        return _Statistic(mean, int(counted.sum()), artists(counted), lambda: bootstrap().mean(right, counted))
    if kind == "micro_ap":
        value = metrics.micro_ap(label, scores)
        return _Statistic(value, len(run), artists(), lambda: bootstrap().micro_ap(label, scores))
    if kind in ("bag_micro_ap", "multi_hot_bag_micro_ap"):
        first = run.offsets[:-1]
        genres = metrics.bag_genres(label, run.offsets, len(run.genres)) if kind.startswith("multi") else label[first]
        return _Statistic(
            metrics.micro_ap(genres, scores[first]),
            len(run),
            artists(first),
            lambda: _bootstrap(run.artists[first], resamples).micro_ap(genres, scores[first]),
        )
    if kind == "support":
        clips = len(run) if of in AVERAGES else int(np.sum(label == run.genres.index(of)))
        return _Statistic(float(clips), clips or len(run))
    if kind in ("precision", "recall", "f1"):
        return _of_genres(kind, of, run, level, resamples)
    value = float(_of_curve(metric, *_curve(_ById(run), level)))
    return _Statistic(value, len(run), artists(), lambda: _curves(_ById(run), level, resamples)[metric])


def _of_curve(metric: str, precision: np.ndarray, recall: np.ndarray) -> float:
    """One number of a precision-recall curve."""
    kind, _, of = metric.partition(" ")
    if kind == "precision_at":
        return metrics.precision_at(precision, recall, [float(of)])[0]
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    best = int(f1.argmax())
    return {"max_f1": f1, "precision_at_max_f1": precision, "recall_at_max_f1": recall}[kind][best]


@dataclass(frozen=True, eq=False)
class _ById:
    """Stands for predictions, whose arrays cannot be compared, among the keys of a cache."""

    run: Predictions

    def __hash__(self) -> int:
        return id(self.run)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.run is self.run


@functools.lru_cache(maxsize=4)
def _curve(key: _ById, level: str) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall at every threshold."""
    return metrics.precision_recall(key.run.label, key.run.levels[level])


@functools.lru_cache(maxsize=4)
def _confusions(key: _ById, level: str, resamples: int) -> np.ndarray:
    """The confusion matrix of each resample."""
    run = key.run
    return _bootstrap(run.artists, resamples).confusion(run.label, run.predicted(level), len(run.genres))


@functools.lru_cache(maxsize=32)
def _curves(key: _ById, level: str, resamples: int) -> dict[str, np.ndarray]:
    """All numbers of the curves of the resamples, by metric: one sort serves them all."""
    run = key.run
    found = _bootstrap(run.artists, resamples).curve_metrics(run.label, run.levels[level], RECALLS)
    at = {f"precision_at {recall}": found["precision_at"][:, i] for i, recall in enumerate(RECALLS)}
    return {name: values for name, values in found.items() if name != "precision_at"} | at


def _per_clip(kind: str, of: str, run: Predictions, level: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (value of each clip, whether it counts) of a metric that is a mean over clips; None of another one."""
    right = run.predicted(level) == run.label
    everything = np.ones(len(run), bool)
    if kind == "accuracy":
        return right, everything
    if kind == "alone_accuracy":
        return right, np.repeat(run.bag_sizes == 1, run.bag_sizes)
    if kind == "paper_accuracy":  # a bag, with all its clips, has its first clip's genre
        first = np.repeat(run.offsets[:-1], run.bag_sizes)
        return run.predicted(level) == run.label[first], everything
    if kind.startswith("top_"):
        k = int(kind.removeprefix("top_"))
        counted = np.isin(run.label, rare_genres(run, of))
        return metrics.among_top_k(run.label, run.levels[level], k), counted
    return None


def rare_genres(run: Predictions, name: str) -> tuple[int, ...]:
    """Returns indexes of rare genres, found from the training counts; none where these are unknown.

    Args:
        run: gives the counts.
        name: "<100": fewer training clips than that; "<200 (paper, 100)": the list of the paper whose shortest list is
            that of 100; see `mgc_jax.evaluation.metrics.paper_rare_genres`.
    """
    limit, paper, smallest = re.fullmatch(r"<(\d+)( \(paper, (\d+)\))?", name).groups()  # type: ignore[union-attr]
    if run.train_clips is None or (paper and run.train_clips_outside_small is None):
        return ()
    if not paper:
        return metrics.rare_genres(run.train_clips, int(limit))
    assert run.train_clips_outside_small is not None
    return metrics.paper_rare_genres(run.train_clips, run.train_clips_outside_small, int(limit), int(smallest))


def _of_genres(kind: str, of: str, run: Predictions, level: str, resamples: int) -> _Statistic:
    """Precision, recall or F1 of a genre, or their mean over the genres that occur, alike or by their clips."""
    predicted, genres = run.predicted(level), run.genres

    def rates(counts: np.ndarray, nothing: float = 0.0) -> np.ndarray:
        right = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
        support, predictions = counts.sum(axis=-1), counts.sum(axis=-2)
        below = {"precision": predictions, "recall": support, "f1": (support + predictions) / 2}[kind]
        rate = right / np.maximum(below, np.finfo(float).tiny)
        if of not in AVERAGES:  # of a genre that does not occur, a resample says nothing
            occurs = support > 0 if kind == "recall" else support + predictions > 0
            return np.where(occurs, rate, nothing)[..., genres.index(of)]
        weight = support if of == "weighted" else support + predictions > 0
        return (rate * weight).sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1)

    value = float(rates(metrics.confusion(run.label, predicted, len(genres))))
    counted = np.ones(len(run), bool) if of in AVERAGES else run.label == genres.index(of)
    return _Statistic(
        value,
        int(counted.sum()),
        len(np.unique(run.artists[counted])),
        lambda: rates(_confusions(_ById(run), level, resamples), np.nan),
    )
