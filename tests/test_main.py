"""The command line, run as a user runs it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import make_corpus, save_arrays

ROOT = Path(__file__).parents[1]
CONFIG = """
from mgc_jax.config import default
def get_config(pooling="matt"):
    config = default()
    config.data.bag_key = "pair"
    config.model.encoder.name = "mlp"
    config.model.encoder.hidden = (8,)
    config.model.pooling.name = pooling
    config.batch.clips = 64
    config.optimizer.learning_rate = 0.01
    config.train.epochs = 2
    return config
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a small configuration and a corpus of feature vectors."""
    (tmp_path / "small.py").write_text(CONFIG)
    save_arrays(make_corpus(clip_shape=(6,)), tmp_path)
    return tmp_path


ARRAYS = ["--config.data.corpus=arrays", "--config.data.arrays.clips=clips.npz",
          "--config.data.arrays.table=tracks.csv", "--config.data.arrays.axes=clip feature"]  # fmt: skip


def run(folder, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def main(folder, *arguments):
    return run(folder, "-m", "mgc_jax.main", *arguments)


def assert_clear_error(result, *parts):
    """One paragraph that names the thing, no traceback, a non-zero exit."""
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    paragraph = result.stderr[result.stderr.index("error: ") :]
    assert "\n\n" not in paragraph.strip()
    for part in parts:
        assert part in paragraph


@pytest.mark.slow
def test_train_then_the_same_command_again_then_eval(folder):
    first = main(folder, "--config", "small.py", *ARRAYS)
    assert first.returncode == 0, first.stderr
    (workdir,) = (folder / "runs").iterdir()
    assert workdir.name.startswith("small-2")
    assert " bag " in first.stdout
    assert {"config.json", "results.json", "metrics.jsonl", "train.log"} <= {p.name for p in workdir.iterdir()}
    assert "corpus arrays" in (workdir / "train.log").read_text().splitlines()[0]
    results = json.loads((workdir / "results.json").read_text())

    again = main(folder, "--config", "small.py", *ARRAYS)
    assert [p.name for p in (folder / "runs").iterdir()] == [workdir.name]
    assert again.stdout == first.stdout

    evaluated = main(folder, "--config", "small.py", "--mode", "eval", *ARRAYS)
    assert evaluated.stdout == first.stdout
    alone = main(folder, "--workdir", f"runs/{workdir.name}", "--mode", "eval", "--config.eval.batch_clips=7")
    assert alone.stdout == first.stdout, alone.stderr
    refused = main(folder, "--workdir", f"runs/{workdir.name}", "--config.train.epochs=5", "--config.seed=1")
    assert_clear_error(refused, "seed: 0 there, 1 now")
    exported = main(folder, "--workdir", f"runs/{workdir.name}", "--mode", "export")
    assert exported.returncode == 0, exported.stderr
    assert (workdir / "export" / "weights.safetensors").is_file()
    evaluated = main(folder, "--config", "small.py", "--mode", "eval", *ARRAYS)
    again = json.loads((workdir / "results.json").read_text())
    assert again.pop("command").replace(" --mode eval", "") == results.pop("command")
    assert again.pop("date") >= results.pop("date")
    assert again == results
    assert set(results["splits"]) == {"train", "validation"}
    assert (workdir / "report.html").stat().st_size > 10_000

    tested = main(folder, "--config", "small.py", "--mode", "eval", "--test", *ARRAYS)
    assert "\ntest " in tested.stdout
    assert json.loads((workdir / "results.json").read_text())["test_evaluations"] == 1
    saved = main(folder, "--mode", "eval", "--test", "--predictions", str(workdir / "predictions.parquet"))
    assert saved.stdout.splitlines()[2:] == tested.stdout.splitlines()[2:]
    without = main(folder, "--mode", "eval", "--predictions", str(workdir / "predictions.parquet"))
    assert "\ntest " not in without.stdout
    assert "--test evaluates them" in without.stderr

    workdir = workdir.rename(workdir.with_name("small-2020-01-01"))  # a run of another day
    (workdir / "results.json").unlink()  # which was interrupted
    resumed = main(folder, "--config", "small.py", *ARRAYS)
    assert [p.name for p in (folder / "runs").iterdir()] == [workdir.name]
    assert resumed.stdout == tested.stdout  # the scores on test, which say that they are of these weights, stay
    assert json.loads((workdir / "results.json").read_text())["test_evaluations"] == 1

    other = main(folder, "--config", "small.py:mean", *ARRAYS)  # another model gets a folder of its own
    assert other.returncode == 0, other.stderr
    assert len(list((folder / "runs").iterdir())) == 2
    third = main(folder, "--config", "small.py:none", "--config.train.select=clip/accuracy", *ARRAYS)
    assert third.returncode == 0, third.stderr
    names = sorted(p.name for p in (folder / "runs").iterdir())
    assert names[2] == names[1] + "-2"

    refused = main(folder, "--config", "small.py:mean", "--workdir", f"runs/{workdir.name}", *ARRAYS)
    assert_clear_error(refused, "model.pooling.name: 'matt' there, 'mean' now", "--workdir")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--config.optimizer.learning_rat=0.1"], ["learning_rat", "mgc_jax/config/keys.py", "learning_rate?"]),
        (["--epochs=3"], ["unknown flag --epochs", "--config.train.epochs"]),
        (["--config.model.pooling.scores=dot"], ["model.pooling.scores", "score?"]),
        (["--config.model.encoder.name=mpl"], ["mpl", "choose one of"]),
        (["--config.train.epochs=many"], ["many", "epochs"]),
        (["--config.seed=-1"], ["config.seed=-1", "at least 0"]),
        (["--config.data.representation=mel_96"], ["mel_96", "mel_1360x96"]),
        (["--config.train.epochs=0"], ["config.train.epochs=0", "at least 1"]),
        (["--config.data.corpus=fma_small"], ["fma_small", "not prepared", "python -m tfds_fma.prepare"]),
        (["--config.data.corpus=gtzan"], ["gtzan", "fma_small"]),
        ([*ARRAYS, "--config.data.arrays.table=gone.csv"], ["gone.csv", "does not exist"]),
        ([*ARRAYS, "--config.data.arrays.columns.genre=style"], ["no column 'style'", "genre_top"]),
        ([*ARRAYS, "--config.data.arrays.genres=('Rock', 'Folk')"], ["'Jazz'", "Rock, Folk"]),
        ([*ARRAYS, "--mode", "eval"], ["no run in", "--workdir"]),
        (["--mode", "fly"], ["fly", "train|cross_validate|eval"]),
        (["--workdri=x"], ["workdri"]),
        (["--learning_rat=3"], ["--learning_rat", "--config.optimizer.learning_rate?"]),
        (["train"], ["'train'", "--help"]),
        ([*ARRAYS, "--workdir=/proc/nowhere"], ["/proc/nowhere"]),
    ],
    ids=lambda value: " ".join(value)[-40:] if value and value[0].startswith("-") else "",
)
def test_a_mistake_is_one_clear_paragraph(folder, flags, parts):
    assert_clear_error(main(folder, "--config", "small.py", *flags), *parts)


@pytest.mark.slow
def test_flags_replace_parts_of_the_model_and_its_training(folder):
    given = [
        "--config.model.pooling.hidden=4", "--config.model.pooling.name=gated_attention",
        "--config.optimizer.options.momentum=0.9", "--config.optimizer.schedule=exponential_decay",
        "--config.optimizer.schedule_options.decay_rate=0.9", "--config.train.epochs=1", "--workdir=run",
    ]  # fmt: skip
    trained = main(folder, *given, "--config", "small.py", *ARRAYS)
    assert trained.returncode == 0, trained.stderr
    assert "MIL (gated attention) (hidden=4)" in trained.stdout
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["model"]["pooling"] == {"name": "gated_attention", "hidden": 4}
    assert config["optimizer"]["options"] == {"momentum": 0.9}
    assert config["optimizer"]["schedule_options"] == {"decay_rate": 0.9}


@pytest.mark.slow
def test_predictions_of_other_software_by_the_command_line(folder):
    (folder / "theirs.csv").write_text("track_id,clip/Rock,clip/Folk,clip/Jazz\n1000,0.5,0.3,0.2\n1001,0.1,0.1,0.8\n")
    (folder / "knn.py").write_text(BASELINE)
    given = ["--mode", "eval", "--predictions", "theirs.csv"]
    assert_clear_error(main(folder, *given), "no column split", "--config FILE")
    shown = main(folder, *given, "--config", "knn.py", *ARRAYS)
    assert "the scores in theirs.csv" in shown.stdout, shown.stderr
    written = main(folder, *given, "--config", "knn.py", *ARRAYS, "--workdir", "theirs")
    assert written.stdout == shown.stdout
    files = {path.name for path in (folder / "theirs").iterdir()}
    assert files == {"predictions.parquet", "results.json", "report.html"}
    assert json.loads((folder / "theirs" / "results.json").read_text())["model"] == "theirs"
    assert_clear_error(main(folder, *given, "--config", "knn.py", *ARRAYS, "--workdir", "knn.py"), "cannot be written")
    assert_clear_error(main(folder, "--predictions", "theirs.csv"), "--predictions goes with --mode eval")
    assert_clear_error(main(folder, "--mode", "eval", "--predictions", "gone.csv"), "no predictions file gone.csv")


def test_cross_validation_by_the_command_line(folder):
    (folder / "knn.py").write_text(BASELINE)
    run = ["--config", "knn.py", "--mode", "cross_validate", *ARRAYS]
    first = main(folder, *run, "--config.data.folds=2")
    assert first.returncode == 0, first.stderr
    assert "KNN on arrays, 2 folds grouped by artist" in first.stdout
    (workdir,) = (folder / "runs").iterdir()
    assert workdir.name.startswith("cross-validation-knn-")
    assert {"fold-0", "fold-1", "results.json", "predictions.parquet", "report.html"} <= {
        path.name for path in workdir.iterdir()
    }
    assert_clear_error(main(folder, *run), "cross-validation needs folds")
    assert_clear_error(main(folder, *run, "--config.data.folds=2", "--test"), "--test does not go with")


def test_no_config_and_a_config_that_is_not_there(folder):
    assert_clear_error(main(folder), "--config is missing", "configs/matt_crnn_tf.py")
    assert_clear_error(main(folder, "--config", "gone.py"), "gone.py")
    assert_clear_error(main(folder, "--config.train.epochs=3"), "give --config FILE, or a --workdir")
    (folder / "empty").mkdir()
    assert_clear_error(main(folder, "--workdir", "empty", "--mode", "eval"), "--config is missing")
    (folder / "plain.py").write_text("def get_config():\n    return None\n")
    assert_clear_error(main(folder, "--config", "plain.py:svm"), "takes no argument")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("def get_config(:\n", ["broken.py", "SyntaxError"]),
        ("import gone_module\n", ["broken.py", "gone_module"]),
        ("def get_config():\n    return missing\n", ["broken.py", "line 2", "missing"]),
        ("from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'a': 1})\n",
         ["config keys are missing", "mgc_jax.config.default()"]),
        (CONFIG.replace("= 64", "= '64'"), ["batch.clips", "'64'"]),
    ],
)  # fmt: skip
def test_a_broken_config_file_is_named(folder, text, parts):
    (folder / "broken.py").write_text(text)
    assert_clear_error(main(folder, "--config", "broken.py"), *parts)


@pytest.mark.parametrize("module", ["mgc_jax.main", "mgc_jax.tables"])
def test_help_is_short_and_no_error(folder, module):
    result = run(folder, "-m", module, "--config", "gone.py", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "--workdir" in result.stdout
    assert "--config" in result.stdout
    assert len(result.stdout.splitlines()) < 50
    assert max(map(len, result.stdout.splitlines())) < 110
    full = run(folder, "-m", module, "--helpfull")
    assert full.returncode == 0
    assert "--verbosity" in full.stdout


def test_imports_are_light(folder):
    program = (
        "import sys, mgc_jax, mgc_jax.main, mgc_jax.config, tfds_fma\n"
        "mgc_jax.config.load_config('svm:features=mfcc', {'baseline.C': '2.0'})\n"
        "heavy = {'jax', 'flax', 'tensorflow', 'torch', 'librosa', 'numba', 'sklearn', 'tensorflow_datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert run(folder, "-c", program).stdout.strip() == "[]"


def test_the_installed_command_is_the_module(folder):
    """What `[project.scripts]` calls, with huge pages and under the name of the command."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"mgc-jax": "mgc_jax.__main__:main"}
    (folder / "mgc-jax").write_text("from mgc_jax.__main__ import main\nmain()\n")
    result = run(folder, "mgc-jax", "--config", "small.py", "--config.seed=-1")
    assert_clear_error(result, "config.seed=-1")
    shown = run(folder, "mgc-jax", "--help")
    assert shown.stdout.count("mgc-jax predict MODEL") == 1
    assert shown.stdout.endswith(main(folder, "--help").stdout.lstrip())
    program = "import sys; sys.argv = ['/bin/mgc-jax', '--mode', 'eval']\n"
    program += "from mgc_jax.runtime.environment import command; print(command())"
    assert run(folder, "-c", program).stdout == "mgc-jax --mode eval\n"


