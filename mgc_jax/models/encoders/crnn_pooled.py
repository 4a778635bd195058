"""CRNN whose embedding is the mean and the maximum over time, for clips of any length."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.models.encoders.common import (
    check_fractions,
    check_pair,
    check_sizes,
    check_spectrogram,
    conv_blocks,
    fit_pool,
)
from mgc_jax.models.layers import Dense, Dropout
from mgc_jax.models.recurrent import BidirectionalGRU


class CrnnPooled(nnx.Module):
    """Convolution blocks on a coarser spectrogram, a bidirectional GRU, then mean and maximum of its states over time.

    Of neither paper: a CRNN (Choi et al. 2017) that is cheap on a CPU. As it pools over time, it takes clips that are
    longer than those that it was trained on (`config.eval.crop = "whole"`). Attributes: `blocks`, `dense`, `gru`.
    """

    any_length = True  # the weights do not depend on the number of frames

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        averaged: Sequence[int] = (2, 2),
        filters: Sequence[int] = (24, 48, 96, 128),
        pools: Sequence[Sequence[int]] = ((2, 2), (2, 2), (2, 2), (2, 1)),
        features: int = 128,
        gru_units: int = 64,
        dropout: float = 0.15,
        batch_norm_momentum: float = 0.99,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            averaged: mel bands and frames that are averaged before the first block; what is left at the edge is cut.
            filters: output channels of each convolution block.
            pools: pool size (mel, time) of each block, rounding down.
            features: width of the dense layer between blocks and GRU, for each step of time.
            gru_units: units of the GRU in each direction; the embedding is four times as wide.
            dropout: dropout before the dense layer, and on the embedding.
            batch_norm_momentum: momentum of the moving averages.
            rngs: source of the initial weights.
        """
        check_sizes(features=features, gru_units=gru_units)
        check_fractions(dropout=dropout)
        check_pair("averaged", averaged)
        check_spectrogram(clip_shape)
        time, mel = clip_shape
        self.averaged = fit_pool("averaged", averaged, (mel, time))
        blocks, (mel, _) = conv_blocks(
            (time // self.averaged[1], mel // self.averaged[0]),
            filters,
            pools,
            padding="VALID",
            activation=nnx.relu,
            batch_norm_momentum=batch_norm_momentum,
            rngs=rngs,
        )
        self.blocks = nnx.List(blocks)
        self.dense = Dense(mel * filters[-1], features, rngs=rngs)
        self.gru = BidirectionalGRU(features, gru_units, rngs=rngs)
        self.dropout = Dropout(dropout)
        self.features = 4 * gru_units

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = _averaged(clips.swapaxes(1, 2), self.averaged)[..., None]
        for block in self.blocks:
            x = block(x, mask, train)
        x = x.swapaxes(1, 2)
        x = self.dropout(x.reshape(*x.shape[:2], -1), deterministic=not train, rngs=rngs)
        states = self.gru(self.dense(x), all_steps=True)
        pooled = jnp.concatenate([states.mean(1), states.max(1)], -1)
        return self.dropout(pooled, deterministic=not train, rngs=rngs)


def _averaged(x: Float[Array, "n mel time"], window: tuple[int, int]) -> Float[Array, "n mel2 time2"]:
    """The means over windows (mel, time) that do not overlap; what is left at the edge is cut."""
    bands, frames = window
    mel, time = x.shape[1] // bands, x.shape[2] // frames
    return x[:, : mel * bands, : time * frames].reshape(-1, mel, bands, time, frames).mean((2, 4))
