"""How far chance reaches: bootstrap over artists, paired comparisons, and genres that few artists carry.

Clips of an artist are alike, so artists are what is drawn: 2,500 clips by 700 artists say less than 2,500 independent
clips would. The intervals are about other music of the same sort, scored by the same model; how much another seed of
the training would change is not in them.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse

from mgc_jax.evaluation.metrics import METRICS, confidence_bins, one_against_rest, or_none

# Of fewer artists there is no interval. The bootstrap knows only the artists that it has: of the mean of n equal ones
# its percentile interval is sqrt((n - 1) / n) 1.96 / t(n - 1) as wide as Student's (Hesterberg, What Teachers Should
# Know About the Bootstrap, The American Statistician 69, 2015: "narrowness bias"). With 10, the 95 % are 90 %, with 5
# they are 85 %, with 3 they are 75 %; a single artist, or two who are alike, give an interval without any width.
FEWEST_ARTISTS = 10

# Resamples that are computed at a time: their curves are held at once.
_BLOCK = 8

# Of thresholds x resamples, likewise.
_MOST_COUNTS = 2**22


class ArtistBootstrap:
    """Draws artists with replacement, all their clips with them, and computes statistics of each resample.

    The draws depend on the names of the artists, the number of resamples and the seed alone, so two models scored on
    the same clips are compared draw by draw. Statistics are made of sums over each artist's clips, weighted by how
    often the artist was drawn.

    Examples:
        >>> import mgc_jax, numpy as np
        >>> draws = mgc_jax.ArtistBootstrap(np.array(["a", "a", "b"]), resamples=200)
        >>> accuracy = draws.mean(np.array([1.0, 0.0, 1.0]))  # [resample]
        >>> low, high = np.percentile(accuracy, [2.5, 97.5])  # far too narrow: two artists

    Attributes:
        artists: str [artist], sorted.
        draws: float64 [resample, artist]: how many times each artist was drawn.
    """

    def __init__(self, artists: np.ndarray, resamples: int = 1000, seed: int = 0):
        """Draws.

        Args:
            artists: str [clip].
            resamples: how many.
            seed: of the draws.
        """
        self.artists, self._artist = np.unique(artists, return_inverse=True)
        number = len(self.artists)
        self.draws = np.zeros((resamples, number))
        if number:
            self.draws[:] = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), resamples)
        self._ranked: tuple[Any, Any, dict[str, np.ndarray]] = None, None, {}

    def count(self, counted: np.ndarray) -> int:
        """Returns how many artists have clips that count: bool [clip]."""
        return len(np.unique(self._artist[counted]))

    def mean(self, value: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """Weighted mean of a value per clip in each resample: float64 [resample]; NaN where no clip counts.

        Args:
            value: [clip]; where the weight is 0 it may be anything.
            weight: [clip]; a mask picks a subset; by default 1.
        """
        weight = np.ones(len(self._artist)) if weight is None else np.asarray(weight, np.float64)
        return self.sum(np.where(weight, value, 0) * weight) / _not_zero(self.sum(weight))

    def confusion(self, label: np.ndarray, predicted: np.ndarray, num_genres: int) -> np.ndarray:
        """Confusion matrix of each resample: float64 [resample, true genre, predicted genre], of whole numbers."""
        cells = np.asarray(label, np.int64) * num_genres + predicted
        shares = self._shares(cells, np.ones(len(cells)), num_genres**2)
        return (shares.T @ self.draws.T).T.reshape(-1, num_genres, num_genres)

    def metrics(
        self, label: np.ndarray, log_scores: np.ndarray, predicted: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Computes the `METRICS` of each resample, those that can be resampled: float64 [resample] by name.

        A genre whose few artists are all not drawn does not occur in a resample, and so is not in its balanced
        accuracy and macro F1. Where such genres are the hard ones, these two lie higher than those of all the clips.
        """
        if predicted is None:
            predicted = log_scores.argmax(axis=1)
        counts = self.confusion(label, predicted, log_scores.shape[1])
        samples = {}
        for name, metric in METRICS.items():
            if metric.from_confusion is not None:
                samples[name] = metric.from_confusion(counts)
            elif metric.resampled is not None:
                samples[name] = metric.resampled(self, label, log_scores)
        return samples

    def ranking(self, label: np.ndarray, log_scores: np.ndarray) -> dict[str, np.ndarray]:
        """Average precision and area under the ROC curve of several genres per clip, of each resample.

        The last result is kept, for several metrics ask for it.

        Args:
            label: bool [clip, genre].
            log_scores: [clip, genre].

        Returns:
            `macro_ap` and `macro_auc`, the means over the genres, and `micro_ap` and `micro_auc`, of all scores in one
            ranking: float64 [resample]. A genre that no clip of a resample has (or, of the area, that all have) is not
            in the mean of that resample.
        """
        if not (label is self._ranked[0] and log_scores is self._ranked[1]):
            pairs = zip(label.T, log_scores.T, strict=True)
            values = np.stack([self._ap_and_auc(has, score, self._artist) for has, score in pairs])
            there = ~np.isnan(values)
            macro = np.where(there, values, 0).sum(axis=0) / _not_zero(there.sum(axis=0))
            micro = self._ap_and_auc(label.ravel(), log_scores.ravel(), np.repeat(self._artist, label.shape[1]))
            names = ("macro_ap", "macro_auc", "micro_ap", "micro_auc")
            self._ranked = label, log_scores, dict(zip(names, (*macro, *micro), strict=True))
        return self._ranked[2]

    def _ap_and_auc(self, positive: np.ndarray, score: np.ndarray, artist: np.ndarray) -> np.ndarray:
        """Average precision, and area under the ROC curve, of one ranking: float64 [2, resample]; NaN where undefined.

        Args:
            positive: bool [case].
            score: [case].
            artist: int [case].
        """
        # Both change only where a true case is found: cases are counted at, and between, the scores of true cases.
        thresholds = np.unique(-score[positive])
        after = np.searchsorted(thresholds, -score)
        at = np.append(thresholds, np.inf)[after] == -score
        columns, ones = 2 * len(thresholds) + 1, np.ones(len(score))
        of_all = _sums_of(artist, 2 * after + at, ones, (len(self.artists), columns))
        of_true = _sums_of(artist[positive], after[positive], ones[positive], (len(self.artists), len(thresholds)))
        parts = [
            _ap_and_auc((of_all.T @ draws.T), (of_true.T @ draws.T))
            for draws in np.array_split(self.draws, -(-columns * len(self.draws) // _MOST_COUNTS))
        ]
        return np.concatenate(parts, axis=1)

    def micro_ap(self, label: np.ndarray, log_scores: np.ndarray) -> np.ndarray:
        """Micro average precision of each resample: float64 [resample]; `label`: int [clip] or bool [clip, genre]."""
        result = np.full(len(self.draws), np.nan)
        for block, found, above in self._curves(label, log_scores):
            gained = np.diff(found, axis=0, prepend=0)
            result[block] = np.einsum("tr,tr->r", gained, found / np.maximum(above, 1)) / _not_zero(found[-1])
        return result

    def curve_metrics(
        self, label: np.ndarray, log_scores: np.ndarray, recalls: Sequence[float]
    ) -> dict[str, np.ndarray]:
        """What the micro-averaged precision-recall curve of each resample looks like; NaN where no clip counts.

        Args:
            label: int [clip].
            log_scores: [clip, genre].
            recalls: where precision is asked for.

        Returns:
            `max_f1`, the highest F1, and `precision_at_max_f1` and `recall_at_max_f1`: float64 [resample];
            `precision_at`, as `mgc_jax.evaluation.metrics.precision_at`: float64 [resample, recall].
        """
        at_best = np.full((3, len(self.draws)), np.nan)
        at_recalls = np.full((len(self.draws), len(recalls)), np.nan)
        for block, found, above in self._curves(label, log_scores):
            every = _not_zero(found[-1])
            precision, recall, f1 = found / np.maximum(above, 1), found / every, 2 * found / (above + every)
            best = f1.argmax(axis=0), np.arange(f1.shape[1])
            at_best[:, block] = f1[best], precision[best], recall[best]
            for column, wanted in enumerate(recalls):
                # A hair below, as in `mgc_jax.evaluation.metrics.precision_at`.
                reached = np.argmax(recall >= wanted - 1e-12, axis=0), best[1]
                at_recalls[block, column] = np.where(np.isnan(every), np.nan, precision[reached])
        names = ("max_f1", "precision_at_max_f1", "recall_at_max_f1")
        return dict(zip(names, at_best, strict=True)) | {"precision_at": at_recalls}

    def _curves(self, label: np.ndarray, log_scores: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """For blocks of resamples, of one ranking of all scores: what is at or above each threshold.

        The thresholds fall, and are those at which a true genre is found; elsewhere neither recall nor F1 nor average
        precision can grow. Between two of them, an artist has few scores: sparse sums of these by threshold and
        artist, times the draws, are exact, and much less than a pass over all scores for each resample.

        Yields:
            The resamples; true genres found, and scores: float64 [threshold, resample] each, of whole numbers.
        """
        positive, score = one_against_rest(label, log_scores)
        if not positive.any():
            return
        order = np.argsort(-score, kind="stable")
        positive, artist = positive[order], np.repeat(self._artist, log_scores.shape[1])[order]
        # Where the score is about to fall: tied scores share one threshold. Only those with true genres count.
        last = np.r_[np.flatnonzero(np.diff(score[order])), len(order) - 1]
        last = last[np.unique(np.searchsorted(last, np.flatnonzero(positive)))]
        threshold = np.searchsorted(last, np.arange(last[-1] + 1))
        positive, artist = positive[: len(threshold)], artist[: len(threshold)]
        shape = len(last), len(self.artists)
        above = _sums_of(threshold, artist, np.ones(len(threshold)), shape)
        found = _sums_of(threshold[positive], artist[positive], np.ones(positive.sum()), shape)
        for start in range(0, len(self.draws), _BLOCK):
            block = slice(start, min(start + _BLOCK, len(self.draws)))
            drawn = np.ascontiguousarray(self.draws[block].T)
            yield block, np.cumsum(found @ drawn, axis=0), np.cumsum(above @ drawn, axis=0)

    def expected_calibration_error(self, label: np.ndarray, log_scores: np.ndarray, bins: int = 15) -> np.ndarray:
        """Expected calibration error of each resample: float64 [resample].

        Chance only ever adds to this error, and resampling adds chance: most values lie above that of the clips.
        """
        confidence, right, number = confidence_bins(label, log_scores, bins)
        gaps = (self._shares(number, right - confidence, bins).T @ self.draws.T).T
        return np.abs(gaps).sum(axis=1) / _not_zero(self.sum(np.ones(len(right))))

    def sum(self, value: np.ndarray) -> np.ndarray:
        """Sum of a value per clip, [clip], in each resample: float64 [resample]."""
        return self.draws @ np.bincount(self._artist, value, len(self.artists))

    def _shares(self, column: np.ndarray, value: np.ndarray, columns: int) -> scipy.sparse.csr_array:
        """Sums of a value per clip by artist and column: sparse [artist, column]."""
        return _sums_of(self._artist, column, value, (len(self.artists), columns))


def _sums_of(row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Sums of values by row and column: sparse."""
    return scipy.sparse.coo_array((value, (row, column)), shape=shape).tocsr()


def _ap_and_auc(every: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Average precision and area under the ROC curve: float64 [2, resample]; NaN where undefined.

    Args:
        every: [2 threshold + 1, resample]: cases above the first threshold, at it, between it and the next, and so on.
        true: [threshold, resample]: true cases at each threshold.
    """
    above, found = np.cumsum(every, axis=0), np.cumsum(true, axis=0)
    total = found[-1] if len(found) else np.zeros(every.shape[1])
    ap = np.sum(true * found / np.maximum(above[1::2], 1), axis=0) / _not_zero(total)
    false = above[-1] - total
    false_before = above[:-1:2] - (found - true)
    tied = every[1::2] - true
    area = np.sum(true * (false - false_before - tied / 2), axis=0) / _not_zero(total * false)
    return np.stack([ap, area])


def interval(samples: np.ndarray, artists: int, confidence_level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the values of the resamples; NaN among them does not count.

    Args:
        samples: [resample].
        artists: how many have clips that count in the values.
        confidence_level: of the interval.

    Returns:
        Low and high; both NaN if there are fewer than `FEWEST_ARTISTS`, or no values.
    """
    samples = samples[~np.isnan(samples)]
    if artists < FEWEST_ARTISTS or not len(samples):
        return float("nan"), float("nan")
    low, high = np.quantile(samples, [(1 - confidence_level) / 2, (1 + confidence_level) / 2])
    return float(low), float(high)


def json_interval(samples: np.ndarray, artists: int) -> list[float | None]:
    """Returns the 95 % interval as JSON has it, with None for NaN; arguments as `interval`."""
    return [or_none(bound) for bound in interval(samples, artists)]


class PairedDifference(NamedTuple):
    """A difference of two models: its 95 % interval, and the two-sided p-value of there being none; NaN: not known."""

    low: float
    high: float
    p: float


def paired(samples_a: np.ndarray, samples_b: np.ndarray, artists: int) -> PairedDifference:
    """Compares a statistic of two models on the same resamples: a minus b.

    Args:
        samples_a: [resample]: from an `ArtistBootstrap`.
        samples_b: [resample]: from one with the same artists, resamples and seed.
        artists: how many have clips that count in the values.

    Returns:
        The percentile interval of the difference, and as p twice the smaller share of resamples at or beyond 0, with
        one more counted there so that p is never 0. Artists are drawn, so clips of an artist need not be independent.
        All NaN if there are fewer than `FEWEST_ARTISTS`.
    """
    difference = samples_a - samples_b
    difference = difference[~np.isnan(difference)]
    if artists < FEWEST_ARTISTS:
        difference = difference[:0]
    beyond = min(np.sum(difference <= 0), np.sum(difference >= 0))
    p = min(1.0, 2 * (beyond + 1) / (len(difference) + 1)) if len(difference) else float("nan")
    return PairedDifference(*interval(difference, artists), p)


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> float:
    """Exact McNemar test that two models are right equally often: the two-sided p-value.

    It takes the clips as independent, which clips of one artist are not: so p comes out too small. `paired` does not.

    Args:
        right_a: bool [clip].
        right_b: bool [clip], of the same clips.
    """
    from scipy.stats import binomtest

    right_a, right_b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def concentration(label: np.ndarray, artists: np.ndarray, genres: Sequence[str]) -> dict[str, dict[str, float]]:
    """How many artists carry each genre.

    Args:
        label: int [clip].
        artists: str [clip].
        genres: label names.

    Returns:
        For each genre `clips`, `artists`, `largest_share` of an artist in the clips, and `effective_artists`: so many
        with equal shares would be as concentrated, 1 / (sum of squared shares). Without clips the last two are 0.
    """
    table = {}
    for i, genre in enumerate(genres):
        count = np.unique(artists[label == i], return_counts=True)[1]
        clips = int(count.sum())
        table[genre] = {
            "clips": clips,
            "artists": len(count),
            "largest_share": float(count.max() / clips) if clips else 0.0,
            "effective_artists": float(clips**2 / np.sum(count**2)) if clips else 0.0,
        }
    return table


_FEW_ARTISTS = 5
_FEW_CLIPS = 10


def concentration_warnings(label: np.ndarray, artists: np.ndarray, genres: Sequence[str]) -> list[str]:
    """A sentence for each genre that few artists carry; arguments as `concentration`.

    Few: fewer than 5 effective ones, which is also so whenever one artist has at least half of the clips. Where one
    has, and the clips are at least 10, the sentence says how many.
    """
    sentences = []
    for genre, row in concentration(label, artists, genres).items():
        clips, number = int(row["clips"]), int(row["artists"])
        if not clips or row["effective_artists"] >= _FEW_ARTISTS:
            continue
        if row["largest_share"] >= 0.5 and clips >= _FEW_CLIPS:
            what = f"{round(row['largest_share'] * clips)} of {clips} clips are by one artist"
        else:
            what = f"{clips} {'clip' if clips == 1 else 'clips'} by {number} {'artist' if number == 1 else 'artists'}"
            if number >= _FEW_ARTISTS:
                what += f", who count as {row['effective_artists']:.1f} with equal shares"
        sentences.append(f"{genre}: {what}; its recall says little about the genre")
    return sentences


def _not_zero(total: np.ndarray) -> np.ndarray:
    return np.where(total == 0, np.nan, total)
