"""What a configuration's task decides in evaluation: which metrics there are, and what they are computed from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mgc_jax.config.keys import MULTI_LABEL, SINGLE_LABEL
from mgc_jax.errors import UserError
from mgc_jax.evaluation import multi_label
from mgc_jax.evaluation.bootstrap import ArtistBootstrap
from mgc_jax.evaluation.metrics import METRICS, Metric, genre_metrics

_METRICS: Mapping[Any, Mapping[str, Metric]] = {
    SINGLE_LABEL: METRICS,
    MULTI_LABEL: multi_label.MULTI_LABEL_METRICS,
}


def metrics_of(task: str | None) -> Mapping[str, Metric]:
    """Returns the metrics of `config.task`, by name; None: results of before there were tasks.

    Raises:
        UserError: there is no such task.
    """
    if str(task or SINGLE_LABEL) not in _METRICS:
        raise UserError(f"there is no task {task!r}; tasks are {', '.join(_METRICS)}")
    return _METRICS[task or SINGLE_LABEL]


def metric_values(label: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Computes the metrics of the labels' task.

    Args:
        label: int [n], or bool [n, genre] where clips have several genres.
        scores: log scores, or then log odds, [n, genre].
        predicted: int [n]; with several genres not looked at.
    """
    return multi_label.set_metrics(label, scores) if label.ndim == 2 else genre_metrics(label, scores, predicted)


def metric_samples(
    bootstrap: ArtistBootstrap, label: np.ndarray, scores: np.ndarray, predicted: np.ndarray
) -> dict[str, np.ndarray]:
    """Computes those metrics of each resample that can be resampled: float64 [resample] by name."""
    if label.ndim == 2:
        return multi_label.set_metric_samples(bootstrap, label, scores)
    return bootstrap.metrics(label, scores, predicted)
