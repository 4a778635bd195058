import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from mgc_jax.models import layers
from mgc_jax.models.kernels import conv_pool
from mgc_jax.models.kernels.time_conv import time_conv_pool
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import data_mesh, deal, replicate, shard, undeal


def _normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def _plain_conv(x, kernel, bias):
    dims = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims) + bias


def _plain_pool(x, window, padding="SAME"):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *window, 1), padding)


def _assert_close(actual, expected, rtol=2e-5):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=rtol, atol=rtol * (1e-6 + float(jnp.abs(e).max())))


def _value_and_gradients(function, *args):
    """Value, and the gradients of a function of it that tells all its elements apart."""

    def loss(*args):
        y = function(*args)
        return jnp.sum(y * _normal(99, *y.shape)), y

    grads, y = jax.jit(jax.grad(loss, argnums=tuple(range(len(args))), has_aux=True))(*args)
    return y, grads


@pytest.fixture(params=["cpu form", "library form"])
def form(request, monkeypatch):
    monkeypatch.setattr(platform, "on_cpu", lambda: request.param == "cpu form")


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("kernel_shape", [(3, 3, 5, 7), (3, 3, 1, 4), (3, 1, 2, 4), (1, 5, 3, 2), (2, 4, 3, 2)])
def test_conv2d_is_the_library_convolution(kernel_shape):
    args = (_normal(0, 2, 11, 9, kernel_shape[2]), _normal(1, *kernel_shape), _normal(2, kernel_shape[3]))
    _assert_close(
        _value_and_gradients(lambda x, k, b: conv_pool.conv2d(x, k) + b, *args),
        _value_and_gradients(_plain_conv, *args),
    )


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 9, 3), (1, 5, 13, 2), (1, 3, 2, 1)])
@pytest.mark.parametrize("window", [(2, 4), (2, 2), (3, 5)])
def test_max_pool_is_reduce_window(shape, window, padding):
    if padding == "VALID":
        window = tuple(min(pool, size) for pool, size in zip(window, shape[1:], strict=False))
    x = _normal(0, *shape)
    actual = _value_and_gradients(lambda x: conv_pool.max_pool(x, window, padding), x)
    _assert_close(actual, _value_and_gradients(lambda x: _plain_pool(x, window, padding), x), rtol=1e-6)


def test_max_pool_divides_the_gradient_between_equal_maxima():
    x = jnp.array([3.0, 3.0, 1.0, 2.0, 5.0, 4.0]).reshape(1, 1, 6, 1)  # padded by 1 on both sides
    grad = jax.grad(lambda x: jnp.sum(conv_pool.max_pool(x, (1, 4)) * jnp.array([1.0, 10.0])[:, None]))(x)
    np.testing.assert_array_equal(grad.ravel(), [0.5, 0.5, 0, 0, 10, 0])


def test_masked_batch_norm_is_numpy_on_the_real_clips():
    x, mask = 3 + 2 * _normal(0, 4, 5, 6, 3), jnp.array([True, False, True, True])
    norm = layers.MaskedBatchNorm(3, momentum=0.9)
    norm.scale[...], norm.bias[...] = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.0, 1.0, 2.0])
    y = norm(x, mask, train=True)
    real = np.asarray(x)[np.asarray(mask)]
    mean, var = real.mean((0, 1, 2)), real.var((0, 1, 2))
    expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-3) * norm.scale[...] + norm.bias[...]
    _assert_close(y, expected)
    _assert_close((norm.mean[...], norm.var[...]), (mean, var))
    evaluated = norm(x, mask, train=False)
    expected = (np.asarray(x) - norm.mean[...]) / np.sqrt(norm.var[...] + 1e-3)
    _assert_close(evaluated, expected * norm.scale[...] + norm.bias[...])
    _assert_close(norm.mean[...], mean)  # evaluating records nothing
    assert norm.count[...] == 1


@pytest.mark.parametrize("momentum", [0.99, 0.5, 0.0])
def test_moving_averages_weigh_the_batches_so_far(momentum):
    """Their weights are powers of the momentum over the sum of these, and 0 and 1 have none."""
    norm, rng = layers.MaskedBatchNorm(3, momentum=momentum), np.random.default_rng(0)
    assert not norm.mean[...].any()
    assert (norm.var[...] == 1).all()
    means, variances = 5 + rng.normal(size=(7, 3)), 9 * rng.uniform(0.5, 2, (7, 3))
    for number, batch in enumerate(zip(means, variances, strict=True), 1):
        norm.record(*map(jnp.asarray, batch))
        weights = np.power(momentum, np.arange(number))[::-1]
        expected = (np.average(x[:number], axis=0, weights=weights) for x in (means, variances))
        _assert_close((norm.mean[...], norm.var[...]), tuple(expected))
    assert norm.count[...] == 7