def test_training_imports_neither_tensorflow_nor_torch_nor_librosa():
    program = (
        "import sys, mgc_jax.training.loop, tfds_fma.reading, tensorflow_datasets\n"
        "print(sorted({'tensorflow', 'torch', 'librosa', 'numba'} & set(sys.modules)))"
    )
    assert run(ROOT, "-c", program).stdout.strip() == "[]"


BASELINE = """
from mgc_jax.config import options
from mgc_jax.papers import fma
def get_config(arg=""):
    given = options.arguments(arg, k=5)
    config = fma.baseline("knn", "", n_neighbors=given["k"])
    config.data.bag_key = "pair"
    return config
"""


@pytest.mark.slow
def test_a_baseline_by_the_same_command(folder):
    (folder / "knn.py").write_text(BASELINE)
    first = main(folder, "--config", "knn.py:k=3", *ARRAYS)
    assert first.returncode == 0, first.stderr
    assert "KNN on arrays, 6 features" in first.stdout
    (workdir,) = (folder / "runs").iterdir()
    results = json.loads((workdir / "results.json").read_text())
    assert results["model"] == "KNN"
    assert set(results["splits"]["validation"]) >= {"clips", "bags", "clip", "clip_mean", "majority_accuracy"}
    assert json.loads((workdir / "config.json").read_text())["baseline"] == {"name": "knn", "n_neighbors": 3}

    evaluated = main(folder, "--config", "knn.py:k=3", "--mode", "eval", *ARRAYS)
    assert evaluated.stdout == first.stdout
    assert [p.name for p in (folder / "runs").iterdir()] == [workdir.name]

    flag = main(folder, "--config", "knn.py", "--config.baseline.n_neighbors=500", *ARRAYS)
    assert_clear_error(flag, "config.baseline.n_neighbors=500", "training clips")
    wrong = main(folder, "--config", "knn.py:n=3", *ARRAYS)
    assert_clear_error(wrong, "'n=3' after the config file is not an argument", "k=...")
    assert "options.py" not in wrong.stderr
    assert_clear_error(main(folder, "--config", "knn.py", "--config.baseline.name=tree"), "lr, knn, svm, mlp")
