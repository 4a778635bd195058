"""Pooling: the embeddings of a bag's clips in, one bag vector out, or one per genre.

Bags lie side by side in rows (see `mgc_jax.data.batches`): slot s of a row's output belongs to the bag with
segment number s; slots without a bag give finite values that nobody reads. A pooling is called as
`pooling(embeddings, segment, label)`. `label` is given in training only. It returns the bag vectors,
[row, bag, feature], or [row, bag, genre, feature] where each genre has a view of its own, and the attention
weights of the clips, [row, bag, slot] or [row, bag, genre, slot].
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int


def membership(segment: Int[Array, "row slot"]) -> Bool[Array, "row slot slot2"]:
    """Returns whether a clip (last axis) belongs to a bag (middle axis)."""
    return segment[:, None, :] == jnp.arange(segment.shape[1])[None, :, None]


def softmax_in_bag(
    scores: Float[Array, "*leading slot"], member: Bool[Array, "*leading slot"]
) -> Float[Array, "*leading slot"]:
    """Softmax over the clips of a bag; 0 for all others, and for all in a slot without a bag."""
    weights = jax.nn.softmax(jnp.where(member, scores, -1e30), axis=-1)
    return jnp.where(member, weights, 0)


class MeanPooling(nnx.Module):
    """The mean of the clips' embeddings: MATT's baseline "+MIL", whose aggregation was never published.

    On bags of one clip it is the identity.
    """

    def __init__(self, features: int, num_genres: int, *, rngs: nnx.Rngs):
        del features, num_genres, rngs  # nothing to learn

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segment: Int[Array, "row slot"],
        label: Int[Array, "row slot"] | None = None,
    ) -> tuple[Float[Array, "row slot feature"], Float[Array, "row slot slot2"]]:
        """Returns bag vectors and the clips' weights."""
        member = membership(segment)
        attention = member / jnp.maximum(member.sum(-1, keepdims=True), 1)
        return jnp.einsum("rbs,rsf->rbf", attention, embeddings), attention


class MattPooling(nnx.Module):
    """MATT: selective attention with one query per genre, as MATT's published notebooks have it.

    Scores are dot products of clip and query, softmax runs over the clips of the bag, and tanh follows the
    weighted sum. In training the query of the bag's own genre is used; otherwise every genre looks at the bag
    with its own query. Unlike in the published code, where a slip left them at their random start, the
    queries are trained. (The paper's equation 1 scores clips by tanh(W[s; q]) + b instead, under which the query
    cannot change the rank of the clips.)

    Attributes:
        queries: [genre, feature].
    """

    def __init__(self, features: int, num_genres: int, *, rngs: nnx.Rngs):
        self.queries = nnx.Param(nnx.initializers.xavier_uniform()(rngs.params(), (num_genres, features)))

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segment: Int[Array, "row slot"],
        label: Int[Array, "row slot"] | None = None,
    ) -> tuple[Float[Array, "row slot *genre feature"], Float[Array, "row slot *genre slot2"]]:
        """Returns one vector per bag if labels are given, else one per bag and genre; and the attention."""
        member = membership(segment)
        if label is not None:
            scores = jnp.einsum("rbf,rsf->rbs", self.queries[label], embeddings)
            attention = softmax_in_bag(scores, member)
            return jnp.tanh(jnp.einsum("rbs,rsf->rbf", attention, embeddings)), attention
        scores = jnp.einsum("gf,rsf->rgs", self.queries[...], embeddings)
        shape = (*member.shape[:2], *scores.shape[1:])
        attention = softmax_in_bag(
            jnp.broadcast_to(scores[:, None], shape), jnp.broadcast_to(member[:, :, None], shape)
        )
        return jnp.tanh(jnp.einsum("rbgs,rsf->rbgf", attention, embeddings)), attention


POOLINGS = {"none": MeanPooling, "mean": MeanPooling, "matt": MattPooling}
