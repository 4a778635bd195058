"""Mean and standard deviation of the training clips."""

import dataclasses
import logging
from collections.abc import Callable

import numpy as np

from mgc_jax.data.corpus import Corpus

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Mean and standard deviation per mel band or feature: float32 [mel] or [feature]."""

    mean: np.ndarray
    std: np.ndarray


def standardization(
    corpus: Corpus,
    enabled: bool,
    max_clips: int | None = None,
    transform: Callable[[np.ndarray], np.ndarray] = lambda clips: clips,
) -> Standardization:
    """Returns the statistics of the training clips (scikit-learn's `StandardScaler` for features).

    Args:
        corpus: the corpus.
        enabled: False gives mean 0 and deviation 1.
        max_clips: of a larger training split, this many clips evenly spaced over it are used; None: all.
        transform: what becomes of stored clips [n, ...] before they are standardized.
    """
    rows = corpus.indices("train")
    width = transform(corpus.clips[rows[:1]]).shape[-1]
    if not enabled or len(rows) == 0:
        return Standardization(np.zeros(width, np.float32), np.ones(width, np.float32))
    if max_clips is not None and len(rows) > max_clips:
        rows = rows[np.linspace(0, len(rows) - 1, max_clips).astype(int)]
    # Sums of differences from the first clip: E[x^2] - E[x]^2 of values far from zero would cancel.
    shift = transform(corpus.clips[rows[:1]]).reshape(-1, width).astype(np.float64).mean(axis=0)
    total, squares, count = np.zeros(width), np.zeros(width), 0
    for some in np.array_split(rows, max(1, len(rows) // 64)):
        values = transform(corpus.clips[some]).reshape(-1, width).astype(np.float64) - shift
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
        count += len(values)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    mean += shift
    std[std <= 1e-6 * np.maximum(1, np.abs(mean))] = 1  # a constant feature stays at zero
    return Standardization(mean.astype(np.float32), std.astype(np.float32))
