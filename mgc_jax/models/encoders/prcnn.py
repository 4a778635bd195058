"""PRCNN, a CNN and a bidirectional GRU side by side on the same spectrogram, its parts alone, and with attention.

The parallel recurrent CNN of Feng et al. 2017 ("Music genre classification with paralleling recurrent convolutional
neural network") in the form that a project at the University of British Columbia compared on FMA-small; parameter
counts below are for 8 classes on 640 x 128 clips. Maps are [n, time, mel, channel] and pools are (time, mel).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mgc_jax.errors import UserError
from mgc_jax.models.encoders.common import (
    check_blocks,
    check_fractions,
    check_pair,
    check_sequences,
    check_sizes,
    check_spectrogram,
    fit_pool,
)
from mgc_jax.models.layers import Dense, Dropout, TimeConvBlock
from mgc_jax.models.operations import max_pool
from mgc_jax.models.recurrent import BidirectionalGRU

_FILTERS = (16, 32, 64, 64, 64)
_POOLS = ((2, 2), (2, 2), (2, 2), (4, 4), (4, 4))
# Monotone, as `TimeConvBlock` needs it.
ACTIVATIONS = {
    "relu": nnx.relu,
    "elu": nnx.elu,
    "leaky_relu": nnx.leaky_relu,
    "sigmoid": nnx.sigmoid,
    "tanh": nnx.tanh,
}


def _pad(x: Float[Array, "n time mel channel"], steps: int, mels: int = 0) -> Float[Array, "n time2 mel2 channel"]:
    """Adds steps and bands of zeros, half of them (rounded down) before the first one."""
    added = [(number // 2, number - number // 2) for number in (0, steps, mels, 0)]
    return jnp.pad(x, added) if steps or mels else x


class Cnn(nnx.Module):
    """Convolutions over time (kernel 3 x 1) with ReLU and max pooling; the last map is the embedding.

    The report varied kernel, activation and dropout, too, without saying which values it tried and where dropout was.
    With the defaults, PRCNN's five layers, it has 34,600 parameters with the head. filters=(16, 32, 64) with
    pools=((2, 2), (2, 2), (2, 2)) has 646,824, with pools=((2, 2), (4, 4), (4, 2)) 85,672. Attribute: `blocks`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        filters: Sequence[int] = _FILTERS,
        pools: Sequence[Sequence[int]] = _POOLS,
        kernel: Sequence[int] = (3, 1),
        activation: str = "relu",
        dropout: float = 0.0,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            filters: output channels of each convolution.
            pools: pool size (time, mel) of each convolution, rounding down. A pool is never larger
                than its map, and a map smaller than the kernel is padded for the convolution.
            kernel: size (time, mel) of every convolution.
            activation: relu, elu, leaky_relu, sigmoid or tanh.
            dropout: share of every pooled map that is dropped in training.
            rngs: source of the initial weights.
        """
        check_spectrogram(clip_shape)
        check_blocks(filters, pools)
        check_pair("kernel", kernel)
        check_fractions(dropout=dropout)
        if activation not in ACTIVATIONS:
            raise UserError(f"config.model.encoder: activation={activation!r}: choose one of {', '.join(ACTIVATIONS)}")
        size = kernel[0], kernel[1]
        time, mel = clip_shape
        channels, blocks = 1, []
        for number, (out_channels, pool) in enumerate(zip(filters, pools, strict=True), 1):
            time, mel = max(time - size[0] + 1, 1), max(mel - size[1] + 1, 1)
            fitted = fit_pool(f"convolution {number}", pool, (time, mel))
            blocks.append(
                TimeConvBlock(channels, out_channels, fitted, size=size, activation=ACTIVATIONS[activation], rngs=rngs)
            )
            channels = out_channels
            time, mel = time // fitted[0], mel // fitted[1]
        self.features = time * mel * channels
        self.kernel = size
        self.blocks = nnx.List(blocks)
        self.dropout = Dropout(dropout)

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        x = clips[..., None]
        for block in self.blocks:
            missing = (max(size - have, 0) for size, have in zip(self.kernel, x.shape[1:3], strict=True))
            x = self.dropout(block(_pad(x, *missing)), deterministic=not train, rngs=rngs)
        return x.reshape(x.shape[0], -1)  # which may be a symbol, in jax.export


class BiGru(nnx.Module):
    """A pooled spectrogram read by a bidirectional GRU; the last states of both directions are the embedding.

    With the defaults, PRCNN's recurrent half, it has 75,528 parameters with the head. Attributes: `embedding` (or
    None), `layers`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        rnn_pool: Sequence[int] = (2, 1),
        rnn_embedding: int = 0,
        gru_units: int = 64,
        gru_layers: int = 1,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            rnn_pool: pool size (time, mel) before the GRU.
            rnn_embedding: width of a linear layer on every step between pool and GRU; 0: no such layer.
            gru_units: units of each direction.
            gru_layers: number of bidirectional GRUs, each on the states of the one before.
            rngs: source of the initial weights.
        """
        check_spectrogram(clip_shape)
        check_pair("rnn_pool", rnn_pool)
        check_sizes(gru_units=gru_units, gru_layers=gru_layers)
        if rnn_embedding != 0:
            check_sizes(rnn_embedding=rnn_embedding)
        self.pool = fit_pool("rnn_pool", rnn_pool, (clip_shape[0], clip_shape[1]))
        width = clip_shape[1] // self.pool[1]
        self.embedding = Dense(width, rnn_embedding, rngs=rngs) if rnn_embedding else None
        self.features = 2 * gru_units
        widths = [rnn_embedding or width] + [self.features] * (gru_layers - 1)
        self.layers = nnx.List(BidirectionalGRU(width, gru_units, reset_after=True, rngs=rngs) for width in widths)

    def frames(self, clips: Float[Array, "n time mel"]) -> Float[Array, "n step feature"]:
        """Returns the pooled spectrogram."""
        return max_pool(clips[..., None], self.pool, "VALID")[..., 0]

    def states(self, frames: Float[Array, "n step feature"], all_steps: bool) -> Float[Array, "n *step feature2"]:
        """Returns the states of the last layer's directions after the sequence, or at all steps."""
        x = frames if self.embedding is None else self.embedding(frames)
        for layer in self.layers[:-1]:
            x = layer(x, all_steps=True)
        return self.layers[-1](x, all_steps)

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        return self.states(self.frames(clips), all_steps=False)


