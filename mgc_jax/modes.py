"""What can be done with a configuration in a workdir, whatever kind of system it describes.

JAX and scikit-learn are imported by the job that needs them, when it starts.
"""

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.errors import UserError
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.metrics import METRICS, check_selection
from mgc_jax.evaluation.predictions import Predictions, concatenate
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions
from mgc_jax.evaluation.results import finish
from mgc_jax.runtime import processes
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.workdir import check_same, claim, read_config

log = logging.getLogger(__name__)


def train(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Trains and evaluates the model or baseline of a configuration; returns what `results.json` holds.

    Args:
        config: a validated configuration, whose corpus is not `auto`.
        workdir: the run's folder.
        test: evaluate on the test split, too.
    """
    _refuse_cross_validation(workdir)
    return _module(config).train_and_evaluate(config, workdir, test=test)


def evaluate(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Evaluates the model or baseline of a workdir again; the arguments are those of `train`."""
    _refuse_cross_validation(workdir)
    return _module(config).evaluate_workdir(config, workdir, test=test)


def export(config: ConfigDict, workdir: Path) -> Path:
    """Writes the best weights of a workdir as files; returns their folder."""
    _refuse_cross_validation(workdir)
    if config.baseline.name:
        raise UserError("--mode export is for models; the baselines of scikit-learn leave no weights")
    return importlib.import_module("mgc_jax.export").export_workdir(config, workdir)


def bench(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Measures how fast the model of a configuration trains and evaluates; returns what `bench.json` holds."""
    if config.baseline.name:
        raise UserError("--mode bench is for models; the baselines of scikit-learn have no training steps to measure")
    return importlib.import_module("mgc_jax.bench.run").run_bench(config, workdir)


def cross_validate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains once per fold, and evaluates the scores of all folds together: no model was trained on a clip it scores.

    The runs are in `<workdir>/fold-0` and so on; they resume, and finished ones are only evaluated again. The test
    split is left alone. A model's checkpoint is chosen on the very fold that it then scores, which flatters it (not
    scikit-learn's baselines, which choose nothing); and ranking the scores of several models together, as average
    precision does, takes them as alike in scale.

    Args:
        config: a validated configuration; `data.folds` says how many folds, grouped by artist, there are.
        workdir: the folder.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: there are no folds, or what a run raises.
    """
    folds = config.data.folds
    if not folds:
        raise UserError("cross-validation needs folds: --config.data.folds=5, for instance")
    if config.data.fold:
        raise UserError(f"cross-validation goes through all folds; leave out --config.data.fold={config.data.fold}")
    check_selection(config.train.select)
    saved = workdir / "config.json"
    if saved.exists():
        if not _is_cross_validation(workdir):
            raise UserError(f"the workdir {workdir} holds a single run, not a cross-validation; give a new --workdir")
        check_same(config, read_config(saved), workdir, training=True)
    with claim(workdir, config, create=True):
        if processes.is_first():
            (workdir / "fold-0").mkdir(exist_ok=True)
            write_json(saved, keys.to_json(config))
        parts: list[Predictions] = []
        results: list[dict[str, Any]] = []
        for fold in range(folds):
            fold_config = config.copy_and_resolve_references()
            fold_config.data.fold = fold
            folder = workdir / f"fold-{fold}"
            log.info("fold %d of %d", fold + 1, folds)
            results.append(train(fold_config, folder))
            parts.append(_of_fold(load_predictions(folder / PREDICTIONS_FILE).of_split("validation"), fold))
        about: dict[str, Any] = {
            key: results[0][key] for key in ("model", "parameters", "corpus", "fingerprint") if key in results[0]
        }
        about["folds"] = folds
        about["selected_by"] = results[0].get("selected_by", "")
        about["seconds"] = {part: sum(r["seconds"].get(part, 0) for r in results) for part in results[0]["seconds"]}
        about["per_fold"] = {
            level: {
                metric: [result["splits"]["validation"][level][metric] for result in results] for metric in METRICS
            }
            for level in LEVELS
            if level in results[0]["splits"]["validation"]
        }
        headline = f"{about['model']} on {about['corpus']}, {folds} folds grouped by artist"
        return processes.from_first(lambda: finish(_pooled(parts), about, workdir, headline))


def _is_cross_validation(workdir: Path) -> bool:
    return (workdir / "fold-0").is_dir()


def _refuse_cross_validation(workdir: Path) -> None:
    if _is_cross_validation(workdir):
        raise UserError(
            f"the workdir {workdir} holds a cross-validation: give --mode cross_validate, or one of its runs, such as "
            f"--workdir {workdir / 'fold-0'} --config.data.fold=0"
        )


def _of_fold(predictions: Predictions, fold: int) -> Predictions:
    return predictions.replace(fold=np.full(len(predictions), fold, np.int32))


def _pooled(parts: list[Predictions]) -> Predictions:
    """Joins the folds; a genre's training clips are the mean over them."""
    means = {}
    for name in ("train_clips", "train_clips_outside_small"):
        counts = [getattr(part, name) for part in parts]
        means[name] = None if any(count is None for count in counts) else np.mean(counts, axis=0)
    return concatenate(parts).replace(**means)


def _module(config: ConfigDict) -> Any:
    return importlib.import_module("mgc_jax.baselines" if config.baseline.name else "mgc_jax.training.loop")
