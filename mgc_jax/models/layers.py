"""Dense, convolution, pooling and batch-norm layers shared by the models (NHWC; padding as in TensorFlow).

Every function is the plain form in value and gradient. What differs by platform is only how XLA is asked:
on one CPU device 3 x 3 convolutions are `winograd`'s, a block on a one-channel input never stores its large
convolution output, and a block that convolves over time alone never stores any. With several devices or on an
accelerator the library's convolutions are used (a scan over a sharded batch would gather it). Custom gradients:
reverse mode only.

Weights are float32. Every layer casts them to the dtype of its input, which is the dtype of the computation and
of the result; batch-norm moments are computed in float32.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float

from mgc_jax.models.forms import plain_wanted
from mgc_jax.models.winograd import clips_at_once, conv3x3, conv3x3_gradients

_BLOCK_POSITIONS = 4096  # of a one-channel map at a time; between 2048 and 8192, both measured faster than 32768


def _use_cpu_form() -> bool:
    """Whether to use the forms made for one CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1 and not plain_wanted()


def _library_conv(x: jax.Array, kernel: jax.Array, padding: str = "SAME") -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _patches(x: jax.Array, kh: int, kw: int) -> jax.Array:
    """Gives the kh x kw neighbourhoods within a map: [h + kh - 1, w + kw - 1, c] to [h, w, kh * kw * c]."""
    h, w = x.shape[0] - kh + 1, x.shape[1] - kw + 1
    return jnp.concatenate([x[i : i + h, j : j + w] for i in range(kh) for j in range(kw)], -1)


def _input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
    return _library_conv(g, kernel[::-1, ::-1].swapaxes(2, 3))


def conv2d(x: Float[Array, "n h w cin"], kernel: Float[Array, "kh kw cin cout"]) -> Float[Array, "n h w cout"]:
    """Convolves with stride 1 and "SAME" zero padding.

    Args:
      x: Input maps.
      kernel: Convolution kernel (cross-correlation, as in TensorFlow and Flax).

    Returns:
      The maps, of the same height and width as the input.
    """
    if kernel.shape[:2] == (3, 3) and kernel.shape[2] > 1 and _use_cpu_form():
        return conv3x3(x, kernel)
    return _library_conv(x, kernel)


def _padding(shape: tuple[int, ...], window: tuple[int, int], padding: str) -> list[tuple[int, int]]:
    """What makes height and width whole windows: TensorFlow's "SAME" padding, or a crop (below 0) for "VALID"."""
    if padding == "VALID":
        return [(0, -(size % pool)) for size, pool in zip(shape[1:3], window, strict=True)]
    totals = [-size % pool for size, pool in zip(shape[1:3], window, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _pad(x: jax.Array, value: float, padding: list[tuple[int, int]]) -> jax.Array:
    """Pads height and width; crops where the padding is below 0."""
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _repeat(y: jax.Array, window: tuple[int, int], padding: list[tuple[int, int]]) -> jax.Array:
    """Gives every position of the maps before pooling the value of its window; 0 to those in none."""
    n, h, w, c = y.shape
    y = jnp.broadcast_to(y[:, :, None, :, None], (n, h, window[0], w, window[1], c))
    return _pad(y.reshape(n, h * window[0], w * window[1], c), 0.0, [(-low, -high) for low, high in padding])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Float[Array, "n h w c"], window: tuple[int, int], padding: str = "SAME") -> Float[Array, "n h2 w2 c"]:
    """Max-pools with stride = window.

    The gradient goes to the maximum of each window, divided evenly between equal ones.

    Args:
      x: Input maps.
      window: Pool size in height and width.
      padding: "SAME", TensorFlow's, rounds sizes up; "VALID" leaves out the last rows and columns that fill no
        window.

    Returns:
      The pooled maps, of size h / window[0] by w / window[1], rounded as said.
    """
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), padding)


def _unpool(x: jax.Array, y: jax.Array, g: jax.Array, window: tuple[int, int], padding: str) -> jax.Array:
    """Takes the gradient g of y = max_pool(x, window, padding) back to x."""
    (n, h, w, c), (ph, pw) = y.shape, window
    whole = _padding(x.shape, window, padding)
    cells = _pad(x, -jnp.inf, whole).reshape(n, h, ph, w, pw, c)
    # A sum of slices: on a CPU faster than jnp.sum over two axes, and than reduce_window.
    count = sum((cells[:, :, i, :, j] == y).astype(jnp.float32) for i in range(ph) for j in range(pw))
    share = (g / count).astype(g.dtype)
    return jnp.where(x == _repeat(y, window, whole), _repeat(share, window, whole), 0)


