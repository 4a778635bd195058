"""Values that replace those of a configuration file."""

import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.config.checks import validate
from mgc_jax.config.flag import ConfigFlag, take_overrides
from mgc_jax.config.options import encoder_options, pooling_options
from mgc_jax.config.overrides import closest_key, override
from mgc_jax.errors import UserError
from mgc_jax.papers import matt, ubc


@pytest.fixture(scope="module")
def config():
    return matt.system("CRNN-TF+MATT").config()


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("train.epochs", "3", 3),
        ("optimizer.learning_rate", "1", 1.0),
        ("data.standardize", "false", False),
        ("data.representation", "1e3", "1e3"),
        ("bench.batch_clips", "(1, 2)", (1, 2)),
        ("bench.batch_clips", "4", (4,)),
        ("bench.dtypes", "float32,bfloat16", ("float32", "bfloat16")),
        ("bench.variants", "", ()),
        ("model.encoder.pools", "((2, 2), (2, 2))", ((2, 2), (2, 2))),
        ("train.epochs", np.int64(3), 3),
        ("optimizer.learning_rate", 1, 1.0),
        ("bench.batch_clips", [1, 2], (1, 2)),
    ],
)
def test_a_value_is_of_the_kind_of_its_key(config, key, text, value):
    changed = dict(keys.leaves(override(config, {key: text})))[key]
    assert changed == value
    assert type(changed) is type(value)
    assert dict(keys.leaves(config))[key] != value  # the file's is left as it is


@pytest.mark.parametrize(
    ("key", "now"),
    [("batch.rows", "config.batch.clips = rows x clips_per_row"), ("batch.clips_per_row", "config.batch.clips = rows"),
     ("bench.rows", "config.bench.batch_clips")],
)  # fmt: skip
def test_a_key_of_before_is_refused_with_what_stands_for_it(config, key, now):
    with pytest.raises(UserError, match=rf"^config\.{key.split('.')[0]}\.rows and .* are now {now}"):
        override(config, {key: "2"})
    group, name = key.split(".")
    config = keys.default()
    config[group][name] = 2  # in a file
    with pytest.raises(UserError, match=rf"are now {now}"):
        validate(config)
    config = keys.default()
    config.demo[group] = ConfigDict({name: 2})
    with pytest.raises(UserError, match=rf"are now {now}"):
        validate(config)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("train.epochs", "many", "an int"),
        ("train.epochs", 3.5, "an int"),
        ("train.epochs", True, "an int"),
        ("optimizer.learning_rate", "fast", "a float"),
        ("data.standardize", "maybe", "a bool"),
        ("data.data_dir", 3, "a str"),
    ],
)
def test_a_value_of_another_kind_is_refused(config, key, value, kind):
    with pytest.raises(UserError, match=rf"config\.{key}={value!r} is invalid: expected {kind}\."):
        override(config, {key: value})


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("train.epoch", "train.epochs"),
        ("epochs", "train.epochs"),
        ("optimizer.learning_rat", "optimizer.learning_rate"),
        ("optimizer.epochs", "train.epochs"),
        ("model.pooling.scores", "score"),
        ("optimizer.options.momentun", "momentum"),
        ("learningrate", "optimizer.learning_rate"),
    ],
)
def test_an_unknown_key_proposes_the_one_that_was_meant(config, key, meant):
    with pytest.raises(UserError, match=rf"unknown config key config\.{key}.*did you mean (--config\.)?{meant}\?"):
        override(config, {key: "1"})


def test_a_key_like_no_other_proposes_none(config):
    assert closest_key("xyzzy") is None
    for key in ("xyzzy", "train", "model.encoder", "train.epochs.more"):
        with pytest.raises(UserError, match=rf"unknown config key config\.{key}\. |did you mean"):
            override(config, {key: "1"})


@pytest.mark.parametrize("reverse", [False, True])
def test_a_name_replaces_the_options_in_any_order_of_flags(config, reverse):
    flags = {
        "model.encoder.name": "prcnn",
        "model.encoder.gru_units": "32",
        "model.pooling.name": "set_transformer",
        "model.pooling.heads": "2",
    }
    changed = override(config, dict(reversed(flags.items())) if reverse else flags)
    assert changed.model.encoder == encoder_options("prcnn", gru_units=32).lock()
    assert changed.model.pooling == pooling_options("set_transformer", heads=2).lock()
    resolved = keys.resolve_demo(changed)
    assert resolved.model == changed.model  # the demo's options were of the other encoder
    assert resolved.train.epochs == config.demo.train.epochs
    validate(resolved)
    with pytest.raises(UserError, match=r"unknown config key config\.model\.pooling\.score"):
        override(config, flags | {"model.pooling.score": "additive"})


