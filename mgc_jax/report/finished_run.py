"""Reads the folder of a finished run."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mgc_jax.config.keys import SINGLE_LABEL
from mgc_jax.errors import UserError
from mgc_jax.evaluation.identity import belong_together
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions
from mgc_jax.evaluation.tasks import metrics_of
from tfds_fma.paths import local_path


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The files of a run's folder.

    Attributes:
        folder: where it is.
        results: `results.json`.
        config: `config.json`, with the logit adjustment and the bags of the evaluation, which may be others than those
            of the training; empty if there is none.
        log: the lines of `metrics.jsonl`; none for a baseline, which has no steps.
        predictions: `predictions.parquet`; None if there is none (runs of early versions).
    """

    folder: Path
    results: dict[str, Any]
    config: dict[str, Any]
    log: list[dict[str, float]]
    predictions: Predictions | None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def corpus(self) -> str:
        """The name of its corpus."""
        return str(self.results.get("corpus", "unknown"))

    @property
    def synthetic(self) -> bool:
        """Whether the corpus is the demo, which is not music."""
        return self.corpus == "demo"

    @property
    def task(self) -> str:
        """`config.task` of the run."""
        return str(self.results.get("task", SINGLE_LABEL))

    @property
    def splits(self) -> list[str]:
        """The splits that it was evaluated on."""
        return list(self.results["splits"])

    def scored(self, split: str) -> Predictions | None:
        """Returns the predictions of a split; None if there are none."""
        if self.predictions is None or split not in self.predictions.splits:
            return None
        return self.predictions.of_split(split)


def read_run(folder: Path) -> FinishedRun:
    """Reads a run's folder.

    Raises:
        UserError: there is no such folder, it has no results, or a file in it is damaged, or predictions and results
            are of two evaluations.
    """
    folder = local_path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give that of a run, its --workdir")
    if not (folder / "results.json").is_file():
        runs = sorted(path.parent.name for path in folder.glob("*/results.json"))
        within = f". It holds runs: {', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}" if runs else ""
        raise UserError(
            f"{folder} has no results.json: it is no run's folder, or the run has not come to its end (the same "
            f"command resumes it){within}"
        )
    results = _read_json(folder / "results.json")
    if not isinstance(results.get("splits"), dict):
        raise UserError(f"{folder / 'results.json'} has no results (splits); evaluate the run again: --mode eval")
    for split, result in results["splits"].items():
        if not _is_result(result, metrics_of(results.get("task"))):
            raise UserError(
                f"{folder / 'results.json'} is damaged: {split!r} is no result; evaluate the run again: --mode eval"
            )
    path = folder / PREDICTIONS_FILE
    predictions = load_predictions(path) if path.is_file() else None
    if predictions is not None and not belong_together(predictions, results):
        mode = "cross_validate" if "folds" in results else "eval"
        raise UserError(
            f"{path} is of another evaluation than results.json; --mode {mode} --workdir {folder} makes both again"
        )
    config = _read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    return FinishedRun(
        folder=folder,
        results=results,
        config=_as_evaluated(config, results),
        log=_read_lines(folder / "metrics.jsonl"),
        predictions=predictions,
    )


def results_digest(folder: Path) -> str:
    """Returns a short hash of `results.json`, by which a page says which results it shows."""
    return hashlib.blake2b((folder / "results.json").read_bytes(), digest_size=8).hexdigest()


def levels_of(result: dict[str, Any]) -> list[str]:
    """Returns the levels that the result of a split has."""
    return [level for level in LEVELS if isinstance(result.get(level), dict)]


def main_level(levels: list[str]) -> str:
    """Returns the level that a model is about: bag; without pooling, clip."""
    return "bag" if "bag" in levels else levels[0]


def _as_evaluated(config: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Returns a configuration with what `--mode eval` may change, as the results have it."""
    config = copy.deepcopy(config)
    adjustment, bag_key = (results.get(key) for key in ("logit_adjustment", "bag_key"))
    if adjustment is not None and isinstance(config.get("eval"), dict):
        config["eval"]["logit_adjustment"] = adjustment
    if bag_key is not None and isinstance(config.get("data"), dict):
        trained = config["data"].get("bag_key", bag_key)
        config["data"]["bag_key"] = bag_key if trained == bag_key else f"{trained}, and {bag_key} in evaluation"
    return config


def _is_result(result: Any, known: Collection[str]) -> bool:
    """Whether it has the number of clips and bags, and metrics, all numbers, at each of its levels."""
    if not isinstance(result, dict):
        return False
    sizes = [result.get(name) for name in ("clips", "bags")]
    by_level = [[result[level][name] for name in known if name in result[level]] for level in levels_of(result)]
    parts = [result.get(name, {}) for name in ("intervals", "top_k", "frequency", "per_genre", "alone")]
    return (
        all(by_level)
        and all(isinstance(number, int | float) for number in sum(by_level, sizes))
        and all(isinstance(part, dict) for part in parts)
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        return value
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); is it cut off? Evaluate the run again: --mode eval"
        ) from error


def _read_lines(path: Path) -> list[dict[str, float]]:
    """Reads JSON lines; none if there is no file. A line that a crash cut off is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "step" in value:
            lines.append(value)
    return lines
