import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from flax import nnx
from helpers import score_in_rows
from test_recurrent import keras_states, randomized

from mgc_jax.config.keys import default
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model, count_parameters, split_model
from mgc_jax.models.encoders import ENCODERS, Crnn, CrnnTf, Fcn4, Mlp, Statistics
from mgc_jax.models.pooling import Target
from mgc_jax.runtime import platform


def build(encoder, clip_shape, num_genres=3, pooling="none", **options):
    config = default()
    config.model.encoder.update(name=encoder, **options)
    config.model.pooling.name = pooling
    return build_model(config.model, clip_shape, num_genres, seed=0)


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
            states.append([keras_states(s, *(w[i] for w in weights))[-1] for s in sequences[number]])
    joined = np.concatenate(states, axis=-1)
    dense = joined @ np.asarray(encoder.dense.kernel[...]) + np.asarray(encoder.dense.bias[...])
    expected = np.where(dense > 0, dense, np.expm1(dense))
    np.testing.assert_allclose(encoder(clips, jnp.ones(2, bool), False, None), expected, rtol=1e-4, atol=1e-5)


SMALL = {
    "crnn_tf": {"filters": (4,), "pools": ((2, 2),), "gru_units": 2, "features": 3},
    "crnn": {"filters": (4,), "pools": ((2, 2),), "gru_units": 2},
    "crnn_pooled": {"filters": (4,), "pools": ((2, 2),), "gru_units": 2, "features": 3},
    "fcn4": {"filters": (4,), "pools": ((3, 3),)},
    "cnn": {"filters": (4, 3), "pools": ((2, 2), (2, 2))},
    "bigru": {"gru_units": 2},
    "prcnn": {"filters": (4, 3), "pools": ((2, 2), (2, 2)), "gru_units": 2},
    "prcnn_attention": {"filters": (4,), "frequency_pools": (4,), "gru_units": 2},
    "statistics": {"cepstra": 4, "bands": 3, "hidden": 2, "noise": 0.0},
    "prcnn_attention_literal": {"filters": (4,), "pools": ((2, 2),), "gru_units": 2},
}


def test_crnn_is_a_gru_over_time_on_a_gru_over_time():
    encoder = randomized(Crnn((20, 12), filters=(3,), pools=((3, 4),), gru_units=2, rngs=nnx.Rngs(0)))
    clips = jnp.asarray(np.random.default_rng(1).normal(size=(2, 20, 12)), jnp.float32)
    maps = np.asarray(encoder.blocks[0](clips.swapaxes(1, 2)[..., None], jnp.ones(2, bool), False))
    assert maps.shape == (2, 4, 5, 3)  # mel, time, channel
    assert maps.min() == 0  # ReLU
    first, second = (
        [np.asarray(p[...])[0] for p in (gru.kernel, gru.recurrent_kernel, gru.bias)]
        for gru in (encoder.first_gru, encoder.second_gru)
    )
    sequences = maps.transpose(0, 2, 1, 3).reshape(2, 5, -1)
    expected = [keras_states(keras_states(sequence, *first), *second)[-1] for sequence in sequences]
    np.testing.assert_allclose(encoder(clips, jnp.ones(2, bool), False, None), expected, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_scipy_and_numpy():
    clips = np.random.default_rng(0).normal(size=(3, 50, 16)).cumsum(1).astype(np.float32)
    encoder = Statistics((50, 16), cepstra=14, bands=4, hidden=5, rngs=nnx.Rngs(0))
    cepstra = scipy.fft.dct(clips.astype(np.float64), axis=2, norm="ortho")[..., :14]
    upper = np.triu_indices(13, 1)
    groups = clips.reshape(3, 50, 4, 4).mean(-1).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(groups - groups.mean(1, keepdims=True), axis=1)) / np.sqrt(50)
    # Edges at .004, .012, .024, .048, .096, .192, .32 and .504 cycles per frame; the lowest of 50 frames is 1/50.
    ranges = [slice(1, 2)] * 3 + [slice(2, 5), slice(5, 10), slice(10, 16), slice(16, 25)]
    expected = [
        cepstra.mean(1),
        cepstra.std(1),
        np.diff(cepstra, axis=1).std(1),
        (cepstra[:, 4:] - cepstra[:, :-4]).std(1),
        np.stack([np.corrcoef(clip[:, :13].T)[upper] for clip in cepstra]),
        np.concatenate([np.log(spectrum[:, part].mean(1) + 1e-3) for part in ranges], 1),
    ]
    features = np.concatenate(expected, 1)
    assert encoder.norm.mean.shape == features.shape[1:]
    mean, var = features.mean(0), features.var(0)
    encoder.norm.mean[...], encoder.norm.var[...] = jnp.asarray(mean), jnp.asarray(var)
    kernel, bias = np.asarray(encoder.dense.kernel[...]), np.asarray(encoder.dense.bias[...])
    hidden = np.clip((features - mean) / np.sqrt(var + 1e-3), -4, 4) @ kernel + bias
    found = encoder(jnp.asarray(clips), jnp.ones(3, bool), False, None)
    np.testing.assert_allclose(found, np.maximum(hidden, 0), atol=2e-3)


