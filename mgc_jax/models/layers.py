"""Layers of the encoders: dense, dropout, batch norm with a mask, and blocks of convolution, batch norm, activation
and pooling.

Blocks are written in XLA's own operations. By default they use a faster form with the same result, made for the
platform, from `mgc_jax.models.kernels`; `config.model.kernels = "plain"` switches those off.
"""

import functools
import math
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


class Count(nnx.BatchStat):
    """How many batches a moving average is of; not among the parameters that Keras and the papers count."""


ENDLESS = 2.0**24  # the count of an average whose start is forgotten, as of one that was saved without; it stays so


class MaskedBatchNorm(nnx.Module):
    """Batch norm over clips, frequency and time; padding clips do not count.

    Evaluation uses moving averages of the batches' mean and biased variance. As in Keras, a batch k calls ago has
    weight momentum^k; but here the weights are divided by their sum, (1 - momentum^t) / (1 - momentum) after t calls,
    as Adam corrects its bias. In Keras 0 and 1, from which it starts, count as all batches before the first: both
    tend to the same averages, but with a momentum of 0.99 Keras's are still 0 and 1 to 37% after 100 calls.

    Attributes:
      scale: Learned factor per channel.
      bias: Learned offset per channel.
      mean: Moving mean; 0 before the first training call.
      var: Moving variance; 1 before the first training call.
      count: Training calls so far, float32 (exact up to 2**24, where it stays).
    """

    def __init__(self, num_features: int, momentum: float = 0.99, epsilon: float = 1e-3):
        self.momentum = momentum
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(num_features))
        self.bias = nnx.Param(jnp.zeros(num_features))
        self.mean = nnx.BatchStat(jnp.zeros(num_features))
        self.var = nnx.BatchStat(jnp.ones(num_features))
        self.count = Count(jnp.zeros(()))

    def record(self, mean: Float[Array, " c"], var: Float[Array, " c"]) -> None:
        """Moves the moving averages towards the statistics of a batch."""
        count = self.count[...] + 1
        log_momentum = math.log(self.momentum) if self.momentum else -math.inf
        share = (1 - self.momentum) / -jnp.expm1(count * log_momentum)  # 1 for the first batch
        self.mean[...] = self.mean[...] + share * (lax.stop_gradient(mean) - self.mean[...])
        self.var[...] = self.var[...] + share * (lax.stop_gradient(var) - self.var[...])
        self.count[...] = count

    def __call__(
        self, x: Float[Array, "n h w c"], mask: Float[Array, " n"] | Bool[Array, " n"], train: bool
    ) -> Float[Array, "n h w c"]:
        """Normalizes; in training by the statistics of the clips whose mask is not zero.

        Args:
          x: Input maps.
          mask: 1 (or True) for a real clip, 0 for padding.
          train: Uses and records the batch's statistics; otherwise uses the moving averages.

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
    """Convolution, by default 3x1 over time ("VALID", with a bias), activation and max pooling ("VALID").

    Attributes:
      kernel: Convolution kernel [time, mel, channel in, channel out].
      bias: Convolution bias.
      pool: Pool size in time and frequency.
      activation: A monotone function, such as `nnx.elu` and `nnx.relu`, so that max pooling may be applied first.
      platform_kernels: Whether to use the form made for the platform, where the kernel is over time alone.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        pool: tuple[int, int],
        *,
        size: tuple[int, int] = (3, 1),
        activation: Callable[[jax.Array], jax.Array] = nnx.relu,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), (*size, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.pool = pool
        self.activation = activation
        self.platform_kernels = True

    def __call__(self, x: Float[Array, "n time mel cin"]) -> Float[Array, "n time2 mel2 cout"]:
        """Applies the block.

        Args:
          x: Input maps, at least as large as the kernel; their dtype is the dtype of the computation.

        Returns:
          The pooled maps.
        """
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        if self.platform_kernels and kernel.shape[1] == 1:  # bias and activation are monotone: the pooling comes first
            return self.activation(time_conv_pool(x, kernel, self.pool) + bias)
        return max_pool(self.activation(conv2d(x, kernel, "VALID") + bias), self.pool, "VALID")
