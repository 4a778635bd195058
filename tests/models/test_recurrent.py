import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgc_jax.models.recurrent import BidirectionalGRU, ParallelGRU
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import data_mesh, replicate, shard


def randomized(module, seed=0):
    """Gives biases random values too, which start at zero."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape, scale=0.3), p.dtype), state))
    return module


def keras_states(x, kernel, recurrent, bias, recurrent_bias=None):
    """Keras's GRU on one sequence [step, feature], gate by gate; a second bias means reset_after=True."""
    if recurrent_bias is None:
        gate = lambda v: np.clip(0.2 * v + 0.5, 0, 1)  # noqa: E731
        recurrent_bias = np.zeros_like(bias)
        from_state = lambda r, h: (r * h) @ u_c  # noqa: E731
    else:
        gate = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
        from_state = lambda r, h: r * (h @ u_c + d_c)  # noqa: E731
    w_z, w_r, w_c = np.split(kernel, 3, axis=1)
    u_z, u_r, u_c = np.split(recurrent, 3, axis=1)
    (b_z, b_r, b_c), (d_z, d_r, d_c) = np.split(bias, 3), np.split(recurrent_bias, 3)
    h, states = np.zeros(len(recurrent)), []
    for x_t in x:
        z = gate(x_t @ w_z + b_z + h @ u_z + d_z)
        r = gate(x_t @ w_r + b_r + h @ u_r + d_r)
        h = z * h + (1 - z) * np.tanh(x_t @ w_c + b_c + from_state(r, h))
        states.append(h)
    return np.stack(states)


def weights_of(gru):
    parts = (gru.kernel, gru.recurrent_kernel, gru.bias, gru.recurrent_bias)
    return [np.asarray(part[...]) for part in parts if part is not None]


@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_equals_keras_equations(reset_after):
    gru = randomized(ParallelGRU(3, 5, 4, reset_after=reset_after, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 5)).astype(np.float32)
    last, states = gru(jnp.asarray(x)), gru(jnp.asarray(x), all_steps=True)
    for g in range(3):
        for n in range(2):
            expected = keras_states(x[g, n], *(part[g] for part in weights_of(gru)))
            np.testing.assert_allclose(states[g, n], expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(last[g, n], expected[-1], rtol=1e-5, atol=1e-6)


def test_bidirectional_gru_reads_from_both_ends():
    gru = randomized(BidirectionalGRU(5, 4, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(2, 6, 5)).astype(np.float32)
    last, states = gru(jnp.asarray(x)), gru(jnp.asarray(x), all_steps=True)
    for n in range(2):
        forward = keras_states(x[n], *(part[0] for part in weights_of(gru.directions)))
        backward = keras_states(x[n, ::-1], *(part[1] for part in weights_of(gru.directions)))
        joined = np.concatenate([forward[-1], backward[-1]])
        np.testing.assert_allclose(last[n], joined, rtol=1e-5, atol=1e-6)
        joined = np.concatenate([forward, backward[::-1]], axis=1)  # in the order of the input
        np.testing.assert_allclose(states[n], joined, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("gru", "parameters"),
    [
        (lambda rngs: BidirectionalGRU(128, 128, rngs=rngs), 198_144),
        (lambda rngs: BidirectionalGRU(128, 64, rngs=rngs), 74_496),
        (lambda rngs: ParallelGRU(1, 128, 32, rngs=rngs), 15_456),
        (lambda rngs: ParallelGRU(1, 32, 32, rngs=rngs), 6_240),
    ],
)
def test_grus_have_the_published_parameter_counts(gru, parameters):
    leaves = jax.tree.leaves(nnx.state(gru(nnx.Rngs(0)), nnx.Param))
    assert sum(leaf.size for leaf in leaves) == parameters


def test_recurrent_kernels_start_orthogonal():
    kernels = np.asarray(ParallelGRU(2, 5, 4, rngs=nnx.Rngs(0)).recurrent_kernel[...])
    for kernel in kernels:
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(4), atol=1e-5)
    assert not np.allclose(kernels[0], kernels[1])


@pytest.mark.slow
@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_keeps_the_dtype_and_float32_gradients(reset_after):
    gru = randomized(ParallelGRU(2, 5, 4, reset_after=reset_after, rngs=nnx.Rngs(0)))
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 6, 5)), jnp.float32)
    half = gru(x.astype(jnp.bfloat16), all_steps=True)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), gru(x, all_steps=True), atol=0.05)
    gradients = nnx.grad(lambda gru: jnp.sum(gru(x.astype(jnp.bfloat16)).astype(jnp.float32)))(gru)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(gradients))


@pytest.mark.devices(8)
@pytest.mark.parametrize("reset_after", [False, True])
def test_gru_is_the_same_on_eight_devices(reset_after):
    graph, params = nnx.split(randomized(ParallelGRU(2, 5, 4, reset_after=reset_after, rngs=nnx.Rngs(0))))
    x = np.random.default_rng(1).normal(size=(2, 16, 6, 5)).astype(np.float32)

    def gradients(x, params):
        return jax.value_and_grad(lambda x, params: jnp.sum(jnp.sin(nnx.merge(graph, params)(x))), argnums=(0, 1))(
            x, params
        )

    mesh = data_mesh()

    def dealt(x, params):
        with platform.dealt_over(mesh):
            return gradients(x, params)

    actual = jax.jit(dealt)(shard(x, mesh, axis=1), replicate(params, mesh))
    for ours, expected in zip(jax.tree.leaves(actual), jax.tree.leaves(jax.jit(gradients)(x, params)), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