@pytest.mark.parametrize("name", ["crnn_pooled", "statistics"])
def test_encoders_for_clips_of_any_length_take_longer_ones(name):
    encoder = ENCODERS[name]((16, 8), **SMALL[name], rngs=nnx.Rngs(0))
    clips = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40, 8)), jnp.float32)
    whole = encoder(clips, jnp.ones(2, bool), False, None)
    assert whole.shape == (2, encoder.features)
    assert np.abs(whole - encoder(clips[:, :16], jnp.ones(2, bool), False, None)).max() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_padding_clips_leave_the_others_and_the_batch_statistics_alone(name):
    def run(clips, mask):
        encoder = ENCODERS[name]((16, 8), **SMALL[name], rngs=nnx.Rngs(0))
        for _, module in nnx.iter_modules(encoder):
            if isinstance(module, nnx.Dropout):
                module.rate = 0.0
        out = encoder(jnp.asarray(clips), jnp.asarray(mask), True, nnx.Rngs(dropout=0))
        return np.asarray(out), nnx.to_pure_dict(nnx.state(encoder, nnx.BatchStat))

    clips = np.random.default_rng(0).normal(size=(5, 16, 8)).astype(np.float32)
    alone, stats_alone = run(clips[:3], np.ones(3, bool))
    padded, stats_padded = run(clips, np.array([True, True, True, False, False]))
    np.testing.assert_allclose(padded[:3], alone, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), stats_padded, stats_alone)


@pytest.mark.slow
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_the_dtype_of_the_clips_is_that_of_the_embedding(name, train):
    clips = jnp.asarray(np.random.default_rng(0).normal(size=(6, 16, 8)), jnp.float32)

    def embed(dtype):
        encoder = ENCODERS[name]((16, 8), **SMALL[name], rngs=nnx.Rngs(0))
        out = encoder(clips.astype(dtype), jnp.ones(6, bool), train, nnx.Rngs(dropout=0))
        assert all(
            leaf.dtype == jnp.float32
            for leaf in jax.tree.leaves(nnx.state(encoder, nnx.Any(nnx.Param, nnx.BatchStat)))
        )
        return out

    exact, half = embed(jnp.float32), embed(jnp.bfloat16)
    assert (exact.dtype, half.dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(half.astype(jnp.float32), exact, atol=0.05 * float(jnp.abs(exact).max()))


@pytest.mark.parametrize("shape", [(1360, 96), (640, 128), (250, 100), (256, 96), (120, 128), (7, 5)])
@pytest.mark.parametrize("name", [name for name in ENCODERS if name != "mlp"])
def test_every_encoder_takes_clips_of_every_size(name, shape):
    options = {"filters": (2, 2, 2, 2)} if name == "fcn4" else {}  # the full one takes seconds to make
    encoder = nnx.eval_shape(lambda: ENCODERS[name](shape, **options, rngs=nnx.Rngs(0)))
    clips = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    out = nnx.eval_shape(lambda encoder, clips: encoder(clips, jnp.ones(2, bool), False, None), encoder, clips)
    assert out.shape == (2, encoder.features)
    assert encoder.features > 0


@pytest.mark.parametrize("name", ENCODERS)
def test_plain_trains_every_encoder_as_auto_does(name, monkeypatch):
    monkeypatch.setattr(platform, "on_cpu", lambda: True)  # so that auto uses its kernels
    config = default()
    config.model.encoder.update(name=name, **SMALL.get(name, {}))
    config.model.head_dropout = 0.0
    clips = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 16, 8)), jnp.float32)
    segment, target = jnp.zeros((3, 2), jnp.int32), Target(jnp.array([[0, 0], [1, 0], [2, 0]]), jnp.zeros((3, 2), int))

    def train(kernels, steps):
        config.model.kernels = kernels
        graph, params, stats = split_model(build_model(config.model, (16, 8), 3, seed=0))

        def loss(params):
            model, rngs = nnx.merge(graph, params, stats), nnx.Rngs(dropout=0)
            scores, _ = score_in_rows(model, clips, segment, target, train=True, rngs=rngs)
            return -jnp.mean(jnp.take_along_axis(scores[:, 0], target.label[:, :1], axis=-1))

        step, losses, gradients = jax.jit(jax.value_and_grad(loss)), [], []
        for _ in range(steps):
            value, gradient = step(params)
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
            losses.append(float(value))
            gradients.append(gradient)
        return losses, gradients[0]

    (expected,), auto = train("auto", 1)
    losses, plain = train("plain", 3)
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert losses[0] > losses[1] > losses[2]
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(auto))
    # The gradient of a bias before a batch norm is zero, but for rounding in the plain form.
    jax.tree.map(lambda a, p: np.testing.assert_allclose(p, a, rtol=1e-4, atol=1e-4 * largest), auto, plain)


