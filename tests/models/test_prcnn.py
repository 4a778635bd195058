import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_recurrent import randomized

from mgc_jax.config.keys import default
from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.models.encoders import BiGru, Cnn, Prcnn, PrcnnAttention, PrcnnAttentionLiteral

REAL = jnp.ones(2, bool)


def build(encoder, clip_shape=(640, 128), num_genres=8, **options):
    config = default()
    config.model.encoder.update(name=encoder, **options)
    config.model.pooling.name = "none"
    return build_model(config.model, clip_shape, num_genres, seed=0)


def _clips(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=(2, *shape)), jnp.float32)


@pytest.mark.parametrize(
    ("encoder", "options", "parameters"),
    [
        ("cnn", {}, 34_600),
        ("cnn", {"filters": (16, 32, 64), "pools": ((2, 2), (2, 2), (2, 2))}, 646_824),
        ("cnn", {"filters": (16, 32, 64), "pools": ((2, 2), (4, 4), (4, 2))}, 85_672),
        ("cnn", {"kernel": (5, 1), "activation": "elu", "dropout": 0.5}, 5 * 10_768 + 240 + 3 * 64 * 8 + 8),
        ("cnn", {"kernel": (3, 3)}, 9 * 10_768 + 240 + 4 * 64 * 8 + 8),
        ("bigru", {}, 75_528),
        ("bigru", {"gru_units": 128}, 200_200),
        ("prcnn", {}, 110_120),
        ("prcnn", {"gru_layers": 2}, 184_616),
        ("prcnn_attention_literal", {}, 232_744),  # as its figure says
        ("prcnn_attention", {"attention": "parallel_linear"}, 200_200 + 128 + 1),
        ("prcnn_attention", {"attention": "serial_linear"}, 200_200 + 256 + 1),
        ("prcnn_attention", {}, 200_200 + 64 + 1_568 + 6_208 + 2 * 64 + 1),
        ("prcnn_attention", {"attention": "serial_cnn"}, 200_200 + (3 * 256 + 1) * 16 + 1_568 + 6_208 + 64 + 1),
    ],
)
def test_parameter_counts(encoder, options, parameters):
    assert count_parameters(nnx.eval_shape(lambda: build(encoder, **options))) == parameters


def test_the_original_of_feng_joins_256_and_256_features():
    model = build(
        "prcnn", (128, 513), 10, filters=(16, 32, 64, 128, 64), rnn_pool=(1, 2), rnn_embedding=128, gru_units=128
    )
    rnn = model.encoder.rnn
    assert rnn.embedding.kernel.shape == (256, 128)
    assert rnn.features == 256
    assert count_parameters(rnn) == 257 * 128 + 198_144


def _numpy_cnn(encoder, clips):
    """Convolution, bias, ReLU, pooling, written out."""
    x = np.asarray(clips)[..., None]
    for block in encoder.blocks:
        kernel, bias = np.asarray(block.kernel[...]), np.asarray(block.bias[...])
        steps = x.shape[1] - 2
        x = np.maximum(sum(x[:, i : i + steps] @ kernel[i, 0] for i in range(3)) + bias, 0)
        (p, q), (n, h, w, c) = block.pool, x.shape
        x = x[:, : h // p * p, : w // q * q].reshape(n, h // p, p, w // q, q, c).max((2, 4))
    return x.reshape(len(x), -1)


def test_prcnn_is_cnn_and_gru_side_by_side():
    pools = ((2, 3), (4, 2))
    encoder = randomized(Prcnn((43, 13), filters=(4, 3), pools=pools, gru_units=3, gru_layers=2, rngs=nnx.Rngs(0)))
    clips = _clips(43, 13)
    out = encoder(clips, REAL, True, None)
    assert out.shape == (2, encoder.features) == (2, 4 * 2 * 3 + 6)
    np.testing.assert_allclose(out[:, :24], _numpy_cnn(encoder.cnn, clips), rtol=1e-4, atol=1e-5)
    frames = np.asarray(clips)[:, :42].reshape(2, 21, 2, 13).max(2)
    first, second = encoder.rnn.layers
    expected = second(first(jnp.asarray(frames), all_steps=True))
    np.testing.assert_allclose(out[:, 24:], expected, rtol=1e-5, atol=1e-6)


def test_a_map_smaller_than_the_kernel_is_padded():
    encoder = Cnn((4, 2), filters=(3, 2), pools=((1, 1), (1, 1)), kernel=(5, 3), rngs=nnx.Rngs(0))
    assert encoder(_clips(4, 2), REAL, False, None).shape == (2, encoder.features) == (2, 2)


def test_dropout_is_of_the_pooled_maps_in_training():
    encoder = randomized(Cnn((22, 40), filters=(8,), pools=((1, 1),), dropout=0.25, rngs=nnx.Rngs(0)))
    clips = _clips(22, 40)
    whole = np.asarray(encoder(clips, REAL, False, None))
    some = np.asarray(encoder(clips, REAL, True, nnx.Rngs(dropout=0)))
    np.testing.assert_allclose(some[some != 0], whole[some != 0] / 0.75, rtol=1e-5)
    assert (some == 0)[whole != 0].mean() == pytest.approx(0.25, abs=0.03)


def test_linear_embedding_before_the_gru():
    encoder = randomized(BiGru((9, 6), rnn_pool=(1, 2), rnn_embedding=4, gru_units=3, rngs=nnx.Rngs(0)))
    clips = _clips(9, 6)
    frames = np.asarray(clips).reshape(2, 9, 3, 2).max(3)
    embedded = frames @ encoder.embedding.kernel[...] + encoder.embedding.bias[...]
    np.testing.assert_allclose(encoder(clips, REAL, True, None), encoder.layers[0](embedded), rtol=1e-5, atol=1e-6)


def test_attention_as_drawn_is_the_gru_alone():
    encoder = randomized(
        PrcnnAttentionLiteral((20, 8), filters=(4, 3), pools=((2, 2), (2, 2)), gru_units=3, rngs=nnx.Rngs(0))
    )
    clips = _clips(20, 8)
    alone = encoder.rnn(clips, REAL, True, None)
    np.testing.assert_allclose(encoder(clips, REAL, True, None), alone, rtol=1e-6, atol=1e-7)
    gradients = nnx.jit(nnx.grad(lambda encoder: jnp.sum(encoder(clips, REAL, True, None) * alone)))(encoder)
    largest = lambda part: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(part))  # noqa: E731
    assert largest(gradients["rnn"]) > 0.1
    assert largest(gradients["cnn"]) < 1e-6  # rounding


