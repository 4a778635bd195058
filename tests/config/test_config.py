import ast
import functools
import json
from pathlib import Path

import pytest
from flax import nnx
from ml_collections import ConfigDict

from mgc_jax.config import checks, identity, keys, options
from mgc_jax.config.loading import load_config, run_config_file
from mgc_jax.config.overrides import override
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.models.encoders import ENCODERS
from tfds_fma.representations.registry import get_representation

ANY = Path(__file__).parents[2] / "configs" / "any.py"
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_valid_as_it_is_and_on_the_demo(path):
    assert f"--config configs/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))
    config = run_config_file(path)
    checks.validate(config)
    checks.validate(keys.resolve_demo(config))
    checks.check_effects(config)


@pytest.mark.parametrize("pooling", ["none", "matt"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_encoder_with_any_pooling(encoder, pooling):
    config = run_config_file(ANY, f"{encoder}+{pooling}")
    checks.validate(config)
    demo = keys.resolve_demo(config)
    checks.validate(demo)
    shape = get_representation(demo.data.representation).shape
    config = override(config, {"data.corpus": "arrays", "data.arrays.clips": "mels.npz"})
    checks.validate(config)
    build = functools.partial(build_model, demo.model, shape, 3, seed=0)
    assert count_parameters(nnx.eval_shape(build)) > 0


@pytest.mark.parametrize("file", ["fma_small_mels", "echonest", "vggish"])
def test_a_pooling_alone_is_an_argument_of_the_files_for_arrays(file):
    config = run_config_file(ANY.with_name(f"{file}.py"), "matt")
    assert (config.model.pooling.name, config.train.select) == ("matt", "bag/micro_ap")
    checks.validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.corpus", "gtzan", "choose one of auto, demo"),
        ("data.representation", "Mel 96", "choose one of mel_1360x96"),
        ("batch.clips", 0, "at least 1"),
        ("batch.bags", -1, "at least 0"),
        ("optimizer.learning_rate", 0.0, "must be positive"),
        ("model.dtype", "float16", "choose one of float32, bfloat16"),
        ("model.kernels", "cudnn", "choose one of auto, plain, gru_kernel"),
        ("model.frontend", "mel_1360x96", "has no audio"),
        ("data.representation", "audio_12000", "needs the spectrogram to compute from audio"),
        ("data.folds", 1, "0 or at least 2"),
        ("data.fold", 3, "below data.folds"),
        ("batch.sampling", "uniform", "choose one of natural, sqrt, class_balanced"),
        ("loss.name", "hinge", "choose one of cross_entropy, focal"),
        ("loss.beta", 1.0, "below 1"),
        ("augment.noise", -1.0, "at least 0"),
        ("optimizer.ema", 1.0, "below 1"),
        ("optimizer.plateau_factor", 0.0, "above 0"),
        ("model.head_dropout", 1.0, "below 1"),
    ],
)
def test_an_impossible_value_is_named(key, value, message):
    config = keys.default()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message) as raised:
        checks.validate(config)
    assert f"config.{key}" in str(raised.value) or key.startswith("data.representation")


