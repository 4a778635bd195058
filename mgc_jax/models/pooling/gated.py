"""Gated attention."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgc_jax.models.pooling.options import check_size
from mgc_jax.models.pooling.segments import (
    Classify,
    Segments,
    Target,
    genre_scores,
    membership,
    softmax_in_bag,
    weighted_sum,
)


class GatedAttentionPooling(nnx.Module):
    """Gated attention: clip s has the score w . (tanh(V s) * sigmoid(U s)) (Ilse et al. 2018, equation 9).

    Attributes:
        content: V.
        gate: U.
        output: w.
    """

    def __init__(
        self, features: int, num_genres: int, *, hidden: int = 128, multi_label: bool = False, rngs: nnx.Rngs
    ):
        """Builds the pooling.

        Args:
            features: width of an embedding.
            num_genres: number of labels.
            hidden: width of the hidden layer.
            multi_label: whether the scores are log odds of each genre.
            rngs: source of the initial weights.
        """
        check_size("gated_attention", "hidden", hidden)
        self.features, self.multi_label = features, multi_label
        glorot = nnx.initializers.glorot_uniform()
        self.content = nnx.Linear(features, hidden, use_bias=False, kernel_init=glorot, rngs=rngs)
        self.gate = nnx.Linear(features, hidden, use_bias=False, kernel_init=glorot, rngs=rngs)
        self.output = nnx.Linear(hidden, 1, use_bias=False, kernel_init=glorot, rngs=rngs)

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag slot"]]:
        """Returns log scores of the bags, and the clips' weights."""
        scores = self.output(jnp.tanh(self.content(embeddings)) * jax.nn.sigmoid(self.gate(embeddings)))
        attention = softmax_in_bag(scores.swapaxes(1, 2), membership(segments))
        return genre_scores(classify(weighted_sum(attention, embeddings)), self.multi_label), attention
