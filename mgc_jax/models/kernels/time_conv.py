"""Convolution over time (3 x 1) and max pooling; on one CPU device as shifted matrix products, clip by clip."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mgc_jax.models import operations
from mgc_jax.models.kernels.conv_pool import max_pool, max_pool_gradient
from mgc_jax.runtime import platform


def _shifted(x: jax.Array, size: int) -> list[jax.Array]:
    """The parts of maps [..., time, mel, channel] that meet each row of a kernel of this size."""
    steps = x.shape[-3] - size + 1
    return [x[..., i : i + steps, :, :] for i in range(size)]


def _time_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The "VALID" convolution with a k x 1 kernel, as matrix products.

    The gradient of the pooling compares values with their maximum, so both must be rounded alike. Matrix products are;
    sums of products may be compiled differently in different places.
    """
    return functools.reduce(jnp.add, map(jnp.matmul, _shifted(x, len(kernel)), kernel[:, 0]))


def _one_channel_places(x: jax.Array, size: int, window: tuple[int, int]) -> list[list[jax.Array]]:
    """For each position in a pooling window, the parts of [..., time, mel, 1] that meet each row of a kernel."""
    ph, pw = window
    h, w = (x.shape[-3] - size + 1) // ph, x.shape[-2] // pw
    x = x[..., : w * pw, :]
    return [[x[..., t + i : t + i + h * ph : ph, j::pw, :] for i in range(size)] for t in range(ph) for j in range(pw)]


def _one_channel_time_conv_pool(x: jax.Array, kernel: jax.Array, window: tuple[int, int]) -> jax.Array:
    """The same as `time_conv_pool` for one-channel maps, position by position within the pooling windows."""
    places = _one_channel_places(x, len(kernel), window)
    ys = [sum(part * row[0, 0] for part, row in zip(parts, kernel, strict=True)) for parts in places]
    return functools.reduce(jnp.maximum, ys)


def time_conv_pool(x: jax.Array, kernel: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Computes max_pool(conv2d(x, kernel)), both "VALID".

    Args:
      x: Input maps [n, time, mel, channel].
      kernel: Convolution kernel [k, 1, channel in, channel out].
      window: Pool size in time and frequency.
    """
    if platform.on_one_cpu_device():
        return _clipwise_time_conv_pool(x, kernel, window)
    return max_pool(operations.conv2d(x, kernel, "VALID"), window, "VALID")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _clipwise_time_conv_pool(x, kernel, window):
    """The same as `time_conv_pool`, one clip at a time; the gradient computes each clip's convolution again."""
    if x.shape[-1] == 1:
        return _one_channel_time_conv_pool(x, kernel, window)
    return lax.map(lambda clip: max_pool(_time_conv(clip[None], kernel), window, "VALID")[0], x)


def _one_channel_time_conv_pool_bwd(x, kernel, window, g):
    def add_clip(total, clip):
        places = _one_channel_places(clip[0], len(kernel), window)
        ys = [sum(part * row[0, 0] for part, row in zip(parts, kernel, strict=True)) for parts in places]
        ys = lax.optimization_barrier(ys)  # stored, so that both uses are rounded alike
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
    # Needed only for the gradient of the clips themselves; otherwise the compiler drops it.
    gx = jax.vjp(lambda x: max_pool(operations.conv2d(x, kernel, "VALID"), window, "VALID"), x)[1](g)[0]
    return gx, gk.reshape(kernel.shape).astype(kernel.dtype)


def _time_conv_pool_bwd(window, residuals, g):
    x, kernel = residuals
    size, _, cin, cout = kernel.shape
    if cin == 1:
        return _one_channel_time_conv_pool_bwd(x, kernel, window, g)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def add_clip(total, clip):
        y = _time_conv(clip[0][None], kernel)
        gy = max_pool_gradient(y, max_pool(y, window, "VALID"), clip[1][None], window, "VALID")[0]
        columns = gy.reshape(-1, cout)
        parts = _shifted(clip[0], size)
        gk = jnp.stack([product(part.reshape(-1, cin).T, columns) for part in parts])
        gx = sum(jnp.pad(gy @ kernel[i, 0].T, ((i, size - 1 - i), (0, 0), (0, 0))) for i in range(size))
        return total + gk.reshape(kernel.shape), gx

    gk, gx = lax.scan(add_clip, jnp.zeros(kernel.shape, jnp.float32), (x, g))
    return gx, gk.astype(kernel.dtype)


def _time_conv_pool_fwd(x, kernel, window):
    return _clipwise_time_conv_pool(x, kernel, window), (x, kernel)


_clipwise_time_conv_pool.defvjp(_time_conv_pool_fwd, _time_conv_pool_bwd)
