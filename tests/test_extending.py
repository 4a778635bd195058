"""The example of docs/extending.md, as it is written there."""

import importlib.util
import re
import sys
from pathlib import Path

from helpers import save_arrays

from mgc_jax.config.checks import validate
from mgc_jax.models import encoders, pooling
from mgc_jax.modes import train as train_and_evaluate

TEXT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def load(kind, folder, monkeypatch, name):
    """Writes the block of the document to a file and imports it, as the reader would."""
    (code,) = re.findall(rf"```python {kind}\n(.*?)```", TEXT, re.DOTALL)
    path = folder / f"{name.replace('.', '_')}.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_example_trains(tmp_path, corpus, monkeypatch):
    for kind, registry, package in (
        ("encoder", encoders.ENCODERS, "mgc_jax.models.encoders"),
        ("pooling", pooling.POOLINGS, "mgc_jax.models.pooling"),
    ):
        (path,) = re.findall(rf"Write `{package.replace('.', '/')}/(\w+)\.py`", TEXT)
        module = load(kind, tmp_path, monkeypatch, f"{package}.{path}")
        ((name, cls),) = [
            (name, cls)
            for name, cls in re.findall(r'^    "(\w+)": (\w+),$', TEXT, re.MULTILINE)
            if hasattr(module, cls)
        ]
        monkeypatch.setitem(registry, name, getattr(module, cls))
    config = load("config", tmp_path, monkeypatch, "my_config").get_config()
    config.update_from_flattened_dict(save_arrays(corpus, tmp_path))
    config.data.bag_key = "pair"
    config.batch.rows, config.batch.clips_per_row = 8, 8
    config.optimizer.learning_rate = 0.03  # the test has 20 steps
    validate(config)
    results = train_and_evaluate(config, tmp_path / "run")
    assert results["model"] == "BAND-STATISTICS + MIL (loudest) (sharpness=2.0)"
    assert results["splits"]["train"]["bag"]["accuracy"] > results["splits"]["train"]["majority_accuracy"] + 0.1
