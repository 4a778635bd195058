"""Optimizers, schedules and moving averages against their definitions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.config.keys import default
from mgc_jax.errors import UserError
from mgc_jax.papers import matt, ubc
from mgc_jax.runtime.devices import data_mesh
from mgc_jax.training.optimizer import make_optimizer, make_schedule
from mgc_jax.training.step import make_train_step


def options(**changes) -> ConfigDict:
    optimizer = default().optimizer
    optimizer.update(ConfigDict(changes))
    return optimizer


def updates_of(gradients, start=2.0, **changes):
    """The weight after each of some gradients, epochs of ten steps."""
    rule = make_optimizer(options(**changes), 1, 10).rule
    params = {"w": jnp.float32(start)}
    state, weights = rule.init(params), []
    for gradient in gradients:
        updates, state = rule.update({"w": jnp.float32(gradient)}, state, params)
        params = {"w": params["w"] + updates["w"]}
        weights.append(float(params["w"]))
    return weights


def test_sgd_with_weight_decay_is_pytorchs():
    (after,) = updates_of([3.0], name="sgd", learning_rate=0.1, weight_decay=0.5)
    np.testing.assert_allclose(after, 2.0 - 0.1 * (3.0 + 0.5 * 2.0), rtol=1e-6)


def test_decay_is_decoupled_where_the_optimizer_has_it():
    for name in ("adamw", "lion"):
        without, with_decay = (
            updates_of([3.0], name=name, learning_rate=0.1, weight_decay=decay)[0] for decay in (0.0, 0.5)
        )
        np.testing.assert_allclose(with_decay, without - 0.1 * 0.5 * 2.0, rtol=1e-5)


def rmsprop_steps(gradients, rate, in_root):
    """Its closed form: in TensorFlow 2.0 to 2.10 epsilon is outside of the root, in today's Keras inside."""
    mean_square, steps = 0.0, []
    for gradient in gradients:
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        root = np.sqrt(mean_square + 1e-7) if in_root else np.sqrt(mean_square) + 1e-7
        steps.append(-rate * gradient / root)
    return steps


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_rmsprop_of_the_report_is_that_of_tensorflow_2(scale):
    config = ubc.system("PRCNN: CNN and RNN").config().optimizer
    gradients = [scale * gradient for gradient in (3.0, -1.0, 0.5)]
    for in_root in (False, True):
        after = updates_of(
            gradients, start=0.0, name=config.name, learning_rate=config.learning_rate,
            options=config.options.to_dict() | {"eps_in_sqrt": in_root},
        )  # fmt: skip
        expected = rmsprop_steps(gradients, config.learning_rate, in_root)
        np.testing.assert_allclose(np.diff(after, prepend=0), expected, rtol=1e-4)
    assert config.options.eps_in_sqrt is False


def test_epsilon_of_rmsprop_matters_where_gradients_are_small():
    outside, inside = (rmsprop_steps([1e-4] * 100, 1.0, in_root)[-1] for in_root in (False, True))
    assert 3 < outside / inside < 3.5


def test_adam_of_the_keras_models_has_the_epsilon_of_keras():
    """The first step on a gradient as small as epsilon is half the learning rate; with Optax's epsilon, 0.91 of it."""
    for name in ("CRNN", "CRNN-TF", "FCN-4"):
        config = matt.system(name).config()
        (after,) = updates_of([1e-7], start=0.0, name=config.optimizer.name, learning_rate=1e-3,
                              options=config.optimizer.options.to_dict())  # fmt: skip
        np.testing.assert_allclose(after, -1e-3 / 2, rtol=1e-4)
        assert keys.resolve_demo(config).optimizer.options.to_dict() == {"eps": 1e-8}  # adamw's, as ever
    assert not matt.system("MLP of the notebooks").config().optimizer.options  # PyTorch's, which is Optax's