@pytest.mark.parametrize(
    ("file", "idle", "needs"),
    [
        ("any:mlp+matt", {"model.pooling.hidden": 7}, {"model.pooling.score": "hidden"}),
        ("prcnn_attention", {"model.encoder.filters": (8, 8, 8), "model.encoder.attention": "serial_linear"},
         {"model.encoder.attention": "serial_cnn"}),
        ("mlp:hidden=0", {"model.encoder.dropout": 0.1}, {"model.encoder.hidden": (9,)}),
        ("any", {"loss.focal_gamma": 1.0}, {"loss.name": "focal"}),
        ("any", {"loss.beta": 0.9}, {"loss.class_weights": "class_balanced"}),
        ("any", {"augment.time_mask_frames": 3}, {"augment.time_masks": 1}),
        ("any", {"augment.mel_mask_bands": 3}, {"augment.mel_masks": 1}),
        ("any", {"optimizer.plateau_patience": 3}, {"optimizer.plateau_factor": 0.5}),
        ("any", {"optimizer.plateau_min_delta": 0.1}, {"optimizer.plateau_factor": 0.5}),
        ("any", {"optimizer.weight_decay": 0.1, "optimizer.options.weight_decay": 0.2}, None),
        ("any", {"data.split_seed": 1}, {"data.folds": 5}),
        ("any", {"data.auto_first": "fma_small", "data.corpus": "demo"}, {"data.corpus": "auto"}),
        ("any", {"data.workers": 2, "data.placement": "host"}, {"data.placement": "stream"}),
        ("any", {"data.arrays.clips": "mels.npz"}, {"data.corpus": "arrays"}),
        ("lr", {"loss.label_smoothing": 0.1}, {"baseline.name": ""}),
        ("lr", {"optimizer.learning_rate": 0.2}, {"baseline.name": ""}),
        ("lr", {"model.head_dropout": 0.2}, {"baseline.name": ""}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)  # fmt: skip
def test_an_option_that_does_nothing_is_named(file, idle, needs):
    with pytest.raises(UserError, match=r"has no effect .*; leave it (at|out)") as raised:
        load_config(file, idle)
    assert str(raised.value).startswith(f"config.{next(iter(idle))}=")
    if needs is not None:
        load_config(file, idle | needs)


def test_an_option_that_does_nothing_may_have_its_default():
    load_config("any", {"loss.focal_gamma": 2.0})
    load_config("any:mlp+matt", {"model.pooling.hidden": 0})


def test_options_of_a_schedule_need_one():
    config = keys.default()
    config.optimizer.schedule_options.decay_rate = 0.9
    with pytest.raises(
        UserError, match=r"schedule_options\.decay_rate=0\.9 has no effect without a schedule of optax"
    ):
        checks.check_effects(config)


def test_what_a_file_has_may_be_idle_beside_an_override_but_not_by_itself(tmp_path):
    file = tmp_path / "mine.py"
    text = "from mgc_jax.config import default\ndef get_config():\n    config = default()\n"
    text += "    config.model.encoder.name = 'mlp'\n    config.loss.focal_gamma = 1.0\n"
    file.write_text(f"{text}    config.loss.name = 'focal'\n    return config\n")
    load_config(file, {"loss.name": "cross_entropy"})
    load_config(file, {"baseline.name": "lr"})
    file.write_text(f"{text}    return config\n")
    with pytest.raises(UserError, match=r"config\.loss\.focal_gamma=1\.0 has no effect"):
        load_config(file)
    run = tmp_path / "run"  # one of before the check
    run.mkdir()
    (run / "config.json").write_text(json.dumps(keys.to_json(run_config_file(file))))
    assert load_config(run).loss.focal_gamma == 1.0


def test_the_prior_is_not_removed_twice():
    config = keys.default()
    config.loss.logit_adjustment, config.eval.logit_adjustment = 1.0, 0.5
    for given in (None, {"eval.logit_adjustment": 0.5}, {"loss.logit_adjustment": 1.0}):
        with pytest.raises(UserError, match=r"eval\.logit_adjustment=0\.5 is invalid: .* set one of both to 0"):
            checks.check_effects(config, given)
    checks.validate(config)  # of a run of an earlier version, which can be trained on
    checks.check_effects(config, {"train.epochs": 3})


def test_a_key_that_does_not_exist_is_named():
    config = keys.default()
    config.optimizer.learn_rate = 0.1
    with pytest.raises(UserError, match=r"unknown config keys: optimizer\.learn_rate"):
        checks.validate(config)
    config = keys.default()
    config.demo.train = ConfigDict({"epoch": 3})
    with pytest.raises(UserError, match=r"unknown config keys: train\.epoch"):
        checks.validate(config)


def test_bag_selection_needs_a_bag_model():
    config = keys.default()
    config.model.pooling.name = "none"
    with pytest.raises(UserError, match="no bag scores"):
        checks.validate(config)


def test_flags_win_over_the_demo_settings():
    config = keys.default()
    config.demo.train = ConfigDict({"epochs": 3})
    config.demo.batch = ConfigDict({"clips": 2})
    resolved = keys.resolve_demo(override(config, {"train.epochs": 50}))
    assert (resolved.train.epochs, resolved.batch.clips) == (50, 2)
    resolved.batch.clips = 4
    assert keys.resolve_demo(resolved) == resolved  # once and for all
    assert config.batch.clips == 64


def test_the_demo_has_a_counterpart_of_audio_and_its_spectrogram():
    config = keys.default()
    config.data.representation, config.model.frontend = "audio_12000", "mel_1360x96"
    checks.validate(config)
    resolved = keys.resolve_demo(config)
    assert resolved.data.representation == "audio_12000_short"
    assert resolved.model.frontend == "mel_256x96"
    checks.validate(resolved)


def test_a_key_that_an_earlier_run_did_not_know_had_its_default():
    config = keys.default()
    before = keys.to_json(config)
    del before["loss"]["focal_gamma"], before["data"]["arrays"]["columns"]["album"]
    assert identity.differences(config, before, moved=False) == []
    config.loss.focal_gamma = 1.0
    assert identity.differences(config, before) == ["loss.focal_gamma: 2.0 there, 1.0 now"]


def test_a_key_that_an_earlier_run_had_and_that_is_gone_is_a_difference():
    config = keys.default()
    before = keys.to_json(config)
    before["loss"]["temperature"] = 1.0
    assert identity.differences(config, before) == ["loss.temperature: 1.0 there, 'absent' now"]


def test_an_option_that_a_run_lacks_had_its_default():
    config = keys.default()
    config.model.encoder = options.encoder_options("cnn")
    before = keys.to_json(config)
    del before["model"]["encoder"]["kernel"]
    assert identity.differences(config, before) == []
    config.model.encoder.kernel = (5, 1)
    assert identity.differences(config, before) == ["model.encoder.kernel: [3, 1] there, [5, 1] now"]


def test_to_name_the_column_of_subsets_does_not_alter_a_run():
    config = keys.default()
    before = keys.to_json(config)
    config.data.arrays.columns.subset = "subset"
    assert identity.differences(config, before, moved=False) == []


def test_the_seed_of_a_split_that_draws_nothing_does_not_alter_a_run():
    config = keys.default()
    before = keys.to_json(config)
    config.data.split_seed = 1
    assert identity.differences(config, before) == []
    config.data.split = before["data"]["split"] = "8-1-1"
    assert identity.differences(config, before) == ["data.split_seed: 0 there, 1 now"]


def test_a_run_may_go_on_with_other_kernels_which_alter_roundings_alone():
    config = keys.default()
    before = keys.to_json(config)
    config.model.kernels = "plain"
    assert identity.differences(config, before, moved=False) == []
    del before["model"]["kernels"]  # of a run from before there was this key
    assert identity.differences(config, before, moved=False) == []
