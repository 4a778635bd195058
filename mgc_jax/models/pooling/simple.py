"""Poolings without weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mgc_jax.models.pooling.segments import (
    Classify,
    Segments,
    Target,
    genre_scores,
    log_sum_in_bag,
    membership,
    of_own_bag,
    softmax_in_bag,
    uniform,
    weighted_sum,
)


class _Weightless(nnx.Module):
    """Base class: only the width of an embedding is needed, and whether the scores are log odds of each genre."""

    def __init__(self, features: int, num_genres: int, *, multi_label: bool = False, rngs: nnx.Rngs):
        self.features, self.multi_label = features, multi_label


class MeanPooling(_Weightless):
    """The mean of the clips' embeddings: MATT's baseline "+MIL", whose aggregation was never published.

    On bags of one clip it is the identity. Under a linear head without dropout the bag's logits are the mean of
    the clips' logits.
    """

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag slot"]]:
        """Returns log scores of the bags, and the clips' weights."""
        attention = uniform(membership(segments))
        return genre_scores(classify(weighted_sum(attention, embeddings)), self.multi_label), attention


class MaxPooling(_Weightless):
    """The maximum of each feature over the clips of the bag.

    A clip's weight is the share of the features whose maximum it supplies; clips with equal values divide it, and
    the gradient, evenly.
    """

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag slot"]]:
        """Returns log scores of the bags, and the clips' weights."""
        member = membership(segments)
        values = jax.lax.stop_gradient(embeddings)  # the maxima are only compared with; the gradient takes the shares
        maximum = _maximum(values, segments)
        wins = (values == of_own_bag(maximum, segments)).astype(embeddings.dtype)
        ties = weighted_sum(member.astype(embeddings.dtype), wins)
        share = wins / jnp.maximum(of_own_bag(ties, segments), 1)
        vectors = weighted_sum(member.astype(embeddings.dtype), share * embeddings)
        return genre_scores(classify(vectors), self.multi_label), jnp.where(member, share.mean(-1)[:, None], 0)


def _maximum(values: Float[Array, "row slot feature"], segments: Segments) -> Float[Array, "row bag feature"]:
    """The maximum of each feature over the clips of each bag."""
    if segments.bags == 1:  # without the scatter, which not every exported format has
        in_bag = membership(segments)[:, 0, :, None]
        return jnp.max(jnp.where(in_bag, values, -jnp.inf), axis=1, keepdims=True)
    in_row = functools.partial(jax.ops.segment_max, num_segments=segments.bags)
    return jax.vmap(in_row)(values, segments.of_clip)


class MeanProbabilityPooling(_Weightless):
    """The mean of the genre probabilities that the head gives to each clip: by softmax, or multi-label by sigmoid."""

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag slot"]]:
        """Returns log scores of the bags, and the clips' weights."""
        member, logits = membership(segments), classify(embeddings)
        if self.multi_label:  # the mean's log odds: both means are divided by the same size
            logs, others = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
            return log_sum_in_bag(logs, member) - log_sum_in_bag(others, member), uniform(member)
        logs = jax.nn.log_softmax(logits)
        size = jnp.maximum(member.sum(-1, keepdims=True), 1)
        return log_sum_in_bag(logs, member) - jnp.log(size), uniform(member)


class NoisyOrPooling(_Weightless):
    """Noisy-or: a bag is of a genre unless every clip fails to be, 1 - prod(1 - p), normalized over the genres.

    p is the softmax of a clip; on a bag of one clip the result is that softmax. A clip's weight for a genre is its
    share of the sum of log(1 - p). Multi-label p is the sigmoid, and nothing is normalized.
    """

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag genre slot"]]:
        """Returns log scores of the bags, and the clips' weights for each genre."""
        member = membership(segments)
        logits = classify(embeddings)
        log_evidence = _log_softplus(logits if self.multi_label else _log_odds(logits))  # of -log(1 - p)
        attention = softmax_in_bag(log_evidence.swapaxes(1, 2)[:, None], member[:, :, None])
        in_bag = log_sum_in_bag(log_evidence, member)
        scores = _log_probability(in_bag)
        if self.multi_label:  # log p - log(1 - p)
            return scores + jnp.exp(in_bag), attention
        return jax.nn.log_softmax(scores), attention


_SMALL = -15.0  # x, log(softplus(x)) and log(1 - exp(-exp(x))) are the same number below


def _log_odds(logits: Float[Array, "*leading genre"]) -> Float[Array, "*leading genre"]:
    """log(p / (1 - p)) of the softmax p: exact also where p rounds to 0 or 1."""
    itself = np.eye(logits.shape[-1], dtype=bool)
    others = jnp.where(itself, -1e30, logits[..., None, :])
    return logits - jax.nn.logsumexp(others, axis=-1)


def _log_softplus(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return jnp.where(x < _SMALL, x, jnp.log(jax.nn.softplus(jnp.maximum(x, _SMALL))))


def _log_probability(log_evidence: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """log(1 - exp(-evidence))."""
    evidence = jnp.exp(jnp.maximum(log_evidence, _SMALL))
    return jnp.where(log_evidence < _SMALL, log_evidence, jnp.log(-jnp.expm1(-evidence)))
