"""Convolution, batch norm and max pooling in one, with gradients that are faster than XLA's.

`conv_norm_pool` is what the layers use. It pools before it normalizes: the batch norm is monotone in each channel, so
it may follow the pooling once the sign of its scale is in the kernel. In training the convolution's bias cancels in
the output (its gradient is exactly zero) and appears only in the moving mean.

On CPUs 3 x 3 convolutions are computed clip by clip in Winograd form, and those of one-channel float32 maps
without storing the convolution. Elsewhere the convolution is XLA's, and the max pooling has its own gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from mgc_jax.models import operations
from mgc_jax.models.kernels.winograd import clips_at_once, conv3x3, conv3x3_gradients
from mgc_jax.models.operations import moments, weight_fraction
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import DATA

_BLOCK_POSITIONS = 4096  # of a one-channel map at a time; between 2048 and 8192, both measured faster than 32768


class BatchNormValues(NamedTuple):
    """What a batch norm holds.

    Attributes:
      scale: [channel].
      offset: [channel].
      epsilon: Added to the variance.
      moving: Moving mean and variance, [channel] each, to normalize by; None: by the batch's own, as in training.
    """

    scale: jax.Array
    offset: jax.Array
    epsilon: float
    moving: tuple[jax.Array, jax.Array] | None


def _patches(x: jax.Array, kh: int, kw: int) -> jax.Array:
    """The kh x kw neighbourhoods within a map: [h + kh - 1, w + kw - 1, c] to [h, w, kh * kw * c]."""
    h, w = x.shape[0] - kh + 1, x.shape[1] - kw + 1
    return jnp.concatenate([x[i : i + h, j : j + w] for i in range(kh) for j in range(kw)], -1)


def _input_gradient(g: jax.Array, kernel: jax.Array) -> jax.Array:
    return operations.conv2d(g, kernel[::-1, ::-1].swapaxes(2, 3))


def conv2d(x: Float[Array, "n h w cin"], kernel: Float[Array, "kh kw cin cout"]) -> Float[Array, "n h w cout"]:
    """`operations.conv2d` with "SAME" padding, on a CPU in Winograd form."""
    if kernel.shape[:2] == (3, 3) and kernel.shape[2] > 1 and platform.on_cpu():
        return conv3x3(x, kernel)
    return operations.conv2d(x, kernel)


def _padding(shape: tuple[int, ...], window: tuple[int, int], padding: str) -> list[tuple[int, int]]:
    """Padding to whole windows: TensorFlow's "SAME", or a crop (negative padding) for "VALID"."""
    if padding == "VALID":
        return [(0, -(size % pool)) for size, pool in zip(shape[1:3], window, strict=True)]
    totals = [-size % pool for size, pool in zip(shape[1:3], window, strict=True)]
    return [(total // 2, total - total // 2) for total in totals]


def _pad(x: jax.Array, value: float, padding: list[tuple[int, int]]) -> jax.Array:
    """Pads height and width; negative padding crops."""
    config = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    return lax.pad(x, jnp.asarray(value, x.dtype), config)


def _upsample(y: jax.Array, window: tuple[int, int], padding: list[tuple[int, int]]) -> jax.Array:
    """Repeats the value of each pooling window at all its positions; 0 at those in no window."""
    n, h, w, c = y.shape
    y = jnp.broadcast_to(y[:, :, None, :, None], (n, h, window[0], w, window[1], c))
    return _pad(y.reshape(n, h * window[0], w * window[1], c), 0.0, [(-low, -high) for low, high in padding])


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Float[Array, "n h w c"], window: tuple[int, int], padding: str = "SAME") -> Float[Array, "n h2 w2 c"]:
    """`operations.max_pool` with a gradient by masks, which is faster than XLA's select-and-scatter.

    The gradient goes to the maximum of each window, divided evenly between equal ones.
    """
    return operations.max_pool(x, window, padding)


def max_pool_gradient(x: jax.Array, y: jax.Array, g: jax.Array, window: tuple[int, int], padding: str) -> jax.Array:
    """Takes the gradient g of y = max_pool(x, window, padding) back to x."""
    (n, h, w, c), (ph, pw) = y.shape, window
    whole = _padding(x.shape, window, padding)
    cells = _pad(x, -jnp.inf, whole).reshape(n, h, ph, w, pw, c)
    # A sum of slices: on a CPU faster than jnp.sum over two axes, and than reduce_window.
    count = sum((cells[:, :, i, :, j] == y).astype(jnp.float32) for i in range(ph) for j in range(pw))
    share = (g / count).astype(g.dtype)
    return jnp.where(x == _upsample(y, window, whole), _upsample(share, window, whole), 0)


def _max_pool_fwd(x, window, padding):
    y = max_pool(x, window, padding)
    return y, (x, y)


def _max_pool_bwd(window, padding, residuals, g):
    x, y = residuals
    return (max_pool_gradient(x, y, g, window, padding),)


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv_pool(x, kernel, weight, window, padding):
    """Computes max_pool(y), and the weighted mean and variance of y over the clips, for y = conv2d(x, kernel).

    The gradient makes one pass over y. The weight gets no gradient.
    """
    return _conv_pool_fwd(x, kernel, weight, window, padding)[0]


def _conv_pool_fwd(x, kernel, weight, window, padding):
    y = operations.conv2d(x, kernel)
    mean, var = moments(y, weight)
    pooled = max_pool(y, window, padding)
    return (pooled, mean, var), (x, kernel, weight, y, pooled, mean)


def _conv_output_gradient(y, pooled, mean, share, window, padding, cotangents):
    g_pooled, g_mean, g_var = cotangents
    through_moments = share[:, None, None, None] * ((g_mean - 2 * g_var * mean) + (2 * g_var) * y)
    return (max_pool_gradient(y, pooled, g_pooled, window, padding) + through_moments).astype(y.dtype)


def _conv_pool_bwd(window, padding, residuals, cotangents):
    x, kernel, weight, y, pooled, mean = residuals
    g = _conv_output_gradient(y, pooled, mean, weight_fraction(weight, y), window, padding, cotangents)
    gx, gk = jax.vjp(operations.conv2d, x, kernel)[1](g)
    return gx, gk, jnp.zeros_like(weight)


_conv_pool.defvjp(_conv_pool_fwd, _conv_pool_bwd)


def _in_groups(x: jax.Array, clips: int) -> jax.Array:
    return x.reshape(-1, clips, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _clipwise_conv_pool(x, kernel, weight, window, padding):
    """The same as `_conv_pool` for 3 x 3 kernels, one clip (or a few small ones) at a time.

    A clip's convolution is then still in the cache when its moments and maxima are computed, and so is its gradient.
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

    groups = [_in_groups(a, clips_at_once(x.shape)) for a in (x, y, pooled, g_pooled, weight_fraction(weight, y))]
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
    """Computes max_pool(conv2d(x, kernel)), position by position within the pooling windows."""
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
    """The same as `_conv_pool` for a one-channel input and an odd kernel, without storing the convolution.

    The moments come from those of the patches (mean . kernel, kernel . covariance . kernel) and the gradient
    computes the convolution again, some rows at a time.
    """
    return _one_channel_conv_pool_fwd(x, kernel, weight, window, padding)[0]


def _patch_moments(x, kernel, weight):
    """Mean [kh * kw] and covariance of the neighbourhoods of one-channel maps."""
    (_, h, w, _), (kh, kw, _, _) = x.shape, kernel.shape
    maps, share = jnp.pad(x[..., 0], ((0, 0), (kh // 2,) * 2, (kw // 2,) * 2)), weight_fraction(weight, x)
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
        gy = max_pool_gradient(y, max_pool(y, window, "VALID"), g[None], window, "VALID")
        return total + patches.T @ gy.reshape(-1, cout), None

    return lax.scan(add_block, jnp.zeros_like(matrix), (jnp.arange(n * per_clip), g))[0]


def _one_channel_conv_pool_bwd(window, padding, residuals, cotangents):
    x, kernel, weight, center, covariance = residuals
    matrix = kernel.reshape(-1, kernel.shape[-1])
    g_pooled, g_mean, g_var = cotangents
    gk = center[:, None] * g_mean + 2 * (covariance @ matrix) * g_var
    gk += _one_channel_kernel_gradient(x, kernel, window, padding, g_pooled)
    # Needed only for the gradient of the clips themselves; otherwise the compiler drops it.
    y = operations.conv2d(x, kernel)
    pooled, mean = max_pool(y, window, padding), center @ matrix
    g = _conv_output_gradient(y, pooled, mean, weight_fraction(weight, y), window, padding, cotangents)
    return _input_gradient(g, kernel), gk.reshape(kernel.shape), jnp.zeros_like(weight)


_one_channel_conv_pool.defvjp(_one_channel_conv_pool_fwd, _one_channel_conv_pool_bwd)


def _conv_pool_form(x: jax.Array) -> Callable[..., Any]:
    """Returns the convolution with pooling that suits the platform and the number of channels of a map."""
    if not platform.on_cpu() or (x.shape[-1] == 1 and x.dtype != jnp.float32):
        return _conv_pool
    return _one_channel_conv_pool if x.shape[-1] == 1 else _clipwise_conv_pool


def _pooled(window: tuple[int, int], padding: str, x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes max_pool(conv2d(x, kernel)) in the form that suits the platform."""
    if _conv_pool_form(x) is _one_channel_conv_pool:
        return _one_channel_pooled(x, kernel, window, padding)
    return max_pool(conv2d(x, kernel), window, padding)


def _own_clips_on_cpu(function: Callable[..., Any], clips: int, in_axes: Any, out_axes: Any) -> Callable[..., Any]:
    """`platform.on_own_clips` for CPUs, whose forms are loops over clips; elsewhere XLA partitions the operations."""
    return platform.on_own_clips(function, clips, in_axes, out_axes) if platform.on_cpu() else function


def _pooled_with_moments(
    conv_pool: Callable[..., Any],
    window: tuple[int, int],
    padding: str,
    devices: int,
    x: jax.Array,
    kernel: jax.Array,
    weight: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns conv_pool(x, kernel, weight, window, padding), with the moments of the clips of all devices."""
    pooled, mean, var = conv_pool(x, kernel, weight, window, padding)
    if devices == 1:
        return pooled, mean, var
    number = jnp.sum(weight)
    share = number / jnp.maximum(lax.psum(number, DATA), 1.0)
    whole = lax.psum(share * mean, DATA)
    return pooled, whole, lax.psum(share * (var + jnp.square(mean - whole)), DATA)


def conv_norm_pool(
    x: Float[Array, "n h w cin"],
    kernel: Float[Array, "3 3 cin cout"],
    bias: Float[Array, " cout"],
    norm: BatchNormValues,
    mask: Float[Array, " n"] | Bool[Array, " n"],
    pool: tuple[int, int],
    padding: str,
) -> tuple[Float[Array, "n h2 w2 cout"], tuple[Float[Array, " cout"], Float[Array, " cout"]]]:
    """Computes max_pool(batch_norm(conv2d(x, kernel) + bias)), the convolution with "SAME" padding.

    Args:
      x: Input maps; their dtype is the dtype of the convolution and of the result.
      kernel: Convolution kernel.
      bias: Convolution bias.
      norm: What the batch norm holds.
      mask: 1 (or True) for a real clip, 0 for padding, which the batch statistics leave out.
      pool: Pool size in height and width.
      padding: Of the pooling: "SAME" or "VALID".

    Returns:
      The pooled maps, and the mean and variance by which they were normalized.
    """
    if norm.moving is None:
        sign = jnp.where(norm.scale < 0, -1.0, 1.0)
        arguments = x, (kernel * sign).astype(x.dtype), mask.astype(jnp.float32)
        devices = platform.shared_by(len(x)) if platform.on_cpu() else 1
        form = functools.partial(_pooled_with_moments, _conv_pool_form(x), pool, padding, devices)
        pooled, mean, var = _own_clips_on_cpu(form, len(x), (0, None, 0), (0, None, None))(*arguments)
        factor = norm.scale * lax.rsqrt(var + norm.epsilon) * sign
        return (pooled * factor + (norm.offset - mean * factor)).astype(x.dtype), (mean * sign + bias, var)
    mean, var = norm.moving
    factor = norm.scale * lax.rsqrt(var + norm.epsilon)
    pooling = functools.partial(_pooled, pool, padding)
    pooled = _own_clips_on_cpu(pooling, len(x), (0, None), 0)(x, (kernel * factor).astype(x.dtype))
    return (pooled + (norm.offset + (bias - mean) * factor)).astype(x.dtype), (mean, var)
