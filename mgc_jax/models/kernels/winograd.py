"""Convolution with 3 x 3 kernels by Winograd's minimal filtering F(4 x 4, 3 x 3), for CPUs.

Y = A' [(G g G') * (B' d B)] A (Lavin & Gray 2016, "Fast algorithms for convolutional neural networks"): a tile d of
6 x 6 inputs, transformed, gives 4 x 4 outputs by 36 products per pair of channels instead of 144. The products are 36
matrix products over the tiles of a block that fits the processor's cache. Both gradients go the same way.

The transforms lose some accuracy. With the usual points 0, 1, -1, 2, -2 the rounding error was four times that of a
plain float32 sum (root mean square, 64 channels, simulated in NumPy), with those used here twice.

Blocks are computed in float32, whatever the dtype of the maps.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_POINTS = (0, 0.75, -0.75, 1.5, -1.5)  # and infinity


_TILE = 4  # outputs of a tile along each axis


_BLOCK_TILES = 170  # measured: 340 and 680 are slower, 90 about the same


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives A' [4, 6], G [6, 3] and B' [6, 6] for the points (Toom-Cook)."""
    size = len(_POINTS) + 1
    a, g, b = np.zeros((_TILE, size)), np.zeros((size, 3)), np.zeros((size, size))
    for i, point in enumerate(_POINTS):
        others = [other for other in _POINTS if other != point]
        a[:, i] = np.power(point, np.arange(_TILE))
        g[i] = np.power(point, np.arange(3)) / np.prod([point - other for other in others])
        b[i, :-1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1  # infinity
    b[-1] = np.poly(_POINTS)[::-1]
    return a, g, b


_A, _G, _B = _matrices()


def _combine(matrix: np.ndarray, parts: Sequence[jax.Array], axis: int) -> jax.Array:
    """Gives the sums of parts that the rows of the matrix say, along a new axis."""

    def weighted_sum(row):
        terms = [float(factor) * part for factor, part in zip(row, parts, strict=True) if factor]
        return functools.reduce(jnp.add, terms)

    return jnp.stack([weighted_sum(row) for row in matrix], axis)


def _rows_then_columns(matrix: np.ndarray, rows: Sequence[jax.Array], size: int, step: int) -> jax.Array:
    """Transforms tiles along both axes.

    Args:
      matrix: [6, number of rows of a tile].
      rows: The first rows of all tiles [n, row of tiles, width, channel], the second ones, ...
      size: How many tiles lie side by side.
      step: From one tile to the next.

    Returns:
      The tiles [36, tile, channel].
    """
    x = _combine(matrix, rows, 0)
    x = lax.optimization_barrier(x)  # a fusion of both would compute the first 6 times
    last = (size - 1) * step + 1
    x = _combine(matrix, [x[:, :, :, j : j + last : step] for j in range(len(rows))], 1)
    return x.reshape(36, -1, x.shape[-1])


def _transform_input(x: Float[Array, "n rows columns c"]) -> Float[Array, "36 tile c"]:
    """B' d B of the overlapping tiles of a block."""
    last = x.shape[1] - 5
    rows = [x[:, i : i + last : _TILE] for i in range(6)]
    return _rows_then_columns(_B, rows, x.shape[2] // _TILE, _TILE)


def _transform_output_gradient(g: Float[Array, "n rows columns k"]) -> Float[Array, "36 tile k"]:
    """A g A' of the tiles of a block."""
    return _rows_then_columns(_A.T, [g[:, i::_TILE] for i in range(_TILE)], g.shape[2] // _TILE, _TILE)


def _transform_output(products: Float[Array, "36 tile k"], n: int, rows: int) -> Float[Array, "n rows4 columns4 k"]:
    """A' m A of the tiles of a block of n clips and so many rows of tiles."""
    m = products.reshape(6, 6, n, rows, -1, products.shape[-1])
    m = lax.optimization_barrier(_combine(_A, list(m), 0))  # [4, 6, n, row, column, k]
    y = _combine(_A, [m[:, j] for j in range(6)], 4)  # [4, n, row, column, 4, k]
    return y.transpose(1, 2, 0, 3, 4, 5).reshape(n, _TILE * rows, -1, y.shape[-1])


def _transform_kernel(kernel: Float[Array, "3 3 c k"]) -> Float[Array, "36 c k"]:
    """G g G'."""
    rows = _combine(_G, list(kernel.astype(jnp.float32)), 0)
    return _combine(_G, [rows[:, j] for j in range(3)], 1).reshape(36, *kernel.shape[2:])


def _transform_kernel_gradient(g: Float[Array, "36 c k"]) -> Float[Array, "3 3 c k"]:
    """G' g G."""
    rows = _combine(_G.T, list(g.reshape(6, 6, *g.shape[1:])), 0)
    return _combine(_G.T, [rows[:, j] for j in range(6)], 1)


class _Blocks(NamedTuple):
    """How maps are cut: into blocks of several small maps, or of some rows of a large one.

    Attributes:
      clips: Clips of a block.
      rows: Rows of tiles of a block.
      columns: Tiles side by side.
      per_clip: Blocks of a clip.
      total: Blocks in all.
    """

    clips: int
    rows: int
    columns: int
    per_clip: int
    total: int

    def padded(self, x: jax.Array) -> jax.Array:
        """Pads maps with zeros: to whole blocks, and by 1 on all sides."""
        _, h, w, _ = x.shape
        bottom, right = _TILE * self.rows * self.per_clip - h, _TILE * self.columns - w
        return jnp.pad(x, ((0, 0), (1, 1 + bottom), (1, 1 + right), (0, 0)))

    def block(self, padded: jax.Array, i: jax.Array) -> jax.Array:
        """Gives block i, with a margin of 1."""
        start = (i // self.per_clip * self.clips, i % self.per_clip * self.rows * _TILE, 0, 0)
        size = (self.clips, self.rows * _TILE + 2, *padded.shape[2:])
        return lax.dynamic_slice(padded, start, size).astype(jnp.float32)

    def joined(self, blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Puts all blocks, without margins, together to maps as large as those of this shape."""
        n, h, w, _ = shape
        return blocks.reshape(n, -1, *blocks.shape[3:])[:, :h, :w]


def _blocks(shape: tuple[int, ...]) -> _Blocks:
    n, h, w, _ = shape
    rows, columns = -(-h // _TILE), -(-w // _TILE)
    at_once = max(_BLOCK_TILES // (rows * columns), 1)
    clips = max(clips for clips in range(1, min(n, at_once) + 1) if n % clips == 0)
    per_clip = -(-rows // max(_BLOCK_TILES // columns, 1))
    rows = -(-rows // per_clip)
    per_clip = -(-h // (rows * _TILE))
    return _Blocks(clips, rows, columns, per_clip, n // clips * per_clip)


def clips_at_once(shape: tuple[int, ...]) -> int:
    """Gives how many clips of maps [n, h, w, c] fit a block; it divides n."""
    return _blocks(shape).clips


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    blocks, transformed = _blocks(x.shape), _transform_kernel(kernel)
    padded = blocks.padded(x)

    def convolve(i):
        products = jnp.matmul(_transform_input(blocks.block(padded, i)), transformed)
        return _transform_output(products, blocks.clips, blocks.rows).astype(x.dtype)

    return blocks.joined(lax.map(convolve, jnp.arange(blocks.total)), x.shape)


@jax.custom_vjp
def conv3x3(x: Float[Array, "n h w cin"], kernel: Float[Array, "3 3 cin cout"]) -> Float[Array, "n h w cout"]:
    """Convolves with stride 1 and "SAME" zero padding.

    Args:
      x: Input maps.
      kernel: Convolution kernel (cross-correlation).

    Returns:
      The maps, in the input's dtype.
    """
    return _convolve(x, kernel)


def conv3x3_gradients(
    x: Float[Array, "n h w cin"], kernel: Float[Array, "3 3 cin cout"], g: Float[Array, "n h w cout"]
) -> tuple[Float[Array, "n h w cin"], Float[Array, "3 3 cin cout"]]:
    """Takes the gradient g of conv3x3(x, kernel) back to both."""
    blocks = _blocks(x.shape)
    padded, padded_g = blocks.padded(x), blocks.padded(g)
    transformed = _transform_kernel(kernel[::-1, ::-1].swapaxes(2, 3))

    def add_block(total, i):
        gs = blocks.block(padded_g, i)
        gx = _transform_output(jnp.matmul(_transform_input(gs), transformed), blocks.clips, blocks.rows)
        x_tiles = _transform_input(blocks.block(padded, i))
        g_tiles = _transform_output_gradient(gs[:, 1:-1, 1:-1])
        return total + jnp.einsum("ptc,ptk->pck", x_tiles, g_tiles), gx.astype(x.dtype)

    total, gx = lax.scan(add_block, jnp.zeros((36, *kernel.shape[2:]), jnp.float32), jnp.arange(blocks.total))
    return blocks.joined(gx, x.shape), _transform_kernel_gradient(total).astype(kernel.dtype)


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    return conv3x3_gradients(x, kernel, g)


conv3x3.defvjp(_forward, _backward)