def test_schedule_warms_up_and_ends_at_zero():
    schedule = make_schedule(options(learning_rate=0.1, schedule="cosine", warmup_epochs=0.5), 4, 10)
    assert float(schedule(0)) == 0
    np.testing.assert_allclose(float(schedule(5)), 0.1, rtol=1e-6)
    np.testing.assert_allclose(float(schedule(5 + 35 / 2)), 0.05, rtol=0.1)
    np.testing.assert_allclose(float(schedule(40)), 0, atol=1e-7)


def test_a_schedule_of_optax_by_name():
    schedule = make_schedule(
        options(learning_rate=0.1, schedule="exponential_decay", schedule_options={"decay_rate": 0.5}), 4, 10
    )
    np.testing.assert_allclose([float(schedule(s)) for s in (0, 20, 40)], [0.1, 0.1 * 0.5**0.5, 0.05], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sdg"}, "optimizer.name='sdg': choose one of adabelief, .*adamw"),
        ({"name": "scale_by_adam"}, "choose one of"),
        ({"name": "lbfgs"}, "choose one of"),
        ({"name": "adam", "options": {"beta": 0.9}}, "the optimizer adam has no option beta; it has b1, b2"),
        ({"schedule": "cosin"}, "optimizer.schedule='cosin': choose one of constant, cosine, .*exponential_decay"),
        ({"schedule": "exponential_decay", "schedule_options": {"rate": 1}}, "has no option rate; it has"),
        ({"schedule": "exponential_decay"}, "schedule_options do not fit exponential_decay"),
        ({"schedule": "cosine", "schedule_options": {"alpha": 0.1}}, "takes no schedule_options"),
        ({"name": "rprop"}, "cannot be used|choose one of"),
    ],
)
def test_what_optax_does_not_have_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        make_optimizer(options(**changes), 1, 10)


def keras_plateau(metrics, factor, patience, min_delta):
    """ReduceLROnPlateau(mode="max") of Keras: the factor of the learning rate after each epoch."""
    best, wait, scale, scales = -np.inf, 0, 1.0, []
    for metric in metrics:
        if metric > best + min_delta:
            best, wait = metric, 0
        else:
            wait += 1
            if wait >= patience:
                scale, wait = scale * factor, 0
        scales.append(scale)
    return scales


def test_the_learning_rate_falls_on_a_plateau_as_in_keras():
    metrics = np.round(np.cumsum(np.random.default_rng(0).normal(0.002, 0.02, 60)) + 0.3, 3)
    optimizer = make_optimizer(
        options(plateau_factor=0.5, plateau_patience=3, plateau_min_delta=0.01), epochs=60, steps_per_epoch=1
    )
    state = optimizer.initial_state({"w": np.float32(0)}, {})
    scales = []
    for metric in metrics:
        state = optimizer.after_evaluation(state, float(metric))
        scales.append(float(state.plateau.scale))
    expected = keras_plateau(metrics, 0.5, 3, 0.01)
    assert min(expected) < 0.2
    np.testing.assert_allclose(scales, expected)


def linear_loss(params, batch_stats, batch, clips, partners, key):
    return 3.0 * params["body"]["w"] + 2.0 * params["head"]["w"], (batch_stats, {"loss": jnp.zeros(())})


def steps(number, trained=None, **changes):
    """States before and after some steps of a loss with constant gradients 3 (body) and 2 (head)."""
    optimizer = make_optimizer(options(name="sgd", learning_rate=0.1, **changes), 1, 10)
    step = make_train_step(linear_loss, optimizer, data_mesh(jax.devices()[:1]), trained=trained)
    state = optimizer.initial_state({"body": {"w": np.float32(1)}, "head": {"w": np.float32(1)}}, {})
    states = []
    for _ in range(number):
        state, _ = step(state, None, None, None, jnp.zeros((), jnp.uint32))
        states.append({k: float(v["w"]) for k, v in state.params.items()} | {"state": state})
    return states


