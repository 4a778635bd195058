"""The classifier: encoder, pooling and head joined."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mgc_jax.errors import UserError
from mgc_jax.models.encoders import ENCODERS
from mgc_jax.models.pooling import POOLINGS


class BagClassifier(nnx.Module):
    """encoder(clip) -> embedding; pooling(embeddings of a bag) -> bag vector; head -> genre scores.

    Attributes:
        encoder: one of `ENCODERS`.
        pooling: one of `POOLINGS`.
        head: linear; its kernel is MATT's discriminative matrix M (equations 4 and 5).
    """

    def __init__(self, encoder: Any, pooling: type, num_genres: int, head_dropout: float, *, rngs: nnx.Rngs):
        self.encoder = encoder
        self.pooling = pooling(encoder.features, num_genres, rngs=rngs)
        self.dropout = nnx.Dropout(head_dropout)
        glorot = nnx.initializers.glorot_uniform()
        self.head = nnx.Linear(encoder.features, num_genres, kernel_init=glorot, rngs=rngs)

    def __call__(
        self,
        clips: Float[Array, "row slot *clip"],
        segment: Int[Array, "row slot"],
        label: Int[Array, "row slot"] | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "row slot genre"], dict[str, jax.Array]]:
        """Scores the bags of each row.

        Args:
            clips: standardized clips.
            segment: the bag of each clip within its row; the number of slots where there is no clip.
            label: genre of each bag: in training, for the poolings that use it.
            train: batch statistics and dropout.
            rngs: with a stream `dropout`, in training.

        Returns:
            Log scores of each bag, and `aux` with `embedding` [row, slot, feature] and `attention`.
        """
        mask = (segment < segment.shape[1]).reshape(-1)
        flat = clips.reshape(-1, *clips.shape[2:])
        embeddings = self.encoder(flat, mask, train, rngs).reshape(*segment.shape, -1)
        scores, attention = self.score_bags(embeddings, segment, label, train=train, rngs=rngs)
        return scores, {"embedding": embeddings, "attention": attention}

    def score_bags(
        self,
        embeddings: Float[Array, "row slot feature"],
        segment: Int[Array, "row slot"],
        label: Int[Array, "row slot"] | None = None,
        *,
        train: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "row slot genre"], jax.Array]:
        """Pools embeddings and classifies the bags.

        Where the pooling has a view per genre, genre g's score is the probability that the head gives to g in
        g's own view: the diagonal (Lin et al. 2016, as MATT's notebooks evaluate). These scores do not sum to one.

        Returns:
            Log scores, and the attention weights.
        """
        vectors, attention = self.pooling(embeddings, segment, label)
        vectors = self.dropout(vectors, deterministic=not train, rngs=rngs)
        scores = jax.nn.log_softmax(self.head(vectors), axis=-1)
        if scores.ndim == 4:
            scores = jnp.diagonal(scores, axis1=2, axis2=3)
        return scores, attention


def build_model(model: Any, clip_shape: Sequence[int], num_genres: int, *, seed: int) -> BagClassifier:
    """Builds the model that `config.model` describes.

    Args:
        model: `config.model`.
        clip_shape: (time, mel) or (feature,).
        num_genres: number of labels.
        seed: seed of the initial weights.

    Raises:
        UserError: an encoder that does not exist, or an option that it does not have.
    """
    options = dict(model.encoder)
    name = options.pop("name", None)
    if name not in ENCODERS:
        raise UserError(f"config.model.encoder.name={name!r}: choose one of {', '.join(ENCODERS)}")
    known = [
        p for p in inspect.signature(ENCODERS[name].__init__).parameters if p not in ("self", "clip_shape", "rngs")
    ]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(f"the encoder {name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    rngs = nnx.Rngs(seed)
    encoder = ENCODERS[name](clip_shape, **options, rngs=rngs)
    return BagClassifier(encoder, POOLINGS[model.pooling], num_genres, model.head_dropout, rngs=rngs)


def count_parameters(model: nnx.Module) -> int:
    """Number of weights and batch-norm moments, as Keras counts (so as the papers count)."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))))