def _max_pool_fwd(x, window, padding):
    y = max_pool(x, window, padding)
    return y, (x, y)


def _max_pool_bwd(window, padding, residuals, g):
    x, y = residuals
    return (_unpool(x, y, g, window, padding),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


def _share(weight: jax.Array, x: jax.Array) -> jax.Array:
    """What each position of a clip weighs in the moments."""
    return weight / (jnp.maximum(jnp.sum(weight), 1.0) * (x.shape[1] * x.shape[2]))


def _moments(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Weighted mean and biased variance per channel, in float32; weight is per clip."""
    x = x.astype(jnp.float32)
    share = _share(weight, x)
    mean = jnp.einsum("nc,n->c", jnp.sum(x, axis=(1, 2)), share, precision="highest")
    sums = jnp.sum(jnp.square(x - mean), axis=(1, 2))
    return mean, jnp.einsum("nc,n->c", sums, share, precision="highest")


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv_pool(x, kernel, weight, window, padding):
    """Gives max_pool(y), and mean and variance of y over the clips by weight, of y = conv(x, kernel).

    Its gradient makes one pass over y. The weight gets no gradient.
    """
    return _conv_pool_fwd(x, kernel, weight, window, padding)[0]


def _conv_pool_fwd(x, kernel, weight, window, padding):
    y = _library_conv(x, kernel)
    mean, var = _moments(y, weight)
    pooled = max_pool(y, window, padding)
    return (pooled, mean, var), (x, kernel, weight, y, pooled, mean)


def _conv_output_gradient(y, pooled, mean, share, window, padding, cotangents):
    g_pooled, g_mean, g_var = cotangents
    through_moments = share[:, None, None, None] * ((g_mean - 2 * g_var * mean) + (2 * g_var) * y)
    return (_unpool(y, pooled, g_pooled, window, padding) + through_moments).astype(y.dtype)


def _conv_pool_bwd(window, padding, residuals, cotangents):
    x, kernel, weight, y, pooled, mean = residuals
    g = _conv_output_gradient(y, pooled, mean, _share(weight, y), window, padding, cotangents)
    gx, gk = jax.vjp(_library_conv, x, kernel)[1](g)
    return gx, gk, jnp.zeros_like(weight)


_conv_pool.defvjp(_conv_pool_fwd, _conv_pool_bwd)


def _in_groups(x: jax.Array, clips: int) -> jax.Array:
    return x.reshape(-1, clips, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _clipwise_conv_pool(x, kernel, weight, window, padding):
    """The same as _conv_pool for 3 x 3 kernels, a clip (or a few small ones) after the other.

    So a clip's convolution is still in the cache when moments and maxima are taken of it, and so is its gradient.
    """
    return _clipwise_conv_pool_fwd(x, kernel, weight, window, padding)[0]


def _clipwise_conv_pool_fwd(x, kernel, weight, window, padding):
    def of_group(x):
        y = conv3x3(x, kernel)
        values = y.astype(jnp.float32)
        mean = jnp.mean(values, axis=(1, 2))
        var = jnp.mean(jnp.square(values - mean[:, None, None]), axis=(1, 2))
        return y, max_pool(y, window, padding), mean, var

    groups = lax.map(of_group, _in_groups(x, clips_at_once(x.shape)))
    y, pooled, means, variances = (values.reshape(len(x), *values.shape[2:]) for values in groups)
    share = weight / jnp.maximum(jnp.sum(weight), 1.0)
    mean = share @ means
    var = share @ (variances + jnp.square(means - mean))
    return (pooled, mean, var), (x, kernel, weight, y, pooled, mean)


def _clipwise_conv_pool_bwd(window, padding, residuals, cotangents):
    x, kernel, weight, y, pooled, mean = residuals
    g_pooled, *g_moments = cotangents

    def add_group(total, group):
        x, y, pooled, g_pooled, share = group
        g = _conv_output_gradient(y, pooled, mean, share, window, padding, (g_pooled, *g_moments))
        gx, gk = conv3x3_gradients(x, kernel, g)
        return total + gk, gx

    groups = [_in_groups(a, clips_at_once(x.shape)) for a in (x, y, pooled, g_pooled, _share(weight, y))]
    gk, gx = lax.scan(add_group, jnp.zeros(kernel.shape, jnp.float32), groups)
    return gx.reshape(x.shape), gk.astype(kernel.dtype), jnp.zeros_like(weight)


_clipwise_conv_pool.defvjp(_clipwise_conv_pool_fwd, _clipwise_conv_pool_bwd)


def _one_channel_windows(
    x: jax.Array, kernel: jax.Array, window: tuple[int, int], padding: str
) -> tuple[jax.Array, jax.Array]:
    """Pads one-channel maps to whole pooling windows and by the margin that an odd kernel meets.

    Returns:
      The maps [n, h * ph + kh - 1, w * pw + kw - 1], and which of the h * ph x w * pw positions lie in them.
    """
    whole = _padding(x.shape, window, padding)
    inside = _pad(jnp.ones((1, *x.shape[1:3], 1)), 0.0, whole)[0] > 0
    margins = [(low + size // 2, high + size // 2) for (low, high), size in zip(whole, kernel.shape, strict=False)]
    return _pad(x, 0.0, margins)[..., 0], inside


def _one_channel_pooled(x, kernel, window, padding):
    """Gives max_pool(conv(x, kernel)), computed place by place within the pooling windows."""
    maps, inside = _one_channel_windows(x, kernel, window, padding)
    (kh, kw, _, _), (ph, pw) = kernel.shape, window
    h, w = (maps.shape[1] - kh + 1) // ph, (maps.shape[2] - kw + 1) // pw
    pooled = None
    for place in range(ph * pw):
        i, j = divmod(place, pw)
        y = sum(
            maps[:, i + a : i + a + (h - 1) * ph + 1 : ph, j + b : j + b + (w - 1) * pw + 1 : pw, None]
            * kernel[a, b, 0]
            for a in range(kh)
            for b in range(kw)
        )
        y = jnp.where(inside[i::ph, j::pw], y, -jnp.inf)
        pooled = y if pooled is None else jnp.maximum(pooled, y)
    return pooled


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _one_channel_conv_pool(x, kernel, weight, window, padding):
    """The same as _conv_pool for a one-channel input and an odd kernel, without storing the convolution.

    The moments come from those of the patches (mean . kernel, kernel . covariance . kernel) and the gradient
    computes the convolution again, some rows at a time.
    """
    return _one_channel_conv_pool_fwd(x, kernel, weight, window, padding)[0]


def _patch_moments(x, kernel, weight):
    """Gives mean [kh * kw] and covariance of the neighbourhoods of one-channel maps."""
    (_, h, w, _), (kh, kw, _, _) = x.shape, kernel.shape
    maps, share = jnp.pad(x[..., 0], ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2)), _share(weight, x)
    shifted = [maps[:, i : i + h, j : j + w] for i in range(kh) for j in range(kw)]
    mean = jnp.stack([share @ jnp.sum(part, (1, 2)) for part in shifted])
    centered = [part - center for part, center in zip(shifted, mean, strict=True)]
    rows = [[share @ jnp.sum(a * b, (1, 2)) for b in centered[: i + 1]] for i, a in enumerate(centered)]
    covariance = jnp.stack([jnp.stack([rows[max(i, j)][min(i, j)] for j in range(kh * kw)]) for i in range(kh * kw)])
    return mean, covariance


def _one_channel_conv_pool_fwd(x, kernel, weight, window, padding):
    matrix = kernel.reshape(-1, kernel.shape[-1])
    center, covariance = _patch_moments(x, kernel, weight)
    pooled = _one_channel_pooled(x, kernel, window, padding)
    mean, var = center @ matrix, jnp.sum(matrix * (covariance @ matrix), axis=0)
    return (pooled, mean, var), (x, kernel, weight, center, covariance)


def _one_channel_kernel_gradient(x, kernel, window, padding, g):
    """Takes the gradient g of _one_channel_pooled back to the kernel [kh * kw, cout]."""
    maps, inside = _one_channel_windows(x, kernel, window, padding)
    (n, h, w, cout), (kh, kw, _, _), (ph, pw) = g.shape, kernel.shape, window
    rows = min(h, max(_BLOCK_POSITIONS // (w * ph * pw), 1))
    per_clip = -(-h // rows)
    extra = rows * per_clip - h
    maps = jnp.pad(maps, ((0, 0), (0, extra * ph), (0, 0)))
    inside = jnp.pad(inside, ((0, extra * ph), (0, 0), (0, 0)), constant_values=True)
    g = jnp.pad(g, ((0, 0), (0, extra), (0, 0), (0, 0))).reshape(n * per_clip, rows, w, cout)
    matrix = kernel.reshape(-1, cout)

    def add_block(total, block):
        i, g = block
        row = i % per_clip * rows * ph
        xs = lax.dynamic_slice(maps, (i // per_clip, row, 0), (1, rows * ph + kh - 1, maps.shape[2]))
        patches = _patches(xs[0, ..., None], kh, kw).reshape(-1, kh * kw)
        there = lax.dynamic_slice_in_dim(inside, row, rows * ph)
        y = jnp.where(there, (patches @ matrix).reshape(*there.shape[:2], cout), -jnp.inf)[None]
        gy = _unpool(y, max_pool(y, window, "VALID"), g[None], window, "VALID")
        return total + patches.T @ gy.reshape(-1, cout), None

    return lax.scan(add_block, jnp.zeros_like(matrix), (jnp.arange(n * per_clip), g))[0]


def _one_channel_conv_pool_bwd(window, padding, residuals, cotangents):
    x, kernel, weight, center, covariance = residuals
    matrix = kernel.reshape(-1, kernel.shape[-1])
    g_pooled, g_mean, g_var = cotangents
    gk = center[:, None] * g_mean + 2 * (covariance @ matrix) * g_var
    gk += _one_channel_kernel_gradient(x, kernel, window, padding, g_pooled)
    # Needed only where x itself is trained on; otherwise the compiler drops it.
    y = _library_conv(x, kernel)
    pooled, mean = max_pool(y, window, padding), center @ matrix
    g = _conv_output_gradient(y, pooled, mean, _share(weight, y), window, padding, cotangents)
    return _input_gradient(g, kernel), gk.reshape(kernel.shape), jnp.zeros_like(weight)


_one_channel_conv_pool.defvjp(_one_channel_conv_pool_fwd, _one_channel_conv_pool_bwd)


def _conv_pool_form(x: jax.Array) -> Callable[..., Any]:
    if not _use_cpu_form() or (x.shape[-1] == 1 and x.dtype != jnp.float32):
        return _conv_pool
    return _one_channel_conv_pool if x.shape[-1] == 1 else _clipwise_conv_pool


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
            mean, var = _moments(x, mask.astype(jnp.float32))
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
            function = _conv_pool_form(x)
            weight = mask.astype(jnp.float32)
            pooled, mean, var = function(x, (kernel * sign).astype(x.dtype), weight, self.pool, self.padding)
            norm.record(mean * sign + bias, var)
            factor = norm.factor(var) * sign
            offset = norm.bias[...] - mean * factor
        else:
            factor = norm.factor(norm.var[...])
            kernel = (kernel * factor).astype(x.dtype)
            if _conv_pool_form(x) is _one_channel_conv_pool:
                pooled = _one_channel_pooled(x, kernel, self.pool, self.padding)
            else:
                pooled = max_pool(conv2d(x, kernel), self.pool, self.padding)
            offset = norm.bias[...] + (bias - norm.mean[...]) * factor
            factor = jnp.ones(())
        return self.activation((pooled * factor + offset).astype(x.dtype))


def _shifted(x: jax.Array, size: int) -> list[jax.Array]:
    """The parts of maps [..., time, mel, channel] that each row of a kernel of this size meets."""
    steps = x.shape[-3] - size + 1
    return [x[..., i : i + steps, :, :] for i in range(size)]


def _time_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The "VALID" convolution with a k x 1 kernel, as matrix products.

    For the gradient of the pooling, which asks for equality with the maximum, all its uses must see the same
    roundings: matrix products give that; of sums of products the compiler may make one code here, another there.
    """
    return functools.reduce(jnp.add, map(jnp.matmul, _shifted(x, len(kernel)), kernel[:, 0]))


def _one_channel_places(x: jax.Array, size: int, window: tuple[int, int]) -> list[list[jax.Array]]:
    """For each place of whole pooling windows, the parts of [..., time, mel, 1] that each row of a kernel meets."""
    ph, pw = window
    h, w = (x.shape[-3] - size + 1) // ph, x.shape[-2] // pw
    x = x[..., : w * pw, :]
    return [[x[..., t + i : t + i + h * ph : ph, j::pw, :] for i in range(size)] for t in range(ph) for j in range(pw)]


def _one_channel_time_conv_pool(x: jax.Array, kernel: jax.Array, window: tuple[int, int]) -> jax.Array:
    """The same as _time_conv_pool for one-channel maps, computed place by place within the pooling windows."""
    places = _one_channel_places(x, len(kernel), window)
    ys = [sum(part * row[0, 0] for part, row in zip(parts, kernel, strict=True)) for parts in places]
    return functools.reduce(jnp.maximum, ys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _time_conv_pool(x, kernel, window):
    """Gives max_pool(y, window, "VALID") of y = _time_conv(x, kernel), clip by clip.

    The gradient computes y of each clip again.
    """
    if x.shape[-1] == 1:
        return _one_channel_time_conv_pool(x, kernel, window)
    return lax.map(lambda clip: max_pool(_time_conv(clip[None], kernel), window, "VALID")[0], x)


def _one_channel_time_conv_pool_bwd(x, kernel, window, g):
    def add_clip(total, clip):
        places = _one_channel_places(clip[0], len(kernel), window)
        ys = [sum(part * row[0, 0] for part, row in zip(parts, kernel, strict=True)) for parts in places]
        ys = lax.optimization_barrier(ys)  # stored, so that both uses see the same roundings
        pooled = functools.reduce(jnp.maximum, ys)
        count = sum((y == pooled).astype(jnp.float32) for y in ys)
        pooled, share = lax.optimization_barrier((pooled, (clip[1] / count).astype(x.dtype)))
        gys = [jnp.where(y == pooled, share, 0).astype(jnp.float32) for y in ys]
        rows = [
            sum(jnp.sum(parts[i] * gy, (0, 1)) for parts, gy in zip(places, gys, strict=True))
            for i in range(len(kernel))
        ]
        return total + jnp.stack(rows), None

    gk, _ = lax.scan(add_clip, jnp.zeros((len(kernel), kernel.shape[-1]), jnp.float32), (x, g))
    # Needed only where x itself is trained on; otherwise the compiler drops it.
    gx = jax.vjp(lambda x: max_pool(_library_conv(x, kernel, "VALID"), window, "VALID"), x)[1](g)[0]
    return gx, gk.reshape(kernel.shape).astype(kernel.dtype)


def _time_conv_pool_bwd(window, residuals, g):
    x, kernel = residuals
    size, _, cin, cout = kernel.shape
    if cin == 1:
        return _one_channel_time_conv_pool_bwd(x, kernel, window, g)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def add_clip(total, clip):
        y = _time_conv(clip[0][None], kernel)
        gy = _unpool(y, max_pool(y, window, "VALID"), clip[1][None], window, "VALID")[0]
        columns = gy.reshape(-1, cout)
        parts = _shifted(clip[0], size)
        gk = jnp.stack([product(part.reshape(-1, cin).T, columns) for part in parts])
        gx = sum(jnp.pad(gy @ kernel[i, 0].T, ((i, size - 1 - i), (0, 0), (0, 0))) for i in range(size))
        return total + gk.reshape(kernel.shape), gx

    gk, gx = lax.scan(add_clip, jnp.zeros(kernel.shape, jnp.float32), (x, g))
    return gx, gk.astype(kernel.dtype)


_time_conv_pool.defvjp(
    lambda x, kernel, window: (_time_conv_pool(x, kernel, window), (x, kernel)), _time_conv_pool_bwd
)


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
        if _use_cpu_form():
            pooled = _time_conv_pool(x, kernel, self.pool)
        else:
            pooled = max_pool(_library_conv(x, kernel, "VALID"), self.pool, "VALID")
        return nnx.relu(pooled + self.bias[...].astype(x.dtype))
