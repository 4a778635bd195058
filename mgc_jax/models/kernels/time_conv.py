"""Convolution over time alone (3 x 1) as shifted products of matrices, with its gradients: for CPUs."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from mgc_jax.models.kernels.conv_pool import library_conv, max_pool, unpool


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
    """The same as time_conv_pool for one-channel maps, computed place by place within the pooling windows."""
    places = _one_channel_places(x, len(kernel), window)
    ys = [sum(part * row[0, 0] for part, row in zip(parts, kernel, strict=True)) for parts in places]
    return functools.reduce(jnp.maximum, ys)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def time_conv_pool(x, kernel, window):
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
    gx = jax.vjp(lambda x: max_pool(library_conv(x, kernel, "VALID"), window, "VALID"), x)[1](g)[0]
    return gx, gk.reshape(kernel.shape).astype(kernel.dtype)


def _time_conv_pool_bwd(window, residuals, g):
    x, kernel = residuals
    size, _, cin, cout = kernel.shape
    if cin == 1:
        return _one_channel_time_conv_pool_bwd(x, kernel, window, g)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def add_clip(total, clip):
        y = _time_conv(clip[0][None], kernel)
        gy = unpool(y, max_pool(y, window, "VALID"), clip[1][None], window, "VALID")[0]
        columns = gy.reshape(-1, cout)
        parts = _shifted(clip[0], size)
        gk = jnp.stack([product(part.reshape(-1, cin).T, columns) for part in parts])
        gx = sum(jnp.pad(gy @ kernel[i, 0].T, ((i, size - 1 - i), (0, 0), (0, 0))) for i in range(size))
        return total + gk.reshape(kernel.shape), gx

    gk, gx = lax.scan(add_clip, jnp.zeros(kernel.shape, jnp.float32), (x, g))
    return gx, gk.astype(kernel.dtype)


time_conv_pool.defvjp(lambda x, kernel, window: (time_conv_pool(x, kernel, window), (x, kernel)), _time_conv_pool_bwd)