def test_moving_average_of_the_weights(monkeypatch):
    monkeypatch.setattr("jax.random.fold_in", lambda key, data: key)
    average, weight = 1.0, 1.0
    optimizer = make_optimizer(options(name="sgd", learning_rate=0.1, ema=0.4), 1, 10)
    step = make_train_step(linear_loss, optimizer, data_mesh(jax.devices()[:1]))
    state = optimizer.initial_state({"body": {"w": np.float32(1)}, "head": {"w": np.float32(1)}}, {})
    for number in range(8):
        state, _ = step(state, None, None, None, jnp.zeros((), jnp.uint32))
        weight -= 0.3
        decay = min(0.4, (1 + number) / (10 + number))
        average = decay * average + (1 - decay) * weight
        np.testing.assert_allclose(float(state.ema["average"]["body"]["w"]), average, rtol=1e-5)
        np.testing.assert_allclose(float(state.params["body"]["w"]), weight, rtol=1e-5)
        assert state.evaluated[0] is state.ema["average"]


def test_a_young_average_follows_fast_also_late_in_training(monkeypatch):
    """As when the classifier is trained again: the average begins anew, the steps go on."""
    monkeypatch.setattr("jax.random.fold_in", lambda key, data: key)
    optimizer = make_optimizer(options(name="sgd", learning_rate=0.0, ema=0.999), 1, 10)
    step = make_train_step(linear_loss, optimizer, data_mesh(jax.devices()[:1]))
    state = optimizer.initial_state({"body": {"w": np.float32(0)}, "head": {"w": np.float32(0)}}, {})
    state = dataclasses.replace(state, step=state.step + 10_000, params=jax.tree.map(lambda w: w + 1, state.params))
    for _ in range(100):
        state, _ = step(state, None, None, None, jnp.zeros((), jnp.uint32))
    assert float(state.evaluated[0]["head"]["w"]) > 0.99


def test_only_the_trained_part_changes(monkeypatch):
    monkeypatch.setattr("jax.random.fold_in", lambda key, data: key)
    last = steps(3, trained=("head",), weight_decay=0.1)[-1]
    assert last["body"] == 1.0
    assert last["head"] < 1.0


def test_the_plateau_scales_the_step(monkeypatch):
    monkeypatch.setattr("jax.random.fold_in", lambda key, data: key)
    optimizer = make_optimizer(options(name="sgd", learning_rate=0.1, plateau_factor=0.5, plateau_patience=1), 1, 10)
    step = make_train_step(linear_loss, optimizer, data_mesh(jax.devices()[:1]))
    state = optimizer.initial_state({"body": {"w": np.float32(1)}, "head": {"w": np.float32(1)}}, {})
    for metric in (0.5, 0.5):  # the second is no progress
        state = optimizer.after_evaluation(state, metric)
    state, _ = step(state, None, None, None, jnp.zeros((), jnp.uint32))
    np.testing.assert_allclose(float(state.params["body"]["w"]), 1 - 0.5 * 0.1 * 3, rtol=1e-6)


@pytest.mark.parametrize("delta", [0.0, 0.01])
def test_any_progress_counts_where_the_least_is_0(delta):
    optimizer = make_optimizer(options(plateau_factor=0.5, plateau_patience=1, plateau_min_delta=delta), 1, 10)
    state = optimizer.initial_state({"w": np.float32(0)}, {})
    for metric in (0.5, 0.505):
        state = optimizer.after_evaluation(state, metric)
    assert float(state.plateau.scale) == (1.0 if delta == 0 else 0.5)


def test_a_warm_up_schedule_of_optax_passes_the_early_check():
    make_optimizer(
        options(
            schedule="warmup_cosine_decay_schedule",
            schedule_options={"peak_value": 0.1, "warmup_steps": 100, "end_value": 0.0},
        )
    )


def test_every_optimizer_that_is_offered_works_or_is_refused_clearly():
    with pytest.raises(UserError) as raised:
        make_optimizer(options(name="?"), 1, 10)
    names = str(raised.value).split("choose one of ")[1].split(", ")
    assert {"sgd", "adam", "adamw", "rmsprop", "lion", "lamb"} <= set(names)
    for name in names:
        try:
            optimizer = make_optimizer(options(name=name), 1, 10)
        except UserError:
            assert name not in ("sgd", "adam", "adamw", "rmsprop", "lion", "lamb")
            continue
        optimizer.initial_state({"w": np.ones(2, np.float32)}, {})