@pytest.mark.parametrize("attention", ["parallel_cnn", "parallel_linear", "serial_cnn", "serial_linear"])
def test_attention_is_a_weighted_mean_over_time(attention):
    encoder = randomized(
        PrcnnAttention(
            (21, 8), attention=attention, filters=(4, 3), frequency_pools=(2, 2), gru_units=3, rngs=nnx.Rngs(0)
        )
    )
    clips = _clips(21, 8)
    frames = np.asarray(clips)[:, :20].reshape(2, 10, 2, 8).max(2)
    states = encoder.rnn.layers[0](jnp.asarray(frames), all_steps=True)
    out, weights = encoder.attend(clips)
    seen = frames if attention.startswith("parallel") else np.asarray(states)
    if attention.endswith("linear"):
        scores = (seen @ encoder.scores.dense.kernel[...] + encoder.scores.dense.bias[...])[..., 0]
    else:  # convolutions over time that keep its length; the states are channels
        x = seen[..., None] if attention.startswith("parallel") else seen[:, :, None]
        for block in encoder.scores.blocks:
            x = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)))
            x = np.maximum(sum(x[:, i : i + 10] @ block.kernel[i, 0] for i in range(3)) + block.bias[...], 0)
            x = np.asarray(x).reshape(2, 10, -1, block.pool[1], x.shape[-1]).max(3)
        dense = encoder.scores.last.dense
        scores = (x.reshape(2, 10, -1) @ dense.kernel[...] + dense.bias[...])[..., 0]
    expected = jax.nn.softmax(scores, axis=-1)
    assert float(weights.std()) > 1e-4
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out, np.einsum("ns,nsf->nf", expected, states), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(encoder(clips, REAL, True, None), out)


def test_a_pool_shrinks_to_a_small_map_and_says_so(caplog):
    caplog.set_level("INFO")
    encoder = Cnn((250, 100), rngs=nnx.Rngs(0))
    assert [block.pool for block in encoder.blocks] == [(2, 2), (2, 2), (2, 2), (4, 4), (4, 3)]
    assert caplog.messages == ["convolution 5: the map is only 4 x 3 there, so that the pool (4, 4) became (4, 3)"]
    caplog.clear()
    Cnn((640, 128), rngs=nnx.Rngs(0))
    assert not caplog.messages


def test_a_short_clip_is_padded_for_the_convolution():
    encoder = randomized(Cnn((2, 4), filters=(3,), pools=((1, 2),), rngs=nnx.Rngs(0)))
    clips = _clips(2, 4)
    padded = jnp.pad(clips, ((0, 0), (0, 1), (0, 0)))
    np.testing.assert_allclose(encoder(clips, REAL, True, None), _numpy_cnn(encoder, padded), rtol=1e-5)