class Prcnn(nnx.Module):
    """PRCNN: the embeddings of `Cnn` and `BiGru` side by side.

    With the defaults it has 110,120 parameters with the head, with gru_layers=2 184,616. The original of Feng et al.
    is filters=(16, 32, 64, 128, 64), rnn_pool=(1, 2), rnn_embedding=128 and gru_units=128. Attributes: `cnn`, `rnn`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        filters: Sequence[int] = _FILTERS,
        pools: Sequence[Sequence[int]] = _POOLS,
        kernel: Sequence[int] = (3, 1),
        activation: str = "relu",
        dropout: float = 0.0,
        rnn_pool: Sequence[int] = (2, 1),
        rnn_embedding: int = 0,
        gru_units: int = 64,
        gru_layers: int = 1,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder; the options are those of `Cnn` and `BiGru`."""
        self.cnn = Cnn(
            clip_shape,
            filters=filters,
            pools=pools,
            kernel=kernel,
            activation=activation,
            dropout=dropout,
            rngs=rngs,
        )
        self.rnn = BiGru(
            clip_shape,
            rnn_pool=rnn_pool,
            rnn_embedding=rnn_embedding,
            gru_units=gru_units,
            gru_layers=gru_layers,
            rngs=rngs,
        )
        self.features = self.cnn.features + self.rnn.features

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        return jnp.concatenate([self.cnn(clips, mask, train, rngs), self.rnn(clips, mask, train, rngs)], -1)


class PrcnnAttentionLiteral(nnx.Module):
    """PRCNN with attention as its figure draws it, for comparison: it equals its recurrent half alone.

    The CNN's features c go through a softmax, the outer product with the GRU's state h is formed, and summed over the
    CNN's features: sum_i softmax(c)_i h_j = h_j, as a softmax sums to one. So the CNN has no influence, and gets
    no gradient (but for rounding). It has 232,744 parameters with the head. For attention over time see
    `PrcnnAttention`. Attributes: `cnn`, `rnn`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        filters: Sequence[int] = _FILTERS,
        pools: Sequence[Sequence[int]] = _POOLS,
        kernel: Sequence[int] = (3, 1),
        activation: str = "relu",
        dropout: float = 0.0,
        rnn_pool: Sequence[int] = (2, 1),
        gru_units: int = 128,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder; the options are those of `Cnn` and `BiGru`."""
        self.cnn = Cnn(
            clip_shape,
            filters=filters,
            pools=pools,
            kernel=kernel,
            activation=activation,
            dropout=dropout,
            rngs=rngs,
        )
        self.rnn = BiGru(clip_shape, rnn_pool=rnn_pool, gru_units=gru_units, rngs=rngs)
        self.features = self.rnn.features

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        weights = jax.nn.softmax(self.cnn(clips, mask, train, rngs).astype(jnp.float32))
        product = weights[:, :, None] * self.rnn(clips, mask, train, rngs)[:, None, :]
        return jnp.sum(product, axis=1).astype(clips.dtype)


