"""Counts of operations beside closed forms."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from mgc_jax.bench.flops import count
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.models import layers
from mgc_jax.models.classifier import build_model, split_model
from mgc_jax.models.recurrent import ParallelGRU


def spec(*shape, dtype="float32"):
    return jax.ShapeDtypeStruct(shape, dtype)


def plain(module):
    """The module in XLA's own operations."""
    module.set_attributes(platform_kernels=False)
    return module


def flops_of_gradient(module, x):
    """Of the output's sum, and its gradient for the weights alone."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    return count(jax.value_and_grad(lambda p, x: jnp.sum(nnx.merge(graph, p, rest)(x))), params, x).flops


def test_a_product_of_matrices_and_its_traffic():
    found = count(lambda a, b: a @ b, spec(3, 5), spec(5, 7))
    assert found.flops == 2 * 3 * 5 * 7
    assert found.bytes == 4 * (3 * 5 + 5 * 7 + 3 * 7)
    halves = count(jnp.matmul, spec(8, 3, 5, dtype="bfloat16"), spec(8, 5, 7, dtype="bfloat16"))
    assert (halves.flops, halves.bytes) == (8 * found.flops, 8 * found.bytes / 2)


def test_a_dense_layer_and_its_gradient():
    assert flops_of_gradient(layers.Dense(12, 5, rngs=nnx.Rngs(0)), spec(9, 12)) == 2 * (2 * 9 * 12 * 5)


@pytest.mark.parametrize("cpu", [True, False])
def test_a_convolution_and_both_its_gradients_whatever_the_platforms_form(cpu, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1 if cpu else 8)
    one = 2 * (4 * 10 * 12) * (3 * 3 * 6) * 8
    graph, params, stats = nnx.split(plain(layers.ConvBlock(6, 8, (2, 2), rngs=nnx.Rngs(0))), nnx.Param, ...)
    x = spec(4, 10, 12, 6)

    def forward(params, x):
        return nnx.merge(graph, params, stats)(x, jnp.ones(4), False)

    assert count(forward, params, x).flops == one

    def gradient(params, x):
        return jax.grad(lambda params, x: jnp.sum(forward(params, x) ** 2), argnums=(0, 1))(params, x)

    assert count(gradient, params, x).flops == 3 * one
    assert count(lambda params, x: gradient(params, x)[0], params, x).flops == 2 * one


def test_the_gradient_of_a_strided_and_of_a_grouped_convolution():
    def strided(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, kernel = spec(4, 12, 12, 6), spec(2, 2, 6, 8)
    one = 2 * (4 * 6 * 6) * (2 * 2 * 6) * 8
    assert count(strided, x, kernel).flops == one
    by_input = count(lambda x, kernel: jax.grad(lambda x: jnp.sum(strided(x, kernel) ** 2))(x), x, kernel).flops
    assert by_input == pytest.approx(2 * one, rel=0.4)  # and what falls on the border

    def grouped(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
        )

    assert count(grouped, spec(4, 12, 12, 6), spec(3, 3, 2, 9)).flops == 2 * (4 * 12 * 12 * 9) * (3 * 3 * 2)


@pytest.mark.parametrize("reset_after", [False, True])
def test_a_recurrent_layer_counts_all_its_steps(reset_after):
    gru = plain(ParallelGRU(2, 6, 5, reset_after=reset_after, rngs=nnx.Rngs(0)))
    n, steps = 3, 11
    projection = 2 * (2 * n * steps * 6) * (3 * 5)
    recurrence = 2 * (2 * n * steps * 5) * (3 * 5)
    x = spec(2, n, steps, 6)
    assert count(lambda x: gru(x), x).flops == projection + recurrence
    # The sequence itself gets no gradient, the state does.
    assert flops_of_gradient(gru, x) == 2 * projection + 3 * recurrence
    longer = count(lambda x: gru(x), spec(2, n, 2 * steps, 6)).flops
    assert longer == 2 * (projection + recurrence)


def test_loops_whose_length_is_not_in_sight_are_named():
    found = count(lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ x, x), spec(4, 4))
    assert found.flops == 2 * 4**3
    assert found.unknown == {"while"}
    branches = count(lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x, x), spec(4, 4))
    assert (branches.flops, branches.unknown) == (2 * 4**3, frozenset())


def test_prcnn_by_hand():
    n, genres = 3, 8
    model = build_model(
        type("Options", (), {"encoder": encoder_options("prcnn"), "pooling": pooling_options("none"),
                             "head_dropout": 0.0, "kernels": "plain"}), (640, 128), genres, seed=0,
    )  # fmt: skip
    graph, params, stats = split_model(model)

    each = jnp.arange(n)[:, None]

    def loss(params, clips):
        scores, _ = nnx.merge(graph, params, stats)(
            clips, jnp.ones(n, bool), each, jnp.zeros((n, 1), int), train=True, rngs=nnx.Rngs(0)
        )
        return jnp.sum(scores)

    time, mel, channels, by_hand = 640, 128, 1, 0
    for filters, (pool_time, pool_mel) in zip((16, 32, 64, 64, 64), ((2, 2),) * 3 + ((4, 4),) * 2, strict=True):
        one_step = 2 * n * mel * 3 * channels * filters
        by_hand += one_step * (time if channels > 1 else 0)  # gradient of the map; the clip itself gets none
        time -= 2  # three steps in, one out
        by_hand += 2 * one_step * time  # the map, and the gradient of the kernel
        time, mel, channels = time // pool_time, mel // pool_mel, filters
    embedding = time * mel * channels
    by_hand += 2 * 2 * (2 * n * 320 * 128) * (3 * 64)  # projections of both directions, and their kernels' gradient
    by_hand += 3 * 2 * (2 * n * 320 * 64) * (3 * 64)
    embedding += 2 * 64
    by_hand += 3 * 2 * n * embedding * genres
    by_hand += 2 * 2 * n * embedding  # a bag of one clip is a sum, too
    clips = spec(n, 640, 128)
    assert count(jax.grad(loss), params, clips).flops == by_hand
    forward = count(lambda clips: loss(params, clips), clips).flops
    assert 2 * forward < by_hand < 3 * forward
