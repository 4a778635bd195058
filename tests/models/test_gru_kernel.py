import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from test_recurrent import randomized

from mgc_jax.errors import UserError
from mgc_jax.models import gru_kernel
from mgc_jax.models.gru_kernel import KernelForm, choose
from mgc_jax.models.recurrent import ParallelGRU
from mgc_jax.sharding import data_mesh


def _gru(reset_after, units=5, num_grus=2):
    return randomized(ParallelGRU(num_grus, 3, units, reset_after=reset_after, rngs=nnx.Rngs(0)))


def _inputs(n, num_grus=2, steps=7):
    return jnp.asarray(np.random.default_rng(1).normal(size=(num_grus, n, steps, 3)), jnp.float32)


def _values_and_gradients(gru, x, all_steps, monkeypatch, form):
    """Values, and gradients of a random weighting of them by the weights and by x."""
    monkeypatch.setenv(gru_kernel.VARIABLE, form)
    graph, params = nnx.split(gru)

    def weighted(params, x):
        y = nnx.merge(graph, params)(x, all_steps)
        weights = np.random.default_rng(2).normal(size=y.shape)
        return jnp.sum(y.astype(jnp.float32) * weights), y

    (_, y), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))(params, x)
    return [y, *jax.tree.leaves(gradients)]


@pytest.mark.parametrize("reset_after", [False, True])
@pytest.mark.parametrize(("all_steps", "units", "n"), [(True, 5, 17), (False, 16, 3), (True, 24, 1)])
def test_kernel_equals_the_scan(monkeypatch, reset_after, all_steps, units, n):
    gru, x = _gru(reset_after, units), _inputs(n)
    scan, kernel = (_values_and_gradients(gru, x, all_steps, monkeypatch, form) for form in ("scan", "kernel"))
    assert len(scan) == len(kernel) == 1 + (4 if reset_after else 3) + 1
    for expected, value in zip(scan, kernel, strict=True):
        assert value.dtype == expected.dtype
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * np.max(np.abs(expected)))
