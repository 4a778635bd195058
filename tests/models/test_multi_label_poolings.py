"""Poolings where a clip may have several genres, and scores that fit a tree of genres."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import segments_of
from scipy.special import expit, log_softmax

from mgc_jax.config.keys import default
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model, check_names
from mgc_jax.models.genre_tree import check_parents, subtrees, tree_consistent
from mgc_jax.models.pooling import POOLINGS, Target

SEGMENT = np.array([[0, 0, 0, 1, 2, 2, 7], [0, 1, 1, 1, 1, 7, 7]])  # 7: no clip
BAGS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
SMALL = {"gated_attention": {"hidden": 6}, "set_transformer": {"width": 8, "heads": 2}}
GENRES = 3
# Genre 0 has 1 and 3 below it, 1 has 2; 4 stands alone.
PARENTS = (-1, 0, 1, 0, -1)


def pooled(name, clips, target=None, **options):
    """Scores of the bags, and the logits that the head gives to each clip."""
    pooling = POOLINGS[name](5, GENRES, **SMALL.get(name, {}), **options, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(2)
    kernel, bias = rng.normal(size=(pooling.features, GENRES)), rng.normal(size=GENRES)

    def classify(vectors):
        return vectors @ kernel + bias

    scores, _ = jax.jit(lambda x, target: pooling(x, segments_of(SEGMENT), target, classify))(clips, target)
    return np.asarray(scores), classify


@pytest.fixture
def clips():
    return np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)


def one_genre_among_all(name, clips):
    """What the pooling says of one genre among all; of MATT as its evaluation sees it, which is not told the genre."""
    return pooled(name, clips, **({"train_query": "own"} if name == "matt" else {}))[0]


@pytest.mark.parametrize("name", ["none", "mean", "max", "matt", "gated_attention", "set_transformer"])
def test_log_odds_are_the_logits_before_the_softmax(name, clips):
    log_odds, _ = pooled(name, clips, multi_label=True)
    expected = one_genre_among_all(name, clips)
    for place in BAGS:
        np.testing.assert_allclose(log_softmax(log_odds[place]), expected[place], rtol=1e-4, atol=1e-5)
        assert not np.allclose(log_odds[place], expected[place], atol=1e-2)


def test_mean_probability_and_noisy_or_are_of_each_genre_by_itself(clips):
    mean, classify = pooled("mean_probability", clips, multi_label=True)
    either, _ = pooled("noisy_or", clips, multi_label=True)
    for row, bag in BAGS:
        p = expit(np.asarray(classify(clips[row][SEGMENT[row] == bag]), np.float64))
        np.testing.assert_allclose(expit(mean[row, bag].astype(float)), p.mean(0), rtol=1e-5)
        np.testing.assert_allclose(expit(either[row, bag].astype(float)), 1 - np.prod(1 - p, axis=0), rtol=1e-5)


def test_noisy_or_keeps_the_log_odds_of_a_sure_clip():
    pooling = POOLINGS["noisy_or"](2, 2, multi_label=True, rngs=nnx.Rngs(0))
    scores, _ = pooling(
        jnp.array([[[60.0, -60.0]]]), segments_of(np.zeros((1, 1), int)), None, lambda vectors: vectors
    )
    np.testing.assert_allclose(scores[0, 0], [60, -60], rtol=1e-6)


@pytest.mark.parametrize("name", ["mean", "matt"])
def test_training_is_told_no_genre(name, clips):
    label = jnp.asarray(np.random.default_rng(1).integers(0, GENRES, SEGMENT.shape), jnp.int32)
    told, _ = pooled(name, clips, Target(label, label), multi_label=True)
    np.testing.assert_array_equal(told, pooled(name, clips, multi_label=True)[0])


def test_the_gold_query_and_poolings_of_one_genre_are_refused():
    model = default().model
    with model.unlocked():
        model.encoder.update(name="mlp", hidden=(4,))
        model.pooling = {"name": "matt", "queries": "frozen_mismatched"}
    with pytest.raises(UserError, match=r"with config\.task=multi_label there is none: choose queries=frozen"):
        build_model(model, (6,), 3, multi_label=True, seed=0)
    assert not POOLINGS["matt"](4, 3, multi_label=True, rngs=nnx.Rngs(0)).told_genre
    with model.unlocked():
        model.pooling = {"name": "hierarchical_matt"}
    check_names(model)
    with pytest.raises(UserError, match=r"pooling.name=hierarchical_matt .* choose one of none, mean, max"):
        check_names(model, multi_label=True)


def test_a_genre_has_the_highest_score_of_its_subtree():
    scores = np.random.default_rng(0).normal(size=(4, 7, len(PARENTS))).astype(np.float32)
    consistent = np.asarray(tree_consistent(jnp.asarray(scores), PARENTS))
    below = {0: [0, 1, 2, 3], 1: [1, 2], 2: [2], 3: [3], 4: [4]}
    np.testing.assert_array_equal(subtrees(PARENTS), [[g in below[top] for g in range(5)] for top in range(5)])
    for top, genres in below.items():
        np.testing.assert_array_equal(consistent[..., top], scores[..., genres].max(-1))
    np.testing.assert_array_equal(tree_consistent(jnp.asarray(consistent), PARENTS), consistent)
    np.testing.assert_array_equal(tree_consistent(jnp.asarray(scores), (-1,) * 5), scores)


@pytest.mark.parametrize("parents", [(-1, 0), (-1, 2, 1), (0, -1, -1), (-1, -1, -2)])
def test_what_is_no_tree_of_three_genres(parents):
    check_parents((), 3)
    check_parents((-1, 0, 1), 3)
    with pytest.raises(ValueError, match="is no tree"):
        check_parents(parents, 3)
