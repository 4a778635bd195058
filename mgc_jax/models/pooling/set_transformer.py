"""A small set transformer."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.errors import UserError
from mgc_jax.models.pooling.options import check_size
from mgc_jax.models.pooling.segments import Classify, Segments, Target, genre_scores, membership, softmax_in_bag


class Attention(nnx.Module):
    """Multi-head scaled dot-product attention.

    Attributes:
        query: linear, like the next three.
        key: of the clips.
        value: of the clips.
        output: from the joined heads.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform()
        self.heads = heads
        self.query, self.key, self.value, self.output = (
            nnx.Linear(width, width, kernel_init=glorot, rngs=rngs) for _ in range(4)
        )

    def __call__(
        self,
        asking: Float[Array, "row query width"],
        clips: Float[Array, "row slot width"],
        mask: Bool[Array, "row query slot"],
    ) -> tuple[Float[Array, "row query width"], Float[Array, "row query slot"]]:
        """Returns what each query finds among the clips in its mask, and the weights, averaged over the heads."""

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(*x.shape[:2], self.heads, -1)

        query, key, value = split(self.query(asking)), split(self.key(clips)), split(self.value(clips))
        scores = jnp.einsum("rqhd,rshd->rhqs", query, key) * query.shape[-1] ** -0.5
        weights = softmax_in_bag(scores, mask[:, None])
        found = jnp.einsum("rhqs,rshd->rqhd", weights, value)
        return self.output(found.reshape(asking.shape)), weights.mean(1)


class Block(nnx.Module):
    """Attention and a feed-forward layer, each with layer norm before and a residual around it.

    Attributes:
        attention_norm: layer norm before the attention.
        attention: the attention.
        norm: layer norm before the feed-forward layer.
        expand: linear, to twice the width; ReLU follows.
        contract: linear, back to the width.
    """

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform()
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, heads, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.expand = nnx.Linear(width, 2 * width, kernel_init=glorot, rngs=rngs)
        self.contract = nnx.Linear(2 * width, width, kernel_init=glorot, rngs=rngs)

    def __call__(
        self,
        asking: Float[Array, "row query width"],
        clips: Float[Array, "row slot width"],
        mask: Bool[Array, "row query slot"],
    ) -> tuple[Float[Array, "row query width"], Float[Array, "row query slot"]]:
        """Returns the queries with what they found, and the attention's weights."""
        found, weights = self.attention(self.attention_norm(asking), self.attention_norm(clips), mask)
        x = asking + found
        return x + self.contract(nnx.relu(self.expand(self.norm(x)))), weights


class SetTransformerPooling(nnx.Module):
    """Self-attention among the clips of a bag, then attention of one learned seed (Lee et al. 2019), with layer norm
    before each layer instead of after it.

    Permuting the clips changes nothing. A clip's weight is the seed's, averaged over the heads.

    Attributes:
        embed: linear, from an embedding to the width.
        layers: the self-attention blocks.
        seed: [width].
        pool: the block by which the seed looks at the clips.
        norm: layer norm of the bag vector.
    """

    def __init__(
        self,
        features: int,
        num_genres: int,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 1,
        multi_label: bool = False,
        rngs: nnx.Rngs,
    ):
        """Builds the pooling.

        Args:
            features: width of an embedding.
            num_genres: number of labels.
            width: width of the blocks and of the bag vector.
            heads: attention heads; they divide the width.
            layers: self-attention blocks; 0: the seed looks at the clips as they are.
            multi_label: whether the scores are log odds of each genre.
            rngs: source of the initial weights.
        """
        check_size("set_transformer", "width", width)
        check_size("set_transformer", "heads", heads)
        check_size("set_transformer", "layers", layers, least=0)
        if width % heads:
            raise UserError(f"set_transformer: {width=} must be a multiple of {heads=}")
        self.features, self.multi_label = width, multi_label
        glorot = nnx.initializers.glorot_uniform()
        self.embed = nnx.Linear(features, width, kernel_init=glorot, rngs=rngs)
        self.layers = nnx.List(Block(width, heads, rngs=rngs) for _ in range(layers))
        self.seed = nnx.Param(glorot(rngs.params(), (1, width))[0])
        self.pool = Block(width, heads, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(
        self,
        embeddings: Float[Array, "row slot feature"],
        segments: Segments,
        target: Target | None,
        classify: Classify,
    ) -> tuple[Float[Array, "row bag genre"], Float[Array, "row bag slot"]]:
        """Returns log scores of the bags, and the clips' weights."""
        same_bag = segments.of_clip[:, :, None] == segments.of_clip[:, None]
        x = self.embed(embeddings)
        for block in self.layers:
            x, _ = block(x, x, same_bag)
        seeds = jnp.broadcast_to(self.seed[...], (x.shape[0], segments.bags, x.shape[-1]))
        vectors, attention = self.pool(seeds, x, membership(segments))
        return genre_scores(classify(self.norm(vectors)), self.multi_label), attention
