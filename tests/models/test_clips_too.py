"""Bags that are scored by their clips, too (`config.model.clips_too`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import score_in_rows
from scipy.special import log_softmax

from mgc_jax.config.keys import default
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.models.classifier import build_model, count_parameters, describe_model
from mgc_jax.models.pooling import Target

SEGMENT = np.array([[0, 0, 0, 1, 2, 2, 7], [0, 1, 1, 1, 1, 7, 7]])  # 7: no clip
REAL_BAG = np.arange(7) < np.array([[3], [2]])
TARGET = Target(*2 * [jnp.asarray(np.random.default_rng(1).integers(0, 3, (2, 7)).astype(np.int32))])


@pytest.fixture
def clips():
    return np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)


def build(pooling="set_transformer", *, multi_label=False, **changes):
    config = default()
    config.model.encoder = encoder_options("mlp", hidden=(6,), dropout=0.0)
    config.model.pooling = pooling_options(pooling)
    config.model.head_dropout = 0.0
    config.model.update(changes)
    return build_model(config.model, (5,), 3, multi_label=multi_label, seed=0)


def scored(model, clips, segment=SEGMENT, **options):
    return np.asarray(score_in_rows(model, jnp.asarray(clips), jnp.asarray(segment), **options)[0])


@pytest.mark.parametrize(
    ("pooling", "multi_label"),
    [("mean", False), ("max", True), ("matt", False), ("hierarchical_matt", False), ("set_transformer", True)],
)
def test_clips_too_averages_the_bag_and_its_clips_alone(clips, pooling, multi_label):
    plain, both = (build(pooling, multi_label=multi_label, clips_too=too) for too in (False, True))
    assert count_parameters(plain) == count_parameters(both)
    of_bags = scored(plain, clips)
    of_clips = scored(plain, clips, np.where(SEGMENT < 7, np.arange(7), 7))
    for row, bag in np.argwhere(REAL_BAG):
        mean = of_clips[row, SEGMENT[row] == bag].mean(0)
        expected = (of_bags[row, bag] + mean) / 2
        expected = expected if multi_label else log_softmax(expected)
        np.testing.assert_allclose(scored(both, clips)[row, bag], expected, rtol=1e-4, atol=1e-5)


def test_clips_too_tells_every_clip_the_genre_of_its_bag(clips):
    """MATT looks with the query of the true genre, also at a clip alone; both scores are there to be trained."""
    plain, both = build("matt"), build("matt", clips_too=True)
    options = {"train": True, "rngs": nnx.Rngs(dropout=0)}
    pair = scored(both, clips, target=TARGET, **options)
    assert pair.shape == (2, 2, 7, 3)
    own = jnp.take_along_axis(TARGET.label, jnp.minimum(SEGMENT, 6), 1)
    of_clips = scored(plain, clips, np.where(SEGMENT < 7, np.arange(7), 7), target=Target(own, own), **options)
    for row, bag in np.argwhere(REAL_BAG):
        expected = of_clips[row, SEGMENT[row] == bag].mean(0)
        np.testing.assert_allclose(pair[1, row, bag], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pair[0], scored(plain, clips, target=TARGET, **options), rtol=1e-4, atol=1e-5)


def test_what_is_in_empty_slots_does_not_matter(clips):
    model = build(clips_too=True)
    filled = np.where(SEGMENT[..., None] < 7, clips, 1e3)
    np.testing.assert_allclose(scored(model, filled)[REAL_BAG], scored(model, clips)[REAL_BAG], rtol=1e-4, atol=1e-5)

    def total(x):
        return score_in_rows(model, x, jnp.asarray(SEGMENT))[0][REAL_BAG].sum()

    gradient = jax.grad(total)(jnp.asarray(filled))
    assert np.isfinite(gradient).all()
    assert not np.asarray(gradient)[SEGMENT == 7].any()


def test_the_attention_is_that_of_both_scores(clips):
    segment = jnp.asarray(SEGMENT)
    plain, both = (
        score_in_rows(build(clips_too=too), jnp.asarray(clips), segment)[1]["attention"] for too in (False, True)
    )
    for row, bag in np.argwhere(REAL_BAG):
        mine = SEGMENT[row] == bag
        expected = (np.asarray(plain)[row, bag][mine] + 1 / mine.sum()) / 2
        np.testing.assert_allclose(both[row, bag][mine], expected, rtol=1e-5)


def test_the_name_of_the_system_says_so():
    config = default()
    config.model.encoder = encoder_options("mlp")
    config.model.pooling = pooling_options("set_transformer")
    config.model.clips_too = True
    assert describe_model(config.model) == "MLP + MIL (set transformer) (clips too)"
