"""Pooling against plain NumPy loops over bags."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mgc_jax.config import default
from mgc_jax.models.classifier import build_model
from mgc_jax.models.pooling import MattPooling, MeanPooling

SEGMENT = jnp.array([[0, 0, 0, 1, 2, 2, 7], [0, 1, 1, 1, 1, 7, 7]])  # 7: no clip
BAGS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


@pytest.fixture
def embeddings():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 5)), jnp.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def members(row, bag):
    return np.flatnonzero(np.asarray(SEGMENT)[row] == bag)


def test_mean(embeddings):
    vectors, attention = MeanPooling(5, 3, rngs=nnx.Rngs(0))(embeddings, SEGMENT)
    for row, bag in BAGS:
        clips = members(row, bag)
        np.testing.assert_allclose(vectors[row, bag], embeddings[row, clips].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(attention[row, bag, clips], 1 / len(clips))
    assert not np.asarray(vectors[1, 3]).any()


def test_matt_in_training_uses_the_query_of_the_bags_genre(embeddings):
    pooling = MattPooling(5, 3, rngs=nnx.Rngs(0))
    queries = np.asarray(pooling.queries[...])
    label = jax.random.randint(jax.random.key(1), SEGMENT.shape, 0, 3)
    vectors, attention = pooling(embeddings, SEGMENT, label)
    assert vectors.shape == (2, 7, 5)
    for row, bag in BAGS:
        clips = members(row, bag)
        weights = softmax(embeddings[row, clips] @ queries[label[row, bag]])
        np.testing.assert_allclose(attention[row, bag, clips], weights, rtol=1e-5)
        np.testing.assert_allclose(attention[row, bag].sum(), 1, rtol=1e-6)
        expected = np.tanh(weights @ embeddings[row, clips])
        np.testing.assert_allclose(vectors[row, bag], expected, rtol=1e-5, atol=1e-6)


def test_matt_without_labels_gives_every_genre_its_view(embeddings):
    pooling = MattPooling(5, 3, rngs=nnx.Rngs(0))
    queries = np.asarray(pooling.queries[...])
    vectors, attention = pooling(embeddings, SEGMENT)
    assert vectors.shape == (2, 7, 3, 5)
    for row, bag in BAGS:
        clips = members(row, bag)
        for genre in range(3):
            weights = softmax(embeddings[row, clips] @ queries[genre])
            np.testing.assert_allclose(attention[row, bag, genre, clips], weights, rtol=1e-5)
            expected = np.tanh(weights @ embeddings[row, clips])
            np.testing.assert_allclose(vectors[row, bag, genre], expected, rtol=1e-5, atol=1e-6)


def test_the_rank_of_clips_differs_between_queries():
    pooling = MattPooling(2, 2, rngs=nnx.Rngs(0))
    pooling.queries[...] = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    clips = jnp.array([[[2.0, 0.0], [0.0, 2.0]]])
    _, attention = pooling(clips, jnp.array([[0, 0]]))
    assert attention[0, 0, 0, 0] > attention[0, 0, 0, 1]
    assert attention[0, 0, 1, 0] < attention[0, 0, 1, 1]


def matt_model(head_dropout=0.0):
    config = default()
    config.model.encoder.name = "mlp"
    config.model.encoder.hidden = ()
    config.model.pooling, config.model.head_dropout = "matt", head_dropout
    return build_model(config.model, (5,), 3, seed=0)


def test_matt_scores_are_the_diagonal(embeddings):
    model = matt_model()
    scores, aux = model(embeddings, SEGMENT)
    np.testing.assert_array_equal(aux["embedding"], embeddings)  # the identity encoder
    queries, kernel = np.asarray(model.pooling.queries[...]), np.asarray(model.head.kernel[...])
    for row, bag in BAGS:
        clips = embeddings[row, members(row, bag)]
        for genre in range(3):
            view = np.tanh(softmax(clips @ queries[genre]) @ clips)
            np.testing.assert_allclose(np.exp(scores[row, bag, genre]), softmax(view @ kernel)[genre], rtol=1e-5)


def test_slots_without_clip_or_bag_change_nothing_and_stay_finite(embeddings):
    model = matt_model()
    label = jnp.zeros(SEGMENT.shape, int)
    real = SEGMENT < 7

    def loss(clips, train):
        scores, _ = model(clips, SEGMENT, label if train else None)
        return jnp.sum(jnp.where(jnp.arange(7) < jnp.array([[3], [2]]), scores[..., 0], 0))

    for train in (False, True):
        other = jnp.where(real[..., None], embeddings, 1e3)
        np.testing.assert_allclose(loss(embeddings, train), loss(other, train), rtol=1e-6)
        gradient = np.asarray(jax.grad(loss)(embeddings, train))
        assert np.isfinite(gradient).all()
        assert not gradient[np.asarray(~real)].any()
        assert gradient[np.asarray(real)].any()
        assert np.isfinite(np.asarray(model(embeddings, SEGMENT, label if train else None)[0])).all()


def test_head_dropout_is_for_training_alone(embeddings):
    model = matt_model(head_dropout=0.5)
    np.testing.assert_array_equal(model(embeddings, SEGMENT)[0], model(embeddings, SEGMENT)[0])
    label = jnp.zeros(SEGMENT.shape, int)
    one, two = (model(embeddings, SEGMENT, label, train=True, rngs=nnx.Rngs(dropout=key))[0] for key in (0, 1))
    assert not np.allclose(one, two)