@pytest.mark.parametrize("name", ENCODERS)
def test_no_encoder_needs_what_gpus_refuse_to_do_deterministically(name, monkeypatch):
    """With --deterministic XLA compiles no select-and-scatter, the gradient of its own max pooling, for a GPU."""
    monkeypatch.setattr(platform, "on_cpu", lambda: False)

    def program(kernels):
        encoder = ENCODERS[name]((16, 8), **SMALL.get(name, {}), rngs=nnx.Rngs(0))
        encoder.set_attributes(platform_kernels=kernels, raise_if_not_found=False)
        graph, params, stats = split_model(encoder)

        def loss(params, clips):
            return jnp.sum(nnx.merge(graph, params, stats)(clips, jnp.ones(2, bool), True, nnx.Rngs(dropout=0)))

        clips = jax.ShapeDtypeStruct((2, 16, 8), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(params, clips).as_text()

    assert "select_and_scatter" not in program(True)
    assert ("select_and_scatter" in program(False)) == (name not in ("mlp", "bigru", "statistics"))


def test_an_unknown_choice_of_kernels_is_named():
    model = default().model
    model.encoder.name, model.kernels = "mlp", "cudnn"
    with pytest.raises(UserError, match=r"config\.model\.kernels='cudnn': choose one of auto, plain"):
        build_model(model, (6,), 3, seed=0)


def test_fcn4_leaves_one_position_of_a_clip_of_the_published_size(caplog):
    caplog.set_level("INFO")
    encoder = nnx.eval_shape(lambda: Fcn4((1360, 96), rngs=nnx.Rngs(0)))
    assert [block.pool for block in encoder.blocks] == [(2, 4), (4, 5), (3, 8), (4, 8)]
    assert not caplog.messages
    nnx.eval_shape(lambda: Fcn4((250, 100), rngs=nnx.Rngs(0)))
    assert caplog.messages == [
        "block 4: the map is only 4 x 1 there, so that the pool (4, 8) became (4, 1)",
    ]


def test_mlp_without_layers_is_the_identity():
    encoder = Mlp((6,), hidden=(), rngs=nnx.Rngs(0))
    clips = jnp.ones((2, 6))
    assert encoder.features == 6
    np.testing.assert_array_equal(encoder(clips, jnp.ones(2, bool), True, None), clips)


def test_mlp_of_the_notebooks():
    """140 -> 100 -> 10 -> 16 with dropout."""
    model = build("mlp", (140,), 16, hidden=(100, 10), dropout=0.1)
    assert count_parameters(model) == 141 * 100 + 101 * 10 + 11 * 16
    encoder = Mlp((140,), hidden=(100,), dropout=0.1, rngs=nnx.Rngs(0))
    clips = jnp.ones((200, 140))
    plain = encoder(clips, jnp.ones(200, bool), False, None)
    dropped = encoder(clips, jnp.ones(200, bool), True, nnx.Rngs(dropout=0))
    live = plain != 0
    assert 0.08 < float(jnp.mean(dropped[live] == 0)) < 0.12
    np.testing.assert_allclose(dropped[dropped != 0], (plain / 0.9)[dropped != 0], rtol=1e-5)


def test_mlp_normalizes_each_clip():
    """PyTorch's LayerNorm, written out; its scale and bias are trained."""
    encoder = Mlp((6,), hidden=(), layer_norm=True, rngs=nnx.Rngs(0))
    clips = np.random.default_rng(0).normal(3.0, 0.01, (4, 6)).astype(np.float32)
    centred = clips - clips.mean(axis=1, keepdims=True)
    expected = centred / np.sqrt(clips.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(encoder(jnp.asarray(clips), jnp.ones(4, bool), False, None), expected, atol=1e-3)
    assert encoder(jnp.asarray(clips, jnp.bfloat16), jnp.ones(4, bool), False, None).dtype == jnp.bfloat16
    assert count_parameters(build("mlp", (6,), 3, hidden=(), layer_norm=True)) == 2 * 6 + 7 * 3


@pytest.mark.parametrize(
    ("encoder", "shape", "message"),
    [
        ({"name": "cnn_tf"}, (40, 12), "choose one of crnn_tf, crnn, crnn_pooled, fcn4, mlp, cnn, bigru, prcnn"),
        ({"name": "crnn_tf", "filter": (3,)}, (40, 12), "has no option filter; it has filters"),
        ({"name": "crnn_tf", "filters": (3, 4)}, (40, 12), "one pool per block"),
        ({"name": "crnn_tf"}, (8,), "use the encoder mlp"),
        ({"name": "crnn_tf", "filters": (3,), "pools": ((0, 4),)}, (40, 12), "two sizes per block"),
        ({"name": "crnn_tf", "filters": (3,), "pools": ((2,),)}, (40, 12), "two sizes per block"),
        ({"name": "crnn_tf", "gru_units": 0}, (40, 12), "gru_units=0"),
        ({"name": "crnn_tf", "dropout": 2.0}, (40, 12), "dropout=2.0"),
        ({"name": "mlp", "hidden": (0,)}, (8,), "hidden=.*above 0"),
        ({"name": "mlp", "dropout": 1.0}, (8,), "dropout=1.0"),
        ({"name": "crnn"}, (8,), "use the encoder mlp"),
        ({"name": "crnn", "gru_units": 0}, (40, 12), "gru_units=0"),
        ({"name": "crnn", "dropout": 2.0}, (40, 12), "dropout=2.0"),
        ({"name": "fcn4"}, (8,), "use the encoder mlp"),
        ({"name": "fcn4", "batch_norm_momentum": 1.0}, (40, 12), "batch_norm_momentum=1.0"),
        ({"name": "cnn"}, (8,), "use the encoder mlp"),
        ({"name": "cnn", "filters": (3, 4)}, (40, 12), "one pool per block"),
        ({"name": "cnn", "filters": (0,), "pools": ((2, 2),)}, (40, 12), "filters="),
        ({"name": "cnn", "kernel": (3,)}, (40, 12), "kernel=.* must be two"),
        ({"name": "cnn", "dropout": 1.0}, (40, 12), "dropout=1.0"),
        ({"name": "cnn", "activation": "gelu"}, (40, 12), "activation='gelu': choose one of relu, elu"),
        ({"name": "bigru"}, (8,), "use the encoder mlp"),
        ({"name": "bigru", "rnn_pool": (2,)}, (40, 12), "rnn_pool="),
        ({"name": "bigru", "gru_layers": 0}, (40, 12), "gru_layers=0"),
        ({"name": "prcnn", "rnn_embedding": -1}, (40, 12), "rnn_embedding=-1"),
        (
            {"name": "prcnn", "gru": 3},
            (40, 12),
            "has no option gru; it has filters, pools, kernel, activation, dropout, rnn_pool",
        ),
        ({"name": "prcnn_attention_literal"}, (8,), "use the encoder mlp"),
        ({"name": "prcnn_attention"}, (8,), "use the encoder mlp"),
        ({"name": "prcnn_attention", "attention": "cnn"}, (40, 12), "attention='cnn': choose one of parallel_cnn"),
        ({"name": "prcnn_attention", "filters": (3,)}, (40, 12), "1 filters but 3 frequency_pools"),
    ],
)
def test_an_impossible_encoder_is_named(encoder, shape, message):
    options = dict(encoder)
    with pytest.raises(UserError, match=message):
        build(options.pop("name"), shape, **options)
