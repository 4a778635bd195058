"""What attention by queries can and cannot do, and what is trained of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import CHECKPOINT_META, segments_of

from mgc_jax.config.keys import default
from mgc_jax.data.batches import Batch
from mgc_jax.data.inputs import Inputs
from mgc_jax.data.placement import PlacedClips
from mgc_jax.data.standardization import Standardization
from mgc_jax.models.classifier import build_model, count_parameters, split_model
from mgc_jax.models.pooling import Target
from mgc_jax.models.pooling.hierarchical_matt import HierarchicalMattPooling
from mgc_jax.models.pooling.matt import MattPooling
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.training.checkpoint import open_checkpoints
from mgc_jax.training.optimizer import make_optimizer
from mgc_jax.training.step import make_loss, make_train_step

FEATURES, GENRES, CLIPS = 4, 5, 8


def attention_of(score, embeddings, seed, scale=1.0):
    """The weights [bag, genre, clip] of bags [bag, clip, feature] under random weights."""
    pooling = MattPooling(FEATURES, GENRES, score=score, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(seed)
    state = nnx.state(pooling, nnx.Param)
    nnx.update(pooling, jax.tree.map(lambda p: jnp.asarray(scale * rng.normal(size=p.shape), jnp.float32), state))
    _, attention = pooling.views.every(embeddings, segments_of(jnp.zeros(embeddings.shape[:2], int)))
    return np.asarray(attention[:, 0], np.float64)


def opposed(attention):
    """How far two queries disagree on the order of two clips, at most, in log weight: 0 if they never do."""
    logs = np.log(attention)
    gap = logs[..., :, None] - logs[..., None, :]  # [bag, genre, clip, clip]
    return np.minimum(gap.max(1), -gap.min(1)).max()


@pytest.fixture
def bags():
    return jnp.asarray(np.random.default_rng(0).normal(size=(50, CLIPS, FEATURES)), jnp.float32)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_under_equation_1_every_query_ranks_the_clips_alike(bags, scale):
    for seed in range(5):
        attention = attention_of("additive", bags, seed, scale)
        assert np.ptp(attention, axis=1).max() > 1e-3  # the queries do change the weights
        assert opposed(attention) < 1e-5  # but not their order, up to rounding


@pytest.mark.parametrize("score", ["dot", "scaled_dot", "hidden"])
def test_under_the_other_scores_queries_disagree(bags, score):
    for seed in range(5):
        assert opposed(attention_of(score, bags, seed)) > 0.5


def test_under_equation_1_no_clip_weighs_more_than_e_squared_times_another(bags):
    ratios = []
    for seed in range(5):
        attention = attention_of("additive", bags, seed, scale=5.0)
        ratios.append((attention.max(-1) / attention.min(-1)).max())
    assert max(ratios) <= np.exp(2) * (1 + 1e-5)
    assert max(ratios) > 0.99 * np.exp(2)  # the bound is reached
    assert (attention_of("dot", bags, 0, scale=5.0).max(-1) > 0.999).any()


def test_the_bias_of_equation_1_has_no_effect(bags):
    pooling = MattPooling(FEATURES, GENRES, score="additive", rngs=nnx.Rngs(0))
    segment = jnp.zeros(bags.shape[:2], int)
    before, _ = pooling.views.every(bags, segments_of(segment))
    pooling.views.bias[...] = jnp.asarray(3.0)
    np.testing.assert_allclose(pooling.views.every(bags, segments_of(segment))[0], before, atol=1e-5)


def head(rng, features):
    kernel = rng.normal(size=(features, GENRES)).astype(np.float32)
    return kernel, lambda vectors: vectors @ kernel


@pytest.mark.parametrize("train_query", ["gold", "own"])
def test_without_sub_genres_the_hierarchy_is_matt(bags, train_query):
    """Equal queries on both levels: M = [M_1; M_2] then acts as M_1 + M_2."""
    options = {"score": "hidden", "train_query": train_query}
    matt = MattPooling(FEATURES, GENRES, **options, rngs=nnx.Rngs(1))
    parents = tuple(range(GENRES))
    tree = HierarchicalMattPooling(FEATURES, GENRES, subgenre_parents=parents, **options, rngs=nnx.Rngs(2))
    for level in (tree.genres, tree.subgenres):
        nnx.update(level, nnx.state(matt.views))
    kernel, classify = head(np.random.default_rng(3), tree.features)
    joined = kernel[:FEATURES] + kernel[FEATURES:]
    segment = jnp.asarray(np.random.default_rng(4).integers(0, 3, bags.shape[:2]))
    label = jnp.asarray(np.random.default_rng(5).integers(0, GENRES, bags.shape[:2]))
    for target in (None, Target(label, label)):
        expected = matt(bags, segments_of(segment), target, lambda vectors: vectors @ joined)
        for a, b in zip(tree(bags, segments_of(segment), target, classify), expected, strict=True):
            np.testing.assert_allclose(a[:, :3], b[:, :3], rtol=1e-4, atol=1e-5)


def test_a_sub_genre_can_only_raise_the_score_of_its_genre(bags):
    segment = jnp.zeros(bags.shape[:2], int)
    small, large = (
        HierarchicalMattPooling(FEATURES, GENRES, subgenre_parents=parents, rngs=nnx.Rngs(1))
        for parents in ((0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 2))
    )
    nnx.update(large.genres, nnx.state(small.genres))
    large.subgenres.queries[...] = jnp.concatenate([small.subgenres.queries[...], 5 * jnp.ones((1, FEATURES))])
    _, classify = head(np.random.default_rng(3), small.features)
    before, after = (np.asarray(p(bags, segments_of(segment), None, classify)[0][:, 0]) for p in (small, large))
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(after[:, others], before[:, others], rtol=1e-5, atol=1e-6)
    assert (after[:, 2] >= before[:, 2] - 1e-5).all()
    assert (after[:, 2] > before[:, 2] + 1e-3).any()


def test_parents_must_begin_with_the_genres():
    for parents in ((0, 1), (0, 1, 1), (0, 1, 2, 3)):
        with pytest.raises(ValueError, match="must begin with the genres"):
            HierarchicalMattPooling(FEATURES, 3, subgenre_parents=parents, rngs=nnx.Rngs(0))


def test_on_bags_of_one_clip_every_view_is_the_clip():
    """So the diagonal is a softmax there, and the same as in training."""
    clips = jnp.asarray(np.random.default_rng(0).normal(size=(6, 1, FEATURES)), jnp.float32)
    segment, label = jnp.zeros((6, 1), int), jnp.full((6, 1), 2)
    _, classify = head(np.random.default_rng(1), FEATURES)
    matt = MattPooling(FEATURES, GENRES, rngs=nnx.Rngs(0))
    expected = jax.nn.log_softmax(classify(jnp.tanh(clips)))
    for target in (None, Target(label, label)):
        np.testing.assert_allclose(
            matt(clips, segments_of(segment), target, classify)[0], expected, rtol=1e-5, atol=1e-6
        )


def test_own_queries_are_one_function_for_training_and_evaluation(bags):
    matt = MattPooling(FEATURES, GENRES, train_query="own", rngs=nnx.Rngs(0))
    _, classify = head(np.random.default_rng(1), FEATURES)
    segment = jnp.zeros(bags.shape[:2], int)
    target = Target(jnp.ones_like(segment), jnp.ones_like(segment))
    np.testing.assert_array_equal(*(matt(bags, segments_of(segment), t, classify)[0] for t in (None, target)))


def test_mismatched_queries_train_with_one_draw_and_score_with_another(bags):
    """Where training is told the genre, its view is not the one that scores; with one frozen table it is."""
    segment = jnp.zeros(bags.shape[:2], int)
    target = Target(jnp.ones_like(segment), jnp.ones_like(segment))
    _, classify = head(np.random.default_rng(1), FEATURES)
    told, untold = {}, {}
    for queries in ("frozen", "frozen_mismatched"):
        matt = MattPooling(FEATURES, GENRES, queries=queries, rngs=nnx.Rngs(0))
        told[queries] = matt(bags, segments_of(segment), target, classify)[1][:, 0]
        untold[queries] = matt(bags, segments_of(segment), None, classify)[1][:, 0]
    np.testing.assert_array_equal(untold["frozen_mismatched"], untold["frozen"])  # the same first draw
    np.testing.assert_allclose(told["frozen"], untold["frozen"][:, 1], rtol=1e-6)
    assert np.abs(told["frozen_mismatched"] - untold["frozen_mismatched"][:, 1]).max() > 0.1


def model_with(name="matt", seed=0, **options):
    config = default()
    config.model.encoder.update(name="mlp", hidden=(FEATURES,))
    config.model.pooling.update(name=name, **options)
    return build_model(config.model, (3,), GENRES, seed=seed)


@pytest.mark.parametrize("name", ["matt", "hierarchical_matt"])
@pytest.mark.parametrize("queries", ["trained", "frozen", "frozen_mismatched"])
def test_frozen_queries_stay_and_are_restored(tmp_path, name, queries):
    graph, params, stats = split_model(model_with(name, queries=queries))
    level = "views" if name == "matt" else "genres"
    frozen = queries != "trained"
    tables = ["queries", "other_queries"] if queries == "frozen_mismatched" else ["queries"]
    for table in tables:
        assert (table in params.get("pooling", {}).get(level, {})) == (not frozen)  # what an optimizer sees
    before = [np.asarray((stats if frozen else params)["pooling"][level][table]) for table in tables]

    config = default()
    config.optimizer.update(name="adamw", learning_rate=0.1, weight_decay=0.1)
    optimizer = make_optimizer(config.optimizer, 1, 10)
    rng = np.random.default_rng(0)
    batch = Batch(
        clip=np.zeros(12, np.int32),
        real=np.tile(np.array([1, 1, 1, 1, 1, 0], bool), 2),
        at=np.arange(12, dtype=np.int32).reshape(2, 6),
        segment=np.tile(np.array([0, 0, 0, 1, 1, 6], np.int32), (2, 1)),
        label=rng.integers(0, GENRES, (2, 6)).astype(np.int32),
        subgenre=rng.integers(0, GENRES, (2, 6)).astype(np.int32),
        weight=np.tile(np.array([1, 1, 0, 0, 0, 0], np.float32), (2, 1)),
    )
    clips = PlacedClips(jnp.asarray(rng.normal(size=(12, 3)), jnp.float32))
    inputs = Inputs(config, (3,), None, Standardization(mean=np.zeros(3, np.float32), std=np.ones(3, np.float32)))
    ones = np.ones(GENRES, np.float32)
    step = make_train_step(
        make_loss(graph, inputs, config.loss, 4.0, ones, 0 * ones), optimizer, data_mesh(jax.devices()[:1])
    )
    state = optimizer.initial_state(params, stats)
    for _ in range(3):
        state, _ = step(state, batch, clips, None, jax.random.key(0))
    trained = nnx.merge(graph, state.params, state.batch_stats)
    after = [np.asarray(getattr(getattr(trained.pooling, level), table)[...]) for table in tables]
    assert np.array_equal(after, before) == frozen

    _, other_params, other_stats = split_model(model_with(name, queries=queries, seed=1))
    like = optimizer.initial_state(other_params, other_stats)
    others = (other_stats if frozen else other_params)["pooling"][level]
    assert not any(np.array_equal(others[table], values) for table, values in zip(tables, after, strict=True))
    with open_checkpoints(tmp_path, "bag/accuracy") as checkpoints:
        checkpoints.save(state, CHECKPOINT_META, None)
        restored = checkpoints.restore(3, like)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_weights_of_each_form():
    """In the count are, as in Keras's, also those that are not trained."""
    base = count_parameters(model_with("mean"))

    def more(name="matt", **options):
        return count_parameters(model_with(name, **options)) - base

    table = GENRES * FEATURES
    assert more() == more(score="scaled_dot") == more(queries="frozen") == table
    assert more(queries="frozen_mismatched") == 2 * table
    assert more(score="additive") == table + 2 * FEATURES + 1
    assert more(score="hidden") == table + 2 * FEATURES * FEATURES + 2 * FEATURES
    assert more(score="hidden", hidden=7) == table + 2 * FEATURES * 7 + 2 * 7
    assert more("hierarchical_matt") == 2 * table + FEATURES * GENRES  # and a head twice as wide
    assert more("gated_attention", hidden=9) == 2 * FEATURES * 9 + 9
