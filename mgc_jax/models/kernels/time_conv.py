"""Convolution over time (k x 1) and max pooling; on CPUs as matrix products, clip by clip."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mgc_jax.models import operations
from mgc_jax.models.kernels.conv_pool import max_pool
from mgc_jax.runtime import platform


def time_conv_pool(x: jax.Array, kernel: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Computes max_pool(conv2d(x, kernel)), both "VALID".

    Args:
      x: Input maps [n, time, mel, channel].
      kernel: Convolution kernel [k, 1, channel in, channel out].
      window: Pool size in time and frequency.
    """
    if not platform.on_cpu():
        return max_pool(operations.conv2d(x, kernel, "VALID"), window, "VALID")
    by_clip = functools.partial(_clipwise_time_conv_pool, window=window)
    return platform.on_own_clips(by_clip, len(x), (0, None), 0)(x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _clipwise_time_conv_pool(x: jax.Array, kernel: jax.Array, window: tuple[int, int]) -> jax.Array:
    """The same as `time_conv_pool`, one clip at a time, whose maps then fit the processor's cache.

    Instead of the convolution, which is as large as all of its inputs, the place of each maximum is kept for the
    gradient, which goes to the first of several equal ones.
    """
    return lax.map(lambda clip: _winners(_places(clip, kernel, window))[0], x)


def _time_conv_pool_fwd(x, kernel, window):
    pooled, winner = lax.map(lambda clip: _winners(_places(clip, kernel, window)), x)
    return pooled, (x, kernel, winner)


def _time_conv_pool_bwd(window, residuals, g):
    x, kernel, winner = residuals
    size, _, cin, cout = kernel.shape

    def add_clip(total, clip):
        x, winner, g = clip
        if cin == 1:
            return total + _one_channel_kernel_gradient(x, winner, g, size, window), None
        spread = _spread(winner, g, window)
        columns = spread.reshape(-1, cout)
        return total + _product(_frames(x, size, *spread.shape[:2]).T, columns), _input_gradient(spread, kernel, x)

    gk, gx = lax.scan(add_clip, jnp.zeros((size * cin, cout), jnp.float32), (x, winner, g))
    if cin == 1:  # needed only for the gradient of the clips themselves; otherwise the compiler drops it
        gx = lax.map(lambda clip: _input_gradient(_spread(clip[1], clip[2], window), kernel, clip[0]), (x, winner, g))
    return gx, gk.reshape(kernel.shape).astype(kernel.dtype)


_clipwise_time_conv_pool.defvjp(_time_conv_pool_fwd, _time_conv_pool_bwd)

_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _frames(clip: jax.Array, size: int, steps: int, mels: int) -> jax.Array:
    """The frames of a clip [time, mel, channel] that meet each row of a kernel: [steps * mels, size * channel]."""
    parts = [clip[i : i + steps, :mels] for i in range(size)]
    return jnp.concatenate(parts, -1).reshape(steps * mels, -1)


def _places(clip: jax.Array, kernel: jax.Array, window: tuple[int, int]) -> list[jax.Array]:
    """The convolution of a clip at each place of the pooling windows, row by row: maps [time2, mel2, channel out]."""
    (ph, pw), (size, _, cin, cout) = window, kernel.shape
    h, w = (clip.shape[0] - size + 1) // ph, clip.shape[1] // pw
    if cin == 1:
        return [
            functools.reduce(jnp.add, [part * row[0, 0] for part, row in zip(parts, kernel, strict=True)])
            for parts in _one_channel_parts(clip, size, window)
        ]
    y = (_frames(clip, size, h * ph, w * pw) @ kernel.reshape(-1, cout)).reshape(h, ph, w, pw, cout)
    return [y[:, i, :, j] for i in range(ph) for j in range(pw)]


def _one_channel_parts(clip: jax.Array, size: int, window: tuple[int, int]) -> list[list[jax.Array]]:
    """For each place of the pooling windows, the parts of [time, mel, 1] that meet each row of a kernel."""
    (ph, pw), mels = window, clip.shape[1] // window[1] * window[1]
    steps = (clip.shape[0] - size + 1) // ph * ph
    return [
        [clip[i + row : i + row + steps : ph, j:mels:pw] for row in range(size)] for i in range(ph) for j in range(pw)
    ]


def _winners(places: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
    """The maximum over the places, and the number of the first place that has it."""
    best, winner = places[0], jnp.zeros(places[0].shape, jnp.uint8 if len(places) <= 256 else jnp.int32)
    for number, place in enumerate(places[1:], 1):
        wins = (place > best) | (place != place)  # NaN wins, as in a plain pooling
        best, winner = jnp.where(wins, place, best), jnp.where(wins, jnp.asarray(number, winner.dtype), winner)
    return best, winner


def _spread(winner: jax.Array, g: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Takes the gradient [time2, mel2, channel] of the maxima back to their places: [time, mel, channel]."""
    (h, w, channels), (ph, pw) = g.shape, window
    number = np.arange(ph * pw, dtype=winner.dtype).reshape(ph, 1, pw, 1)
    cells = jnp.where(winner[:, None, :, None] == number, g[:, None, :, None], 0)
    return cells.reshape(h * ph, w * pw, channels)


def _input_gradient(spread: jax.Array, kernel: jax.Array, clip: jax.Array) -> jax.Array:
    """Takes the gradient [time, mel, channel out] of the convolution back to the clip."""
    size, _, cin, cout = kernel.shape
    (steps, mels, _), (time, width, _) = spread.shape, clip.shape
    parts = (spread.reshape(-1, cout) @ kernel.reshape(-1, cout).T).reshape(steps, mels, size, cin)
    padded = [jnp.pad(parts[:, :, i], ((i, time - steps - i), (0, width - mels), (0, 0))) for i in range(size)]
    return functools.reduce(jnp.add, padded)


def _one_channel_kernel_gradient(
    clip: jax.Array, winner: jax.Array, g: jax.Array, size: int, window: tuple[int, int]
) -> jax.Array:
    """Takes the gradient of the maxima back to the kernel [size, channel out]: a sum over what met the winners."""
    places = _one_channel_parts(clip, size, window)

    def summed(row: int) -> jax.Array:
        met = functools.reduce(jnp.add, [jnp.where(winner == i, parts[row], 0) for i, parts in enumerate(places)])
        products = lax.optimization_barrier(met * g).reshape(-1, g.shape[-1])
        return _product(jnp.ones(len(products), products.dtype), products)  # faster on a CPU than a sum over rows

    return jnp.stack([summed(row) for row in range(size)])
