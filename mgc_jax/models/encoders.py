"""Encoders: one clip in, one embedding out.

Every encoder is called as `encoder(clips, mask, train, rngs)`: clips are float32 [n, time, mel] or
[n, feature], already standardized; mask [n] is False for padding clips, which batch statistics leave out.
It has an attribute `features`, the width of its embedding.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.errors import UserError
from mgc_jax.models.layers import ConvBlock
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
        if len(clip_shape) != 2:
            raise UserError(
                f"the encoder crnn_tf needs clips of time x mel, this corpus has {tuple(clip_shape)}; use the "
                "encoder mlp for feature vectors"
            )
        if len(filters) != len(pools):
            raise UserError(f"crnn_tf: {len(filters)} filters but {len(pools)} pools; give one pool per block")
        if not all(isinstance(pool, Sequence) and len(pool) == 2 and _are_sizes(*pool) for pool in pools):
            raise UserError(f"crnn_tf: pools={pools!r}: write two sizes per block, as ((2, 4), (2, 4))")
        if not _are_sizes(*filters, gru_units, features):
            raise UserError(f"crnn_tf: {filters=}, {gru_units=} and {features=} must be whole numbers above 0")
        if not (0 <= dropout < 1 and 0 <= batch_norm_momentum < 1):
            raise UserError(f"crnn_tf: {dropout=} and {batch_norm_momentum=} must be at least 0 and below 1")
        time, mel = clip_shape
        channels, blocks = 1, []
        for out_channels, pool in zip(filters, pools, strict=True):
            blocks.append(
                ConvBlock(
                    channels, out_channels, (pool[0], pool[1]), batch_norm_momentum=batch_norm_momentum, rngs=rngs
                )
            )
            channels = out_channels
            mel, time = -(-mel // pool[0]), -(-time // pool[1])
        self.features = features
        self.blocks = nnx.List(blocks)
        self.along_frequency = ParallelGRU(4, time * channels, gru_units, rngs=rngs)
        self.along_time = ParallelGRU(4, mel * channels, gru_units, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        glorot = nnx.initializers.glorot_uniform()
        self.dense = nnx.Linear(8 * gru_units, features, kernel_init=glorot, rngs=rngs)

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


def _are_sizes(*values: object) -> bool:
    return all(isinstance(value, int) and value > 0 for value in values)


class Mlp(nnx.Module):
    """Dense layers with ReLU on feature vectors; none at all is the identity ("Blank" in MATT's result files)."""

    def __init__(self, clip_shape: Sequence[int], *, hidden: Sequence[int] = (100,), rngs: nnx.Rngs):
        """Builds the encoder.

        Args:
            clip_shape: (feature,); other shapes are flattened.
            hidden: width of each layer; () passes the clip through.
            rngs: source of the initial weights.
        """
        if not _are_sizes(*hidden):
            raise UserError(f"mlp: {hidden=} must hold whole numbers above 0")
        glorot = nnx.initializers.glorot_uniform()
        widths = [math.prod(clip_shape), *hidden]
        self.features = widths[-1]
        self.layers = nnx.List(
            nnx.Linear(n_in, n_out, kernel_init=glorot, rngs=rngs) for n_in, n_out in itertools.pairwise(widths)
        )

    def __call__(
        self, clips: Float[Array, "n *shape"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = clips.reshape(clips.shape[0], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


ENCODERS: dict[str, Callable[..., Any]] = {"crnn_tf": CrnnTf, "mlp": Mlp}
