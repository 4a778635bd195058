"""CRNN-TF: convolutions, then GRUs over the time and the frequency axis of the map."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.models.encoders.common import check_fractions, check_sizes, conv_blocks
from mgc_jax.models.layers import Dense, Dropout
from mgc_jax.models.recurrent import ParallelGRU


class CrnnTf(nnx.Module):
    """CRNN-TF: four convolution blocks, then eight GRUs over the map's time and frequency axes.

    As in the repository FishInMedi/CRNN-TF, one of the encoders of MATT.

    With 16 classes on top and the defaults on 96 x 1360 clips it has 1,004,112 parameters (batch-norm moments
    included, as Keras counts). Attributes: `blocks`, `along_frequency`, `along_time`, `dense`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        filters: Sequence[int] = (64, 128, 128, 128),
        pools: Sequence[Sequence[int]] = ((2, 4), (2, 4), (2, 4), (2, 4)),
        gru_units: int = 32,
        features: int = 64,
        dropout: float = 0.5,
        batch_norm_momentum: float = 0.99,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            filters: output channels of each convolution block.
            pools: pool size (mel, time) of each block, rounding up at the edge.
            gru_units: units of each of the eight GRUs.
            features: width of the embedding.
            dropout: dropout between the GRUs and the dense layer.
            batch_norm_momentum: momentum of the moving averages.
            rngs: source of the initial weights.
        """
        check_sizes(gru_units=gru_units, features=features)
        check_fractions(dropout=dropout)
        blocks, (mel, time) = conv_blocks(
            clip_shape,
            filters,
            pools,
            padding="SAME",
            activation=nnx.elu,
            batch_norm_momentum=batch_norm_momentum,
            rngs=rngs,
        )
        self.blocks = nnx.List(blocks)
        channels = filters[-1]
        self.features = features
        self.along_frequency = ParallelGRU(4, time * channels, gru_units, rngs=rngs)
        self.along_time = ParallelGRU(4, mel * channels, gru_units, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.dense = Dense(8 * gru_units, features, rngs=rngs)

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = clips.swapaxes(1, 2)[..., None]
        for block in self.blocks:
            x = block(x, mask, train)
        last = jnp.concatenate([*self.along_frequency(_scans(x)), *self.along_time(_scans(x.swapaxes(1, 2)))], -1)
        last = self.dropout(last, deterministic=not train, rngs=rngs)
        return nnx.elu(self.dense(last))


def _scans(x: Float[Array, "n step other channel"]) -> Float[Array, "4 n step feature"]:
    """The four sequences along one axis of the map: both directions, the other axis flattened both ways.

    For steps along frequency these are GRUs 1, 3, 5 and 7 of the original; along time 2, 6, 4 and 8.
    """
    flat = x.reshape(*x.shape[:2], -1)
    flipped = x[:, :, ::-1].reshape(*x.shape[:2], -1)
    return jnp.stack([flat, flipped, flat[:, ::-1], flipped[:, ::-1]])
