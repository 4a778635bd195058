"""Logit adjustment (Menon et al. 2020): the log prior of the training genres, in the loss or after training."""

import jax
import numpy as np


def log_prior(count: np.ndarray) -> np.ndarray:
    """Returns the log prior of the genres, float32 [genre], from their frequencies.

    Args:
        count: [genre]: number of training examples of each genre. A genre without any counts as half an example.
    """
    count = np.maximum(np.asarray(count, np.float64), 0.5)
    return np.log(count / count.sum()).astype(np.float32)


def adjust(log_scores: jax.Array, adjustment: np.ndarray) -> jax.Array:
    """Applies post-hoc logit adjustment (Menon et al. 2020, section 4.1).

    Args:
        log_scores: [..., genre]: log probabilities, or logits.
        adjustment: float32 [genre], added to them: -tau times `log_prior`; all zero: nothing is done.

    Returns:
        Log probabilities [..., genre], normalized again.
    """
    return jax.nn.log_softmax(log_scores + adjustment, axis=-1) if np.any(adjustment) else log_scores