def test_old_moving_averages_move_as_those_of_keras_and_stay_where_the_batches_are():
    norm = layers.MaskedBatchNorm(2, momentum=0.99)
    norm.count[...] = jnp.full((), layers.ENDLESS)
    mean, var = jnp.array([2.0, -1.0]), jnp.array([3.0, 0.5])
    norm.record(mean, var)
    _assert_close((norm.mean[...], norm.var[...]), (0.01 * mean, 0.99 + 0.01 * var))
    assert norm.count[...] == layers.ENDLESS
    norm.mean[...], norm.var[...] = mean, var
    for count in (1.0, 10.0, layers.ENDLESS):
        norm.count[...] = jnp.full((), count)
        norm.record(mean, var)
        np.testing.assert_array_equal((norm.mean[...], norm.var[...]), (mean, var))


def test_after_few_steps_evaluation_normalizes_by_the_statistics_of_the_data():
    x, every = 3 + 2 * _normal(0, 64, 5, 6, 2), jnp.ones(64)
    norm = layers.MaskedBatchNorm(2, momentum=0.99)
    for batch in jnp.split(x, 8):
        norm(batch, jnp.ones(8), train=True)
    recomputed = layers.MaskedBatchNorm(2)
    np.testing.assert_allclose(norm(x, every, train=False), recomputed(x, every, train=True), atol=0.02)


def test_masked_batch_norm_without_a_real_clip_is_finite():
    norm = layers.MaskedBatchNorm(2)
    assert jnp.isfinite(norm(_normal(0, 2, 3, 3, 2), jnp.zeros(2), train=True)).all()


def _block(in_features, pool, **options):
    block = layers.ConvBlock(in_features, 6, pool, batch_norm_momentum=0.5, rngs=nnx.Rngs(0), **options)
    block.bias[...] = _normal(3, 6)
    block.norm.scale[...] = jnp.array([1.0, -0.5, 2.0, -1.0, 0.3, 0.7])
    block.norm.bias[...] = _normal(4, 6)
    block.norm.mean[...] = _normal(5, 6)
    return block


def _plain_block(block, x, mask, train):
    x = block.norm(_plain_conv(x, block.kernel[...], block.bias[...]), mask, train)
    return _plain_pool(block.activation(x), block.pool, block.padding)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("in_features", [1, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"activation": nnx.relu}, {"activation": nnx.relu, "padding": "VALID"}],
    ids=["elu", "relu", "floor"],
)
def test_conv_block_is_convolution_norm_activation_pool(options, in_features, train, monkeypatch):
    monkeypatch.setattr(conv_pool, "_BLOCK_POSITIONS", 30)  # blocks that do not divide the map
    x, mask = _normal(0, 3, 7, 10, in_features), jnp.array([True, True, False])
    graph, params, rest = nnx.split(_block(in_features, (2, 4), **options), nnx.Param, ...)

    def run(call):
        def loss(params, x, rest):
            block = nnx.merge(graph, params, rest, copy=True)
            y = call(block, x, mask, train)
            # The padding clip gets a gradient too.
            return jnp.sum(y * _normal(9, *y.shape)), (y, nnx.state(block, nnx.BatchStat))

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x, rest)

    actual, expected = run(lambda block, *args: block(*args)), run(_plain_block)
    if train:  # zero but for rounding in the plain form
        np.testing.assert_array_equal(actual[0][0].bias[...], 0)
        np.testing.assert_allclose(expected[0][0].bias[...], 0, atol=1e-4)
        actual[0][0].bias, expected[0][0].bias = None, None
    _assert_close(actual, expected, rtol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_conv_block_keeps_the_dtype(train):
    x = _normal(0, 2, 6, 8, 1).astype(jnp.bfloat16)

    block = _block(1, (2, 2))
    assert block(x, jnp.ones(2), train).dtype == jnp.bfloat16
    assert block.norm.mean[...].dtype == jnp.float32


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("pool", [(2, 2), (4, 3), (1, 1)])
@pytest.mark.parametrize("in_features", [1, 4])
def test_time_conv_block_is_valid_convolution_relu_floor_pool(in_features, pool):
    x = _normal(0, 3, 13, 7, in_features)
    block = layers.TimeConvBlock(in_features, 6, pool, rngs=nnx.Rngs(0))
    graph, params = nnx.split(block)
    params["bias"] = params["bias"].replace(_normal(3, 6))

    def plain(params, x):
        dims = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, params["kernel"][...], (1, 1), "VALID", dimension_numbers=dims)
        return _plain_pool(nnx.relu(y + params["bias"][...]), pool, "VALID")

    def run(call):
        def loss(params, x):
            y = call(params, x)
            return jnp.sum(y * _normal(9, *y.shape)), y

        return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    _assert_close(run(lambda params, x: nnx.merge(graph, params)(x)), run(plain))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("in_features", [1, 4])
