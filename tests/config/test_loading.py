"""From the file of an experiment to its configuration."""

import json
from pathlib import Path

import pytest

from mgc_jax.config.keys import default, resolve_demo, to_json
from mgc_jax.config.loading import find_config, load_config
from mgc_jax.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
BODY = "from mgc_jax.config import default\n\n\ndef get_config(pooling='matt'):\n    config = default()\n    {}\n"


def write(folder, line="return config"):
    (folder / "mine.py").write_text(BODY.format(line))
    return folder / "mine.py"


def test_a_file_with_argument_and_overrides(tmp_path):
    file = write(tmp_path, "config.model.pooling.name = pooling; return config")
    config = load_config(f"{file}:max", {"train.epochs": 3})
    assert (config.model.pooling.name, config.train.epochs) == ("max", 3)
    assert load_config(file).model.pooling.name == "matt"
    with pytest.raises(AttributeError, match="epoch"):
        config.train.epoch = 3  # it is locked


def test_an_experiment_by_its_name_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("prcnn").model.encoder.name == "prcnn"
    for name in ("prcnn", "prcnn.py", "configs/prcnn.py", "configs/prcnn"):
        assert find_config(name) == CONFIGS / "prcnn.py"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "prcnn.py").write_text("")
    assert find_config("prcnn") == Path("configs/prcnn.py")  # one's own is nearer
    with pytest.raises(UserError, match=r"--config prcn\.py does not exist; did you mean prcnn"):
        find_config("prcn.py")
    with pytest.raises(UserError, match=r"other/prcnn\.py does not exist"):
        find_config("other/prcnn.py")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("return missing", r"mine\.py, line 6 \(return missing\): NameError: name 'missing'"),
        ("return config)", r"mine\.py, line 6 \(return config\)\): SyntaxError"),
        ("return None", r"get_config\(\) of .* returned None"),
        ("config.batch.clips = '1'; return config", r"line 6 .*TypeError: .*clips"),
        ("config.seed = -1; return config", r"config\.seed=-1 is invalid: it must be at least 0"),
    ],
)
def test_a_broken_file_is_named(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        load_config(write(tmp_path, line))


def test_arguments_that_a_file_does_not_take_or_needs(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    pass\n")
    with pytest.raises(UserError, match=r"mine\.py takes no argument after its name"):
        load_config(f"{file}:svm")
    file.write_text("def get_config(encoder):\n    pass\n")
    with pytest.raises(UserError, match=r"mine\.py needs an argument: write .*mine\.py:ARGUMENT"):
        load_config(file)
    file.write_text("")
    with pytest.raises(UserError, match=r"mine\.py: AttributeError: .*get_config"):
        load_config(file)


def test_what_is_loaded_is_the_default_where_nothing_changes(tmp_path):
    assert load_config(write(tmp_path)).to_dict() == default().to_dict()


def test_a_run_on_the_demo_keeps_its_own_values(tmp_path):
    """Earlier versions left `demo` in config.json; its values must not replace those that the run was given."""
    saved = to_json(load_config("matt_crnn_tf"))
    assert saved["demo"]["train"]["epochs"] == 12
    saved["data"]["corpus"] = "demo"
    saved["train"]["epochs"], saved["batch"]["clips"] = 30, 16
    (tmp_path / "config.json").write_text(json.dumps(saved))
    loaded = resolve_demo(load_config(tmp_path))
    assert (loaded.train.epochs, loaded.batch.clips) == (30, 16)
    assert loaded.optimizer.name == "sgd"
