import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgc_jax.config import default
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.models.encoders import CrnnTf, Mlp
from mgc_jax.models.recurrent import ParallelGRU


def crnn_tf_config(pooling):
    config = default()
    config.model.encoder.name = "crnn_tf"
    config.model.pooling.name = pooling
    return config


def test_crnn_tf_has_the_papers_parameter_count():
    model = build_model(crnn_tf_config("none").model, (1360, 96), 16, seed=0)
    assert count_parameters(model) == 1_004_112  # as CRNN-TF's repository prints
    gru = jax.tree.leaves(nnx.state(model.encoder.along_time, nnx.Param))
    assert sum(leaf.size for leaf in gru) == 4 * 76_896


def test_matt_adds_one_query_per_genre():
    model = build_model(crnn_tf_config("matt").model, (1360, 96), 16, seed=0)
    assert count_parameters(model) == 1_004_112 + 16 * 64


def keras_gru(x, kernel, recurrent, bias):
    """Keras's GRU with reset_after=False, one sequence [step, feature], gate by gate."""
    units = recurrent.shape[0]
    hard_sigmoid = lambda v: np.clip(0.2 * v + 0.5, 0, 1)  # noqa: E731
    w_z, w_r, w_h = np.split(kernel, 3, axis=1)
    u_z, u_r, u_h = np.split(recurrent, 3, axis=1)
    b_z, b_r, b_h = np.split(bias, 3)
    h = np.zeros(units)
    for x_t in x:
        z = hard_sigmoid(x_t @ w_z + b_z + h @ u_z)
        r = hard_sigmoid(x_t @ w_r + b_r + h @ u_r)
        candidate = np.tanh(x_t @ w_h + b_h + (r * h) @ u_h)
        h = z * h + (1 - z) * candidate
    return h


def randomized(module, seed=0):
    """Gives biases random values too, which start at zero."""
    rng = np.random.default_rng(seed)
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape, scale=0.3), p.dtype), state))
    return module


def test_gru_equals_keras_equations():
    gru = randomized(ParallelGRU(3, 5, 4, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).normal(size=(3, 2, 6, 5)).astype(np.float32)
    last = gru(jnp.asarray(x))
    kernel, recurrent, bias = (np.asarray(p[...]) for p in (gru.kernel, gru.recurrent_kernel, gru.bias))
    for g in range(3):
        for n in range(2):
            expected = keras_gru(x[g, n], kernel[g], recurrent[g], bias[g])
            np.testing.assert_allclose(last[g, n], expected, rtol=1e-5, atol=1e-6)


def test_recurrent_kernels_start_orthogonal():
    kernels = np.asarray(ParallelGRU(2, 5, 4, rngs=nnx.Rngs(0)).recurrent_kernel[...])
    for kernel in kernels:
        np.testing.assert_allclose(kernel @ kernel.T, np.eye(4), atol=1e-5)
    assert not np.allclose(kernels[0], kernels[1])


def test_the_eight_scans_are_those_of_the_table():
    """The original's eight orders, written out by hand on the map P[f, t, c]."""
    encoder = randomized(CrnnTf((20, 12), filters=(3,), pools=((3, 4),), gru_units=2, features=4, rngs=nnx.Rngs(0)))
    clips = jnp.asarray(np.random.default_rng(1).normal(size=(2, 20, 12)), jnp.float32)
    p = np.asarray(encoder.blocks[0](clips.swapaxes(1, 2)[..., None], jnp.ones(2, bool), False))
    assert p.shape == (2, 4, 5, 3)
    flip_t, flip_f = p[:, :, ::-1], p[:, ::-1]
    by_time, by_time_flipped = p.transpose(0, 2, 1, 3), flip_f.transpose(0, 2, 1, 3)
    sequences = {
        1: p.reshape(2, 4, -1),
        2: by_time.reshape(2, 5, -1),
        3: flip_t.reshape(2, 4, -1),
        4: by_time.reshape(2, 5, -1)[:, ::-1],
        5: p.reshape(2, 4, -1)[:, ::-1],
        6: by_time_flipped.reshape(2, 5, -1),
        7: flip_t.reshape(2, 4, -1)[:, ::-1],
        8: by_time_flipped.reshape(2, 5, -1)[:, ::-1],
    }
    states = []
    for gru, numbers in ((encoder.along_frequency, (1, 3, 5, 7)), (encoder.along_time, (2, 6, 4, 8))):
        weights = [np.asarray(v[...]) for v in (gru.kernel, gru.recurrent_kernel, gru.bias)]
        for i, number in enumerate(numbers):
            states.append([keras_gru(s, *(w[i] for w in weights)) for s in sequences[number]])
    joined = np.concatenate(states, axis=-1)
    dense = joined @ np.asarray(encoder.dense.kernel[...]) + np.asarray(encoder.dense.bias[...])
    expected = np.where(dense > 0, dense, np.expm1(dense))
    np.testing.assert_allclose(encoder(clips, jnp.ones(2, bool), False, None), expected, rtol=1e-4, atol=1e-5)


def test_padding_clips_leave_the_others_and_the_batch_statistics_alone():
    def run(clips, mask):
        encoder = CrnnTf(
            (16, 8), filters=(4,), pools=((2, 2),), gru_units=2, features=3, dropout=0.0, rngs=nnx.Rngs(0)
        )
        out = encoder(jnp.asarray(clips), jnp.asarray(mask), True, nnx.Rngs(dropout=0))
        return np.asarray(out), nnx.to_pure_dict(nnx.state(encoder, nnx.BatchStat))

    clips = np.random.default_rng(0).normal(size=(5, 16, 8)).astype(np.float32)
    alone, stats_alone = run(clips[:3], np.ones(3, bool))
    padded, stats_padded = run(clips, np.array([True, True, True, False, False]))
    np.testing.assert_allclose(padded[:3], alone, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), stats_padded, stats_alone)


def test_mlp_without_layers_is_the_identity():
    encoder = Mlp((6,), hidden=(), rngs=nnx.Rngs(0))
    clips = jnp.ones((2, 6))
    assert encoder.features == 6
    np.testing.assert_array_equal(encoder(clips, jnp.ones(2, bool), True, None), clips)


@pytest.mark.parametrize(
    ("encoder", "shape", "message"),
    [
        ({"name": "crnn"}, (40, 12), "choose one of crnn_tf, mlp"),
        ({"name": "crnn_tf", "filter": (3,)}, (40, 12), "has no option filter; it has filters"),
        ({"name": "crnn_tf", "filters": (3, 4)}, (40, 12), "one pool per block"),
        ({"name": "crnn_tf"}, (8,), "use the encoder mlp"),
        ({"name": "crnn_tf", "filters": (3,), "pools": ((0, 4),)}, (40, 12), "two sizes per block"),
        ({"name": "crnn_tf", "filters": (3,), "pools": ((2,),)}, (40, 12), "two sizes per block"),
        ({"name": "crnn_tf", "gru_units": 0}, (40, 12), "gru_units=0"),
        ({"name": "crnn_tf", "dropout": 2.0}, (40, 12), "dropout=2.0"),
        ({"name": "mlp", "hidden": (0,)}, (8,), "above 0"),
    ],
)
def test_an_impossible_encoder_is_named(encoder, shape, message):
    config = default()
    config.model.encoder.update(encoder)
    with pytest.raises(UserError, match=message):
        build_model(config.model, shape, 3, seed=0)