def test_time_conv_block_keeps_the_dtype(in_features):
    x = _normal(0, 3, 13, 7, in_features)
    block = layers.TimeConvBlock(in_features, 6, (2, 2), rngs=nnx.Rngs(0))
    half = block(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), block(x), atol=0.05)


def _on_eight_devices(function, dealt, *args):
    """Values of a jitted function whose arguments, where `dealt`, are split over eight devices."""
    mesh = data_mesh()

    def run(*args):
        with platform.dealt_over(mesh):
            return function(*args)

    placed = [shard(arg, mesh) if split else replicate(arg, mesh) for arg, split in zip(args, dealt, strict=True)]
    return jax.jit(run)(*placed)


@pytest.mark.devices(8)
@pytest.mark.parametrize("in_features", [1, 4])
def test_conv_block_is_the_same_on_eight_devices(in_features):
    x, mask = 3 + _normal(0, 16, 7, 10, in_features), jnp.arange(16) < 13  # some devices have padding alone
    graph, params, rest = nnx.split(_block(in_features, (2, 4)), nnx.Param, ...)

    def gradients(x, mask, params):
        def loss(params, x):
            block = nnx.merge(graph, params, rest, copy=True)
            y = block(x, mask, True)
            return jnp.sum(jnp.where(mask[:, None, None, None], y * _normal(9, *y.shape), 0)), (
                y,
                nnx.to_pure_dict(nnx.state(block, nnx.BatchStat)),
            )

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    expected = jax.jit(gradients)(x, mask, params)
    _assert_close(_on_eight_devices(gradients, (True, True, False), x, mask, params), expected, rtol=1e-4)


@pytest.mark.devices(8)
@pytest.mark.parametrize("in_features", [1, 4])
def test_time_conv_pool_is_the_same_on_eight_devices(in_features):
    x, kernel = _normal(0, 16, 13, 7, in_features), _normal(1, 3, 1, in_features, 6)

    def gradients(x, kernel):
        def loss(x, kernel):
            y = time_conv_pool(x, kernel, (2, 2))
            return jnp.sum(y * _normal(9, *y.shape)), y

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

    _assert_close(_on_eight_devices(gradients, (True, False), x, kernel), jax.jit(gradients)(x, kernel), rtol=1e-5)


@pytest.mark.parametrize("in_features", [1, 4])
def test_time_conv_pool_keeps_nan(in_features):
    x = _normal(0, 2, 9, 8, in_features).at[0, 4, 3, 0].set(jnp.nan)
    kernel = _normal(1, 3, 1, in_features, 6)
    dims = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dims)
    plain = jnp.isnan(y[:, :6]).reshape(2, 3, 2, 4, 2, 6).any((2, 4))
    np.testing.assert_array_equal(jnp.isnan(time_conv_pool(x, kernel, (2, 2))), plain)


def test_time_conv_pool_gives_the_gradient_to_the_first_of_equal_maxima():
    x, kernel = jnp.zeros((1, 4, 2, 1)), jnp.ones((3, 1, 1, 1))
    g = jax.grad(lambda x: jnp.sum(time_conv_pool(x, kernel, (2, 2))))(x)
    np.testing.assert_array_equal(g[0, :, :, 0], [[1, 0], [1, 0], [1, 0], [0, 0]])


def test_dense_is_a_matrix_product():
    dense = layers.Dense(5, 3, rngs=nnx.Rngs(0))
    limit = np.sqrt(6 / (5 + 3))
    assert 0.5 * limit < float(jnp.abs(dense.kernel[...]).max()) <= limit
    np.testing.assert_array_equal(dense.bias[...], 0)
    dense.bias[...] = _normal(1, 3)
    x = _normal(0, 2, 4, 5)
    _assert_close(dense(x), np.asarray(x) @ dense.kernel[...] + dense.bias[...])
    assert dense(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.devices(8)
def test_dropout_does_not_depend_on_the_number_of_devices():
    dropout, x = layers.Dropout(0.3), jnp.asarray(np.random.default_rng(0).normal(size=(16, 200)), jnp.float32)
    assert dropout(x, deterministic=True, rngs=None) is x
    expected = dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=1))
    kept = expected != 0
    assert 0.66 < kept.mean() < 0.74
    np.testing.assert_allclose(expected[kept], x[kept] / 0.7, rtol=1e-6)
    for number in (2, 8):
        with platform.dealt_over(data_mesh(jax.devices()[:number])):
            dropped = dropout(deal(x, number), deterministic=False, rngs=nnx.Rngs(dropout=1))
        np.testing.assert_array_equal(undeal(dropped, number), expected)
