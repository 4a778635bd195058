"""The scoring that evaluation and exported models share: chunks, rows, and what is compiled."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_corpus, small_config

from mgc_jax import scoring
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.inference import ExportedModel, _bags
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.scoring import chunk_size, row_slots

RNG = np.random.default_rng(0)


def make(folder, pooling="matt", **changes):
    """An experiment with a small MLP on feature vectors, and its model with the first weights, as if exported."""
    config = small_config(folder, make_corpus(clip_shape=(6,)))
    config.data.arrays.axes = "clip feature"
    config.model.encoder = encoder_options("mlp", hidden=(8,))
    config.model.pooling = pooling_options(pooling)
    config.eval.logit_adjustment = 0.5
    config.update_from_flattened_dict(changes)
    run = Experiment(config, folder / "run")
    return run, ExportedModel(nnx.merge(run.graph, run.params, run.batch_stats), run.inputs, run.meta({}))


@pytest.fixture
def exported(tmp_path):
    return make(tmp_path)[1]


def at_once(model, clips, segment):
    """Scores and attention of all bags in one row, op by op."""
    x = model.inputs.evaluation(jnp.asarray(clips))
    everything = jnp.ones(len(x), bool), jnp.arange(len(x))[None], jnp.asarray(segment)[None]
    scores, aux = model.model(x, *everything)
    bags = segment.max() + 1
    return jax.nn.log_softmax(scores[0, :bags] + model.adjustment), aux["attention"][0, :bags]


@pytest.mark.parametrize("pooling", ["none", "mean", "matt", "hierarchical_matt", "set_transformer"])
def test_an_exported_model_scores_as_evaluation_does(tmp_path, pooling):
    run, model = make(tmp_path, pooling)
    expected = run.predict("train", run.params, run.batch_stats)
    bags = run.bags["train"]
    clips = run.corpus.clips[bags.clips]
    segment = np.repeat(np.arange(len(bags)), bags.sizes)
    np.testing.assert_allclose(model(clips)[0], expected.clip_scores, atol=1e-5)
    scores, aux = model(clips, segment)
    if run.has_pooling:
        np.testing.assert_allclose(scores[segment], expected.bag_scores, atol=1e-5)
        attention = aux["attention"]
        if attention.ndim == 3:
            attention = attention[np.arange(len(bags)), scores.argmax(1)]
        np.testing.assert_allclose(attention[segment, np.arange(len(clips))], expected.attention, atol=1e-5)
        np.testing.assert_allclose(attention.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "sizes",
    [[1], [70], [1, 130, 2], [1] * 150, [3, 1, 5] * 40],
    ids=["one clip", "one long bag", "a long bag and others", "many clips", "many bags"],
)
def test_bags_are_scored_as_all_at_once_in_any_order(exported, sizes):
    segment = RNG.permutation(np.repeat(np.arange(len(sizes)), sizes))
    clips = RNG.normal(size=(len(segment), 6))
    scores, aux = exported(clips, segment)
    expected, attention = at_once(exported, clips, segment)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    np.testing.assert_allclose(aux["attention"], attention, atol=1e-5)


def test_padding_changes_nothing(exported):
    clips = RNG.normal(size=(40, 6)).astype(np.float32)
    scores, aux = exported(clips)
    for number in (1, 3, 16, 17):
        fewer, of_fewer = exported(clips[:number])
        np.testing.assert_allclose(fewer, scores[:number], atol=1e-6)
        np.testing.assert_allclose(of_fewer["embedding"], aux["embedding"][:number], atol=1e-6)


def compiled(caplog, function):
    """How many programs calls of a function compile, or take from the cache on the disk."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
        function()
    return sum("Compiling" in record.getMessage() for record in caplog.records)


def test_a_second_call_compiles_nothing(exported, caplog):
    clips = RNG.normal(size=(900, 6)).astype(np.float32)
    segment = np.arange(900) // 9
    assert compiled(caplog, lambda: exported(clips, segment)) == 2  # to embed and to pool
    assert compiled(caplog, lambda: exported(clips, segment)) == 0
    assert compiled(caplog, lambda: exported(clips)) == 1  # more bags in a row
    assert compiled(caplog, lambda: exported(clips)) == 0
    assert compiled(caplog, lambda: exported(clips[:777], segment[:777])) == 0
    assert compiled(caplog, lambda: exported(clips.astype(float)[::-1], np.zeros(900, int))) == 1  # a longer bag


def test_calls_with_any_number_of_clips_compile_few_programs(tmp_path, caplog):
    _, model = make(tmp_path, **{"eval.batch_clips": 64})
    model = dataclasses.replace(model, mesh=data_mesh(jax.devices()[:1]))
    clips = RNG.normal(size=(70, 6))
    # 1, 2, 4, ..., 64 clips; a row with up to 32 or 64 bags, or two rows.
    assert compiled(caplog, lambda: [model(clips[:number]) for number in range(1, 71)]) == 7 + 3


def test_the_number_of_devices_changes_nothing(exported):
    alone = dataclasses.replace(exported, mesh=data_mesh(jax.devices()[:1]))
    clips, segment = RNG.normal(size=(37, 6)), RNG.permutation(37) // 2
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), exported(clips, segment), alone(clips, segment)
    )


def test_an_embedding_that_is_not_finite_loses_its_own_bag_alone(exported):
    """As that of a model that diverged; clips that are not finite are refused before."""
    segment = np.array([0, 1, 0, 2, 2, 1])
    whole, aux = exported(RNG.normal(size=(6, 6)), segment)
    embeddings = aux["embedding"].copy()
    embeddings[5, :2] = np.inf, np.nan
    scores, attention = exported._scorer.score(*exported._weights, embeddings, _bags(segment, 6))
    np.testing.assert_allclose(scores[[0, 2]], whole[[0, 2]], atol=1e-6)
    assert np.isnan(scores[1]).all()
    assert np.isnan(attention).all(axis=1).tolist() == [False, True, False, False, False, True]
    assert np.isfinite(attention[[0, 2, 3, 4]]).all()


def test_a_bag_that_is_too_long_is_refused(exported, monkeypatch):
    monkeypatch.setattr(scoring, "_MOST_ELEMENTS", 3 * 70 * (70 + 8))
    exported(np.zeros((70, 6)), np.zeros(70, int))
    with pytest.raises(UserError, match="a bag has 71 clips, more than can be pooled at once: make bags smaller"):
        exported(np.zeros((71, 6)), np.zeros(71, int))


def test_sizes_are_few():
    assert [chunk_size(number, 48, 1) for number in (1, 2, 3, 32, 33, 48, 900)] == [1, 2, 4, 32, 48, 48, 48]
    assert [chunk_size(number, 48, 8) for number in (1, 8, 9, 17, 33, 900)] == [8, 8, 16, 32, 48, 48]
    assert [row_slots(longest) for longest in (1, 64, 65, 128, 129, 511, 513, 1025)] == [
        64,
        64,
        128,
        128,
        192,
        512,
        640,
        1280,
    ]
    sizes = {row_slots(longest) for longest in range(1, 5000)}
    assert len(sizes) < 25
    assert all(row_slots(longest) >= longest for longest in range(1, 5000))
