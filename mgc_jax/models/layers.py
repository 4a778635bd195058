"""Layers of the encoders: dense, dropout, batch norm with a mask, and blocks of convolution, batch norm, activation
and pooling.

Blocks are written in XLA's own operations. By default they use a faster form with the same result, made for the
platform, from `mgc_jax.models.kernels`; `config.model.kernels = "plain"` switches those off.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mgc_jax.models.kernels.conv_pool import BatchNormValues, conv_norm_pool
from mgc_jax.models.kernels.time_conv import time_conv_pool
from mgc_jax.models.operations import conv2d, max_pool, moments
from mgc_jax.runtime import platform


class Dense(nnx.Module):
    """A linear layer, with Keras's initial weights.

    Attributes:
      kernel: [feature in, feature out].
      bias: [feature out].
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: Float[Array, "*leading fin"]) -> Float[Array, "*leading fout"]:
        """Applies the layer to the last axis."""
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class Dropout(nnx.Module):
    """Dropout on clips [clip, ...]; what is drawn for a clip does not depend on the number of devices.

    Attributes:
      rate: Share of the values that are set to zero.
    """

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(
        self, x: Float[Array, "n *feature"], *, deterministic: bool, rngs: nnx.Rngs | None
    ) -> Float[Array, "n *feature"]:
        """Applies the layer, with the stream `dropout` of `rngs`; returns `x` where it is deterministic."""
        if deterministic or self.rate == 0:
            return x
        if rngs is None:
            raise ValueError("dropout in training needs rngs with a stream `dropout`")
        keep = 1 - self.rate
        kept = platform.draw_per_clip(functools.partial(jax.random.bernoulli, rngs.dropout(), keep), x.shape)
        return jnp.where(kept, x / keep, 0)


class MaskedBatchNorm(nnx.Module):
    """Batch norm over clips, frequency and time with Keras semantics; padding clips do not count.

    Attributes:
      scale: Learned factor per channel.
      bias: Learned offset per channel.
      mean: Moving mean, moved by (1 - momentum) of the way to the batch's at every training call.
      var: Moving variance (biased), likewise.
    """

    def __init__(self, num_features: int, momentum: float = 0.99, epsilon: float = 1e-3):
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))

    def record(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> None:
        """Moves the moving statistics towards those of a batch."""
        keep = self.momentum
        self.mean[...] = keep * self.mean[...] + (1 - keep) * lax.stop_gradient(mean)
        self.var[...] = keep * self.var[...] + (1 - keep) * lax.stop_gradient(var)

    def __call__(
        self, x: Float[Array, "n h w c"], mask: Float[Array, " n"] | Bool[Array, " n"], train: bool
    ) -> Float[Array, "n h w c"]:
        """Normalizes; in training by the statistics of the clips whose mask is not zero.

        Args:
          x: Input maps.
          mask: 1 (or True) for a real clip, 0 for padding.
          train: Uses and records the batch's statistics; otherwise uses the moving ones.

        Returns:
          The normalized maps (padding clips too), in the input's dtype.
        """
        if train:
            mean, var = moments(x, mask.astype(jnp.float32))
            self.record(mean, var)
        else:
            mean, var = self.mean[...], self.var[...]
        factor = self.scale[...] * lax.rsqrt(var + self.epsilon)
        return x * factor.astype(x.dtype) + (self.bias[...] - mean * factor).astype(x.dtype)


class ConvBlock(nnx.Module):
    """Convolution 3x3, batch norm, activation and max pooling.

    Attributes:
      kernel: Convolution kernel.
      bias: Convolution bias.
      norm: The batch norm.
      pool: Pool size in height and width.
      padding: Of the pooling: "SAME" or "VALID".
      activation: A monotone function, such as `nnx.elu` and `nnx.relu`, so that max pooling may be applied first.
      platform_kernels: Whether to use the form made for the platform.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pool: tuple[int, int],
        *,
        padding: str = "SAME",
        activation: Callable[[jax.Array], jax.Array] = nnx.elu,
        batch_norm_momentum: float = 0.99,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.glorot_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.norm = MaskedBatchNorm(out_features, momentum=batch_norm_momentum)
        self.pool = pool
        self.padding = padding
        self.activation = activation
        self.platform_kernels = True

    def __call__(
        self, x: Float[Array, "n h w cin"], mask: Float[Array, " n"] | Bool[Array, " n"], train: bool
    ) -> Float[Array, "n h2 w2 cout"]:
        """Applies the block.

        Args:
          x: Input maps; their dtype is the dtype of the computation.
          mask: 1 (or True) for a real clip, 0 for padding, which the batch statistics leave out.
          train: Whether to use and record batch statistics.

        Returns:
          The pooled maps.
        """
        if self.platform_kernels:
            return self._by_kernels(x, mask, train)
        x = conv2d(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)
        x = self.activation(self.norm(x, mask, train))
        return max_pool(x, self.pool, self.padding)

    def _by_kernels(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
        norm = self.norm
        moving = None if train else (norm.mean[...], norm.var[...])
        values = BatchNormValues(norm.scale[...], norm.bias[...], norm.epsilon, moving)
        pooled, (mean, var) = conv_norm_pool(
            x, self.kernel[...], self.bias[...], values, mask, self.pool, self.padding
        )
        if train:
            norm.record(mean, var)
        return self.activation(pooled)


class TimeConvBlock(nnx.Module):
    """Convolution 3x1 over time ("VALID", with a bias), ReLU and max pooling ("VALID").

    Attributes:
      kernel: Convolution kernel [3, 1, channel in, channel out].
      bias: Convolution bias.
      pool: Pool size in time and frequency.
      platform_kernels: Whether to use the form made for the platform.
    """

    def __init__(self, in_features: int, out_features: int, pool: tuple[int, int], *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), (3, 1, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.pool = pool
        self.platform_kernels = True

    def __call__(self, x: Float[Array, "n time mel cin"]) -> Float[Array, "n time2 mel2 cout"]:
        """Applies the block.

        Args:
          x: Input maps, of at least three time steps; their dtype is the dtype of the computation.

        Returns:
          The pooled maps.
        """
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if self.platform_kernels:  # bias and ReLU are monotone, so the pooling may come first
            return nnx.relu(time_conv_pool(x, kernel, self.pool) + bias)
        return max_pool(nnx.relu(conv2d(x, kernel, "VALID") + bias), self.pool, "VALID")
