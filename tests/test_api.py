"""The public names: `import mgc_jax` in a script or notebook."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import make_corpus, save_arrays

import mgc_jax

ROOT = Path(__file__).parents[1]
CONFIG = """
from mgc_jax.config import default, options
def get_config():
    config = default()
    config.data.bag_key = "pair"
    config.data.arrays.axes = "clip feature"
    config.model.encoder = options.encoder_options("mlp", hidden=(8,))
    config.batch.clips = 128
    config.optimizer.learning_rate = 0.01
    config.demo.train = {"epochs": 7}
    return config
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_name_is_imported_on_first_use():
    program = """
import json, sys
import mgc_jax
loaded = sorted({"jax", "numpy", "flax", "optax", "sklearn", "ml_collections", "absl"} & set(sys.modules))
listed = sorted(set(mgc_jax.__all__) - set(dir(mgc_jax)))
found = {name: getattr(getattr(mgc_jax, name), "__doc__", "") or "" for name in mgc_jax.__all__}
again = all(name in vars(mgc_jax) for name in mgc_jax.__all__)
print(json.dumps([loaded, listed, found, again]))
"""
    loaded, missing, docstrings, kept = run(program)
    assert (loaded, missing, kept) == ([], [], True)
    functions = [name for name in docstrings if not name.isupper() and name != "__version__"]
    assert [name for name in functions if name not in docstrings[name]] == []  # each shows its use


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has .*train"):
        mgc_jax.trian  # noqa: B018


@pytest.fixture
def config(tmp_path):
    (tmp_path / "small.py").write_text(CONFIG)
    flags = save_arrays(make_corpus(clip_shape=(6,)), tmp_path)
    return mgc_jax.load_config(tmp_path / "small.py", flags | {"train.epochs": 2})


def test_the_whole_way_in_one_process(tmp_path, config):
    root, handlers = logging.getLogger(), list(logging.getLogger().handlers)
    before = {name: (logging.getLogger(name).level, logging.getLogger(name).handlers) for name in ("mgc_jax", "absl")}
    results = mgc_jax.train(config, str(tmp_path / "run"))
    again = mgc_jax.train(config, tmp_path / "run")  # finished: evaluated again
    assert again["splits"] == results["splits"]
    tested = mgc_jax.evaluate(mgc_jax.load_config(tmp_path / "run"), str(tmp_path / "run"), test=True)
    assert tested["splits"]["validation"] == results["splits"]["validation"]
    assert "test" in tested["splits"]

    corpus = mgc_jax.open_corpus(config.data)
    from mgc_jax.modes import export

    model = mgc_jax.load_model(export(config, tmp_path / "run"))
    scores, _ = model(corpus.clips[:5])
    assert scores.shape == (5, 3)

    predictions = mgc_jax.load_predictions(str(tmp_path / "run" / "predictions.parquet"), corpus)
    rows = predictions.split == "validation"
    assert predictions.clip_scores is not None
    found = mgc_jax.genre_metrics(predictions.label[rows], predictions.clip_scores[rows])
    expected = results["splits"]["validation"]["clip"]
    assert {name: expected[name] for name in found} == pytest.approx(found)
    assert mgc_jax.METRICS.keys() >= {"accuracy", "macro_f1"}
    draws = mgc_jax.ArtistBootstrap(predictions.artist[rows], resamples=50)
    assert draws.mean(np.ones(rows.sum())).shape == (50,)

    with pytest.raises(mgc_jax.UserError, match="holds a run with another configuration"):
        mgc_jax.train(mgc_jax.load_config(tmp_path / "run", {"seed": 1}), tmp_path / "run")
    assert root.handlers == handlers
    after = {name: (logging.getLogger(name).level, logging.getLogger(name).handlers) for name in ("mgc_jax", "absl")}
    assert after == before


def test_what_is_overridden_holds_on_the_demo_too(tmp_path):
    from mgc_jax.modes import choose_corpus

    (tmp_path / "small.py").write_text(CONFIG)
    for overrides, epochs in (({}, 7), ({"train.epochs": 3}, 3)):
        config = mgc_jax.load_config(tmp_path / "small.py", overrides | {"data.data_dir": str(tmp_path)})
        assert config.data.corpus == "auto"
        chosen, why = choose_corpus(config, "train")
        assert "SYNTHETIC" in why
        assert (chosen.data.corpus, chosen.train.epochs) == ("demo", epochs)
        assert config.data.corpus == "auto"
