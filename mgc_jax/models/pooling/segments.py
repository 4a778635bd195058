"""Shared by the poolings: which clip belongs to which bag, and sums, softmax and look-ups within bags."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

Classify = Callable[[jax.Array], jax.Array]

_NOTHING = -1e30  # a score whose exponential is 0; unlike -inf it gives no NaN where a bag has no clip


class Target(NamedTuple):
    """Targets of the bags in training; 0 in places without a bag.

    Attributes:
        label: int32 [row, bag]: the genre.
        subgenre: int32 [row, bag]: an index into `subgenre_parents`; the genre itself where nothing finer is known.
    """

    label: Int[Array, "row bag"]
    subgenre: Int[Array, "row bag"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments:
    """Which bag of its row each clip belongs to.

    Attributes:
        of_clip: int [row, slot]: the number of the clip's bag; the number of slots where there is no clip.
        bags: places for bags in a row: more than the number of any bag there, at most the slots.
    """

    of_clip: Int[Array, "row slot"]
    bags: int = dataclasses.field(metadata={"static": True})


def membership(segments: Segments) -> Bool[Array, "row bag slot"]:
    """Returns whether a clip (last axis) belongs to a bag (middle axis)."""
    return segments.of_clip[:, None, :] == jnp.arange(segments.bags)[None, :, None]


def of_own_bag(values: Shaped[Array, "row bag *rest"], segments: Segments) -> Shaped[Array, "row slot *rest"]:
    """Returns for each clip the value of its bag; any bag's value where there is no clip."""
    segment = jnp.minimum(segments.of_clip, values.shape[1] - 1)
    index = segment.reshape(*segment.shape, *([1] * (values.ndim - 2)))
    return jnp.take_along_axis(values, index, axis=1, mode="clip")


def softmax_in_bag(
    scores: Float[Array, "*#leading slot"], member: Bool[Array, "*#leading slot"]
) -> Float[Array, "... slot"]:
    """Softmax over the clips of a bag; 0 for all others, and for all in a place without a bag."""
    weights = jax.nn.softmax(jnp.where(member, scores, _NOTHING), axis=-1)
    return jnp.where(member, weights, 0)


def log_sum_in_bag(
    logs: Float[Array, "row slot genre"], member: Bool[Array, "row bag slot"]
) -> Float[Array, "row bag genre"]:
    """Log of the sum, over the clips of each bag, of the exponentials."""
    masked = jnp.where(member[:, :, None], logs.swapaxes(1, 2)[:, None], _NOTHING)
    return jax.nn.logsumexp(masked, axis=-1)


def genre_scores(logits: Float[Array, "*leading genre"], multi_label: bool) -> Float[Array, "*leading genre"]:
    """What logits say of the genres: log probabilities of one among all; multi-label: each its own log odds."""
    return logits if multi_label else jax.nn.log_softmax(logits)


def uniform(member: Bool[Array, "row bag slot"]) -> Float[Array, "row bag slot"]:
    """The same weight for every clip of a bag."""
    return member / jnp.maximum(member.sum(-1, keepdims=True), 1)


def weighted_sum(
    attention: Float[Array, "row bag *genre slot"], embeddings: Float[Array, "row slot feature"]
) -> Float[Array, "row bag *genre feature"]:
    """The sum of the clips' embeddings by their weights."""
    return jnp.einsum("rb...s,rsf->rb...f", attention, embeddings)
