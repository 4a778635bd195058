"""Batch statistics of averaged weights follow from these alone, and are those of the training clips."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import make_corpus, small_config

from mgc_jax import modes
from mgc_jax.experiment import Experiment
from mgc_jax.training.checkpoint import open_checkpoints
from mgc_jax.training.phases import initial_state, make_phase

FCN4 = {"name": "fcn4", "filters": (4, 4), "pools": ((2, 4), (3, 4)), "batch_norm_momentum": 0.99}


@pytest.fixture(scope="module")
def corpus():
    return make_corpus()


def config_of(folder, corpus, **changes):
    config = small_config(folder, corpus, **{"optimizer.ema": 0.9}, **changes)
    with config.unlocked():
        config.model.encoder = FCN4
    return config


def begun(config, workdir, devices=None):
    """A run, its first phase, and a state whose averaged weights are others than its weights."""
    run = Experiment(config, workdir, devices=devices)
    phase = make_phase(run, classifier_only=False)
    state = initial_state(run, phase.optimizer)
    other = jax.tree.map(lambda weights: 1.3 * weights, state.params)
    return run, phase, dataclasses.replace(state, ema={**state.ema, "average": other})


def test_averaged_weights_are_evaluated_with_the_statistics_of_the_training_clips(tmp_path, corpus):
    config = config_of(tmp_path, corpus)
    run, phase, state = begun(config, tmp_path / "run")
    rows = corpus.indices("train")
    clips, mask = run.inputs.evaluation(jnp.asarray(corpus.clips[rows])), jnp.ones(len(rows), bool)

    @functools.partial(jax.jit, static_argnums=2)
    def embed(params, batch_stats, train):
        return nnx.merge(run.graph, params, batch_stats).encoder(clips, mask, train, None)

    params, batch_stats = phase.recompute(state).evaluated
    expected = embed(params, run.batch_stats, True)
    np.testing.assert_allclose(embed(params, batch_stats, False), expected, atol=0.1 * expected.std())
    assert np.abs(embed(params, state.batch_stats, False) - expected).max() > expected.std()  # those of before


def test_the_statistics_follow_from_the_averaged_weights_alone(tmp_path, corpus):
    config = config_of(tmp_path, corpus, **{"model.pooling.queries": "frozen"})
    _, phase, state = begun(config, tmp_path / "run")
    once = phase.recompute(state)
    worn = jax.tree.map(lambda leaf: leaf + 3, state.batch_stats["encoder"])
    other = dataclasses.replace(once, batch_stats={**state.batch_stats, "encoder": worn})
    again = phase.recompute(other)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), once.ema, again.ema)
    assert again.batch_stats is other.batch_stats
    frozen = once.evaluated[1]["pooling"], state.batch_stats["pooling"]
    assert jax.tree.leaves(frozen)
    jax.tree.map(np.testing.assert_array_equal, *frozen)


@pytest.mark.devices(8)
def test_the_statistics_are_the_same_on_eight_devices(tmp_path, corpus):
    found = []
    for number in (1, 8):
        config = config_of(tmp_path, corpus)
        _, phase, state = begun(config, tmp_path / "run", jax.devices()[:number])
        found.append(jax.device_get(phase.recompute(state).evaluated[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *found)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_checkpoint_holds_the_statistics_of_its_averaged_weights(tmp_path, corpus, accumulate):
    changes = {"train.epochs": 1, "train.accumulate": accumulate, "train.checkpoint_every_steps": 1}
    config = config_of(tmp_path, corpus, **changes, **{"train.keep_checkpoints": 9})
    modes.train(config, tmp_path / "run")
    _, phase, like = begun(config, tmp_path / "run")
    with open_checkpoints(tmp_path / "run", config.train.select, 9, read_only=True) as checkpoints:
        for step in (2, checkpoints.latest_step()):  # one that was not evaluated, one that was
            state = checkpoints.restore(step, like)
            expected = phase.recompute(state).evaluated[1]
            jax.tree.map(np.testing.assert_array_equal, state.evaluated[1], expected)
            assert expected["encoder"]["blocks"][0]["norm"]["count"] == phase.batches.steps_per_epoch


def test_nothing_is_recomputed_without_averaged_weights(tmp_path, corpus):
    run = Experiment(small_config(tmp_path, corpus), tmp_path / "run")
    phase = make_phase(run, classifier_only=False)
    state = initial_state(run, phase.optimizer)
    assert phase.recompute(state) is state
