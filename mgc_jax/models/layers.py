"""Layers of the encoders: dense, batch norm with a mask, blocks of convolution, batch norm, activation and pooling."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mgc_jax.models.kernels.conv_pool import (
    conv2d,
    conv_pool_form,
    library_conv,
    max_pool,
    moments,
    one_channel_conv_pool,
    one_channel_pooled,
)
from mgc_jax.models.kernels.time_conv import time_conv_pool
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

    def factor(self, var: Float[Array, " c"]) -> Float[Array, " c"]:
        """Gives what the centered input is multiplied by under the given variance."""
        return self.scale[...] * lax.rsqrt(var + self.epsilon)

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
        factor = self.factor(var)
        return x * factor.astype(x.dtype) + (self.bias[...] - mean * factor).astype(x.dtype)


class ConvBlock(nnx.Module):
    """Convolution 3x3, batch norm, activation and max pooling.

    It computes the same in another order. The activation falls nowhere, so that it can follow the pooling. So can
    the batch norm once the sign of its scale is in the kernel. In training the convolution's bias drops out of
    the output (its gradient is exactly zero) and shows only in the moving mean.

    Attributes:
      kernel: Convolution kernel.
      bias: Convolution bias.
      norm: The batch norm.
      pool: Pool size in height and width.
      padding: Of the pooling: "SAME" or "VALID".
      activation: A function that falls nowhere, such as `nnx.elu` and `nnx.relu`.
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
        kernel, bias, norm = self.kernel[...], self.bias[...], self.norm
        if train:
            sign = jnp.where(norm.scale[...] < 0, -1.0, 1.0)
            function = conv_pool_form(x)
            weight = mask.astype(jnp.float32)
            pooled, mean, var = function(x, (kernel * sign).astype(x.dtype), weight, self.pool, self.padding)
            norm.record(mean * sign + bias, var)
            factor = norm.factor(var) * sign
            offset = norm.bias[...] - mean * factor
        else:
            factor = norm.factor(norm.var[...])
            kernel = (kernel * factor).astype(x.dtype)
            if conv_pool_form(x) is one_channel_conv_pool:
                pooled = one_channel_pooled(x, kernel, self.pool, self.padding)
            else:
                pooled = max_pool(conv2d(x, kernel), self.pool, self.padding)
            offset = norm.bias[...] + (bias - norm.mean[...]) * factor
            factor = jnp.ones(())
        return self.activation((pooled * factor + offset).astype(x.dtype))


class TimeConvBlock(nnx.Module):
    """Convolution 3x1 over time ("VALID", with a bias), ReLU and max pooling ("VALID").

    Bias and ReLU come after the pooling, which gives the same. The CPU form goes clip by clip and computes the
    convolution again for the gradient, so that its output is never stored.

    Attributes:
      kernel: Convolution kernel [3, 1, channel in, channel out].
      bias: Convolution bias.
      pool: Pool size in time and frequency.
    """

    def __init__(self, in_features: int, out_features: int, pool: tuple[int, int], *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.glorot_uniform()(rngs.params(), (3, 1, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))
        self.pool = pool

    def __call__(self, x: Float[Array, "n time mel cin"]) -> Float[Array, "n time2 mel2 cout"]:
        """Applies the block.

        Args:
          x: Input maps, of at least three time steps; their dtype is the dtype of the computation.

        Returns:
          The pooled maps.
        """
        kernel = self.kernel[...].astype(x.dtype)
        if platform.use_cpu_form():
            pooled = time_conv_pool(x, kernel, self.pool)
        else:
            pooled = max_pool(library_conv(x, kernel, "VALID"), self.pool, "VALID")
        return nnx.relu(pooled + self.bias[...].astype(x.dtype))
