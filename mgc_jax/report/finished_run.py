"""Reads what a run left in its folder, for those who look at finished runs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import VIEWS, Predictions
from mgc_jax.evaluation.predictions_file import FILE_NAME, load


@dataclasses.dataclass(frozen=True)
class RunFiles:
    """A run's folder, read.

    Attributes:
        folder: where it is.
        results: `results.json`.
        config: `config.json`; empty if there is none.
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
        """What people call it."""
        return self.folder.resolve().name

    @property
    def corpus(self) -> str:
        """The name of its corpus."""
        return str(self.results.get("corpus", "unknown"))

    @property
    def synthetic(self) -> bool:
        """Whether it is of the demo, whose numbers say nothing about music."""
        return self.corpus == "demo"

    @property
    def splits(self) -> list[str]:
        """The splits that it was evaluated on."""
        return list(self.results["splits"])

    def scored(self, split: str) -> Predictions | None:
        """Returns the predictions of a split; None if there are none."""
        if self.predictions is None or split not in self.predictions.splits:
            return None
        return self.predictions.of_split(split)


def read_run(folder: Path) -> RunFiles:
    """Reads a run's folder.

    Raises:
        UserError: there is no such folder, it has no results, or a file in it is damaged.
    """
    folder = Path(folder)
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
        if not _is_result(result):
            raise UserError(
                f"{folder / 'results.json'} is damaged: {split!r} is no result; evaluate the run again: --mode eval"
            )
    path = folder / FILE_NAME
    return RunFiles(
        folder=folder,
        results=results,
        config=_read_json(folder / "config.json") if (folder / "config.json").is_file() else {},
        log=_read_lines(folder / "metrics.jsonl"),
        predictions=load(path) if path.is_file() else None,
    )


def views_of(result: dict[str, Any]) -> list[str]:
    """Returns the views that the result of a split has."""
    return [view for view in VIEWS if isinstance(result.get(view), dict)]


def own_view(views: list[str]) -> str:
    """Returns the view that a system is about: the bag model; without one, each clip."""
    return "bag" if "bag" in views else views[0]


def _is_result(result: Any) -> bool:
    """Whether it has what every version writes for a split: its size, and numbers by view."""
    if not isinstance(result, dict):
        return False
    sizes = [result.get(name) for name in ("clips", "bags")]
    values = [result[view].get(metric) for view in views_of(result) for metric in ("accuracy", "micro_ap")]
    parts = [result.get(name, {}) for name in ("intervals", "top_k", "frequency", "per_genre", "alone")]
    return all(isinstance(number, int | float) for number in sizes + values) and all(
        isinstance(part, dict) for part in parts
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