class _LinearScores(nnx.Module):
    """A score per step, linear in its features."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.dense = Dense(features, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "n step feature channel"]) -> Float[Array, "n step"]:
        return self.dense(x.reshape(*x.shape[:2], -1))[..., 0]


class _CnnScores(nnx.Module):
    """A score per step by convolutions over time, zero-padded, that pool over frequency alone."""

    def __init__(
        self, width: int, channels: int, filters: Sequence[int], frequency_pools: Sequence[int], *, rngs: nnx.Rngs
    ):
        blocks = []
        for out_channels, pool in zip(filters, frequency_pools, strict=True):
            pool = min(pool, width)
            blocks.append(TimeConvBlock(channels, out_channels, (1, pool), rngs=rngs))
            channels, width = out_channels, width // pool
        self.blocks = nnx.List(blocks)
        self.last = _LinearScores(width * channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n step feature channel"]) -> Float[Array, "n step"]:
        for block in self.blocks:
            x = block(_pad(x, 2))
        return self.last(x)


ATTENTIONS = ("parallel_cnn", "parallel_linear", "serial_cnn", "serial_linear")


class PrcnnAttention(nnx.Module):
    """Attention over time (Yu et al. 2020): the mean of a bidirectional GRU's states, weighted by a score per step.

    The scores come from a branch beside the GRU that reads the same spectrogram ("parallel") or from the GRU's states
    ("serial"), and are linear or those of a CNN that keeps the time axis. A softmax over time makes them weights.

    Attributes: `rnn`, `scores`.
    """

    def __init__(
        self,
        clip_shape: Sequence[int],
        *,
        attention: str = "parallel_cnn",
        filters: Sequence[int] = (16, 32, 64),
        frequency_pools: Sequence[int] = (4, 4, 4),
        rnn_pool: Sequence[int] = (2, 1),
        gru_units: int = 128,
        gru_layers: int = 1,
        rngs: nnx.Rngs,
    ):
        """Builds the encoder.

        Args:
            clip_shape: (time, mel) of a clip.
            attention: parallel_cnn, parallel_linear, serial_cnn or serial_linear.
            filters: output channels of each convolution of the scores' CNN.
            frequency_pools: its pool sizes over frequency; the states of a GRU have no such axis to pool.
            rnn_pool: pool size (time, mel) before the GRU and the parallel scores.
            gru_units: units of each direction.
            gru_layers: number of bidirectional GRUs.
            rngs: source of the initial weights.
        """
        if attention not in ATTENTIONS:
            raise UserError(f"config.model.encoder: attention={attention!r}: choose one of {', '.join(ATTENTIONS)}")
        check_sequences(filters=filters, frequency_pools=frequency_pools)
        if len(filters) != len(frequency_pools):
            raise UserError(
                f"config.model.encoder: {len(filters)} filters but {len(frequency_pools)} frequency_pools; give one "
                "pool per convolution"
            )
        self.rnn = BiGru(clip_shape, rnn_pool=rnn_pool, gru_units=gru_units, gru_layers=gru_layers, rngs=rngs)
        self.features = self.rnn.features
        self.parallel = attention.startswith("parallel")
        # A map [step, mel, 1] of the spectrogram, [step, 1, unit] of the states.
        width, channels = (clip_shape[1] // self.rnn.pool[1], 1) if self.parallel else (1, self.features)
        self.scores = (
            _CnnScores(width, channels, filters, frequency_pools, rngs=rngs)
            if attention.endswith("cnn")
            else _LinearScores(width * channels, rngs=rngs)
        )

    def attend(self, clips: Float[Array, "n time mel"]) -> tuple[Float[Array, "n feature"], Float[Array, "n step"]]:
        """Returns one embedding per clip, and the weight of each of its (pooled) time steps."""
        frames = self.rnn.frames(clips)
        states = self.rnn.states(frames, all_steps=True)
        scores = self.scores(frames[..., None] if self.parallel else states[:, :, None])
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(clips.dtype)
        return jnp.einsum("ns,nsf->nf", weights, states), weights

    def __call__(
        self, clips: Float[Array, "n time mel"], mask: Bool[Array, " n"], train: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n feature"]:
        """Returns one embedding per clip."""
        return self.attend(clips)[0]
