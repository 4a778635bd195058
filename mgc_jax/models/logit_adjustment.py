"""Logit adjustment (Menon et al. 2020): the log prior of the training genres, in the loss or after it."""

import jax
import numpy as np


def adjust(log_scores: jax.Array, adjustment: np.ndarray) -> jax.Array:
    """Post-hoc logit adjustment (Menon et al. 2020): adds to the log scores [..., genre] and normalizes them again."""
    return jax.nn.log_softmax(log_scores + adjustment, axis=-1) if np.any(adjustment) else log_scores


def log_prior(count: np.ndarray) -> np.ndarray:
    """Log of the genres' shares, float32 [genre]; a genre that does not occur counts as half an example.

    Args:
        count: [genre]: training examples of each genre.
    """
    count = np.maximum(np.asarray(count, np.float64), 0.5)
    return np.log(count / count.sum()).astype(np.float32)
