"""The loss of a bag, and what changes it for a long tail of genres."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


def class_weights(name: str, count: np.ndarray, beta: float) -> np.ndarray:
    """Weight of each genre in the loss, float32 [genre].

    Args:
        name: none: all 1; class_balanced: by the inverse of the effective number of examples, (1 - beta) /
            (1 - beta^n) (Cui et al. 2019), scaled so that a training example weighs 1 on average: so the learning rate
            means the same. (Cui et al. let the weights of the genres sum to their number.)
        count: [genre]: training examples of each genre; one that does not occur has weight 0.
        beta: at least 0 and below 1; 0 gives equal weights, close to 1 the inverse of the number.
    """
    if name == "none":
        return np.ones(len(count), np.float32)
    count = np.asarray(count, np.float64)
    weight = np.where(count > 0, (1 - beta) / (1 - np.power(beta, np.maximum(count, 1))), 0)
    return (weight * count.sum() / (weight @ count)).astype(np.float32)


def bag_loss(
    log_scores: Float[Array, "*bag genre"],
    target: Float[Array, "*#bag genre"],
    options: Any,
    weight: Float[Array, " genre"],
    adjustment: Float[Array, " genre"],
) -> Float[Array, "*bag"]:
    """Returns the loss of every bag; log scores may have leading axes that the target lacks.

    Args:
        log_scores: log probabilities.
        target: shares of the genres: one-hot, or a mixture; they sum to one.
        options: `config.loss`; name cross_entropy or focal (Lin et al. 2017: times (1 - p)^focal_gamma).
        weight: of the genres, see `class_weights`.
        adjustment: added to the log scores in the loss only: tau times `log_prior` (Menon et al. 2020).
    """
    smoothing = options.label_smoothing
    target = (1 - smoothing) * target + smoothing / target.shape[-1]
    log_p = jax.nn.log_softmax(log_scores + adjustment, axis=-1)
    terms = -target * weight * log_p
    if options.name == "focal":
        # Never 0, whose power below 1 has no gradient.
        terms *= jnp.maximum(-jnp.expm1(log_p), 1e-7) ** options.focal_gamma
    return jnp.sum(terms, axis=-1)


def multi_label_loss(
    log_odds: Float[Array, "*bag genre"], target: Float[Array, "*#bag genre"]
) -> Float[Array, "*bag"]:
    """Returns the binary cross entropy of every bag, summed over the genres: the negative log likelihood of a set.

    Args:
        log_odds: of each genre.
        target: share of the bag's clips that have the genre, each between 0 and 1.
    """
    return jnp.sum(optax.sigmoid_binary_cross_entropy(log_odds, target), axis=-1)


def targets(
    label: Int[Array, "*bag"],
    num_genres: int,
    partner: Int[Array, "*bag"] | None = None,
    share: Float[Array, "*bag"] | None = None,
    *,
    shares: Float[Array, "target genre"] | None = None,
) -> Float[Array, "*bag genre"]:
    """Shares of the genres in each bag: one-hot, or under mixup that of the bag and of its partner.

    Multi-label, `label` and `partner` are rows of `shares` instead (`data.bags.genre_shares`).
    """

    def of(label: Int[Array, "*bag"]) -> Float[Array, "*bag genre"]:
        return jax.nn.one_hot(label, num_genres) if shares is None else shares[label]

    if partner is None or share is None:
        return of(label)
    return share[..., None] * of(label) + (1 - share[..., None]) * of(partner)
