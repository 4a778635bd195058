import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mgc_jax.models.kernels import winograd


def _plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _values(function, x, kernel, g):
    y, gradients = jax.vjp(function, x, kernel)
    return y, *gradients(g)


def _arguments(dtype, n, h, w, cin, cout):
    rng = np.random.default_rng(0)
    return [
        jnp.asarray(rng.normal(size=shape), dtype) for shape in ((n, h, w, cin), (3, 3, cin, cout), (n, h, w, cout))
    ]


def test_the_matrices_convolve():
    d, g = np.random.default_rng(0).normal(size=6), np.array([0.5, -1, 2])
    expected = np.convolve(d, g[::-1], "valid")
    np.testing.assert_allclose(winograd._A @ ((winograd._G @ g) * (winograd._B @ d)), expected, rtol=1e-12)


# In blocks of all clips; of two of four; of two rows of tiles, which do not divide the map; of one.
@pytest.mark.parametrize("block_tiles", [1000, 30, 6, 1])
@pytest.mark.parametrize("shape", [(4, 17, 10, 3, 5), (3, 1, 2, 1, 1)])
def test_conv3x3_is_the_library_convolution(shape, block_tiles, monkeypatch):
    monkeypatch.setattr(winograd, "_BLOCK_TILES", block_tiles)
    arguments = _arguments(jnp.float32, *shape)
    actual = jax.jit(lambda *args: _values(winograd.conv3x3, *args))(*arguments)
    for a, e in zip(actual, _values(_plain, *arguments), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-5 * float(jnp.abs(e).max()))


def test_conv3x3_rounds_little_more_than_the_library_convolution():
    arguments = _arguments(jnp.float32, 2, 40, 40, 64, 64)
    with jax.enable_x64(True):
        exact = [np.asarray(e) for e in _values(_plain, *(np.asarray(a, np.float64) for a in arguments))]

    def errors(function):
        values = _values(function, *arguments)
        return [np.sqrt(np.mean((v - e) ** 2) / np.mean(e**2)) for v, e in zip(values, exact, strict=True)]

    assert max(errors(winograd.conv3x3)) < 1.5e-6
    assert max(errors(_plain)) < 1.5e-6


def test_conv3x3_keeps_the_dtype():
    arguments = _arguments(jnp.bfloat16, 2, 9, 11, 8, 8)
    expected = _values(_plain, *(a.astype(jnp.float32) for a in arguments))
    for a, e in zip(_values(winograd.conv3x3, *arguments), expected, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(a.astype(jnp.float32), e, rtol=0.01, atol=1e-3 * float(jnp.abs(e).max()))