def test_the_name_that_is_there_already_replaces_nothing():
    config = ubc.system("CNN and 2-layer RNN").config()
    same = override(config, {"model.encoder.name": "prcnn", "optimizer.name": "rmsprop"})
    assert same.model.encoder.gru_layers == 2
    assert same.optimizer.options.decay == 0.9


def test_the_demo_keeps_what_was_overridden(config):
    changed = override(config, {"optimizer.name": "sgd", "model.encoder.filters": "(8, 8, 8, 8)"})
    resolved = keys.resolve_demo(changed)
    assert (resolved.optimizer.name, resolved.optimizer.learning_rate) == ("sgd", config.demo.optimizer.learning_rate)
    assert resolved.model.encoder.filters == (8, 8, 8, 8)
    assert resolved.model.encoder.pools == config.demo.model.encoder.pools


def test_an_option_keeps_the_optimizer_that_it_belongs_to_on_the_demo(config):
    assert (config.optimizer.name, config.demo.optimizer.name) == ("sgd", "adamw")
    resolved = keys.resolve_demo(override(config, {"optimizer.options.momentum": "0.9"}))
    assert (resolved.optimizer.name, resolved.optimizer.options.momentum) == ("sgd", 0.9)
    with pytest.raises(UserError, match=r"sgd has no such option.*demo alone has adamw"):
        override(config, {"optimizer.options.b1": "0.8"})


def test_arguments_of_optimizers_and_schedules_become_keys():
    config = ubc.system("5-layer CNN").config()
    changed = override(
        config,
        {
            "optimizer.options.momentum": "0.9",
            "optimizer.options.nesterov": "true",
            "optimizer.name": "sgd",
            "optimizer.schedule_options.decay_rate": "0.9",
            "optimizer.schedule": "exponential_decay",
        },
    )
    assert changed.optimizer.options.to_dict() == {"momentum": 0.9, "nesterov": True}
    assert changed.optimizer.schedule_options.to_dict() == {"decay_rate": 0.9}
    validate(changed)
    assert override(config, {"optimizer.options.decay": "1"}).optimizer.options.decay == 1.0
    with pytest.raises(UserError, match=r"optimizer\.options\.decay: sgd has no such option"):
        override(config, {"optimizer.name": "sgd", "optimizer.options.decay": "0.9"})


def test_a_baseline_by_its_name(config):
    changed = override(config, {"baseline.name": "svm", "baseline.gamma": "0.1", "baseline.kernel": "rbf"})
    assert changed.baseline.to_dict() == {"name": "svm", "gamma": 0.1, "kernel": "rbf"}
    assert override(changed, {"baseline.name": ""}).baseline.to_dict() == {"name": ""}
    with pytest.raises(UserError, match="choose one of , lr, knn, svm, mlp"):
        validate(override(config, {"baseline.name": "tree"}))


def test_an_encoder_that_does_not_exist_is_named(config):
    with pytest.raises(UserError, match=r"config\.model\.encoder\.name='crn': choose one of crnn_tf, "):
        override(config, {"model.encoder.name": "crn"})


def test_flags_of_the_configuration_are_taken_from_the_command_line(monkeypatch):
    flag = ConfigFlag("")
    monkeypatch.setattr(flags, "FLAGS", {"config": flag})
    argv = ["main", "--config", "a.py", "--config.train.epochs=3", "-config.data.data_dir", "my data", "--test",
            "--noconfig.data.standardize", "--config.batch.sub_bags", "--config.seed=1", "--config.seed=2",
            "--", "--config.seed=3"]  # fmt: skip
    assert take_overrides(argv) == ["main", "--config", "a.py", "--test", "--", "--config.seed=3"]
    assert flag.overrides == {
        "train.epochs": "3", "data.data_dir": "my data", "data.standardize": "false", "batch.sub_bags": "true",
        "seed": "2",
    }  # fmt: skip
    for wrong in ("--noconfig.train.epochs=3", "--noconfig.batch.sub_bags=true", "--noconfig.train.epochs"):
        with pytest.raises(flags.IllegalFlagValueError, match="true or false, without a value"):
            take_overrides(["main", wrong])
    with pytest.raises(flags.IllegalFlagValueError, match="needs a value"):
        take_overrides(["main", "--config.seed"])
    with pytest.raises(flags.IllegalFlagValueError, match="needs a value"):
        take_overrides(["main", "--config.optimizer.options.nesterov", "--test"])
