"""The runs that the tables are made of: those that are missing are trained, finished ones are read."""

import contextlib
import dataclasses
import io
import itertools
import json
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mgc_jax import modes
from mgc_jax.config import checks, identity, keys
from mgc_jax.config.loading import read_config
from mgc_jax.data.open import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.evaluation.identity import belong_together
from mgc_jax.evaluation.predictions import Predictions
from mgc_jax.evaluation.predictions_file import PREDICTIONS_FILE, load_predictions
from mgc_jax.runtime.environment import code_version
from mgc_jax.runtime.terminal import clock
from mgc_jax.runtime.workdir import OtherCorpusError
from mgc_jax.tables.plan import Cell
from mgc_jax.training.initialization import load_weights

log = logging.getLogger(__name__)

_WITHOUT_CHANCE = ("lr", "knn", "svm")  # baselines that are the same with every seed


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        runs: predictions of all splits, one per seed.
        error: why there are none, or not of all seeds; empty: there are.
        selected_by: what chose the checkpoints; empty for baselines.
        test_evaluations: how often the test split was evaluated with one of the runs, at most.
    """

    runs: tuple[Predictions, ...] = ()
    error: str = ""
    selected_by: str = ""
    test_evaluations: int = 0

    def plus(self, run: "_Run") -> "Outcome":
        """Returns it with one more run."""
        return dataclasses.replace(
            self,
            runs=(*self.runs, run.predictions),
            selected_by=run.results.get("selected_by", ""),
            test_evaluations=max(self.test_evaluations, run.results.get("test_evaluations", 0)),
        )


@dataclass(frozen=True)
class _Run:
    """A finished run: its predictions, and `results.json`."""

    predictions: Predictions
    results: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How cells are run.

    Attributes:
        folder: of the runs.
        seeds: how many.
        folds: of a cross-validation; 0: none.
        epochs: limit for neural systems; 0: none.
        test: evaluate on the test split.
    """

    folder: Path
    seeds: int = 1
    folds: int = 0
    epochs: int = 0
    test: bool = True


def run_cells(
    cells: Sequence[Cell], configure: Callable[[Cell], ConfigDict], settings: Settings
) -> dict[Cell, Outcome]:
    """Trains what is missing, one run after the other, and reads what is there.

    Args:
        cells: the cells.
        configure: gives the configuration of a cell.
        settings: how.

    Returns:
        The outcome of each cell; an error is an outcome, too, and stops nothing.
    """
    configs: dict[Cell, ConfigDict] = {}
    outcomes: dict[Cell, Outcome] = {}
    for cell in cells:
        try:
            configs[cell] = limited(configure(cell), settings)
        except Exception as error:  # one cell's, whatever it is
            outcomes[cell] = Outcome(error=_sentence(error))
    todo = [(cell, seed) for cell, config in configs.items() for seed in range(_seeds(config, settings))]
    fingerprints: dict[str, tuple[str, str]] = {}
    seconds: dict[str, float] = {}  # of the last run that was trained, by system
    start_of_all = time.perf_counter()
    for number, (cell, seed) in enumerate(todo, 1):
        start = time.perf_counter()
        outcome, finished = outcomes.get(cell, Outcome()), False
        try:
            run, finished = _run(cell, seed, configs[cell], settings, fingerprints)
            outcomes[cell] = outcome.plus(run)
            what = _headline(run.predictions, settings)
        except Exception as error:  # one run's; those of other seeds and cells stay
            of_seed = f"seed {seed}: " if _seeds(configs[cell], settings) > 1 else ""
            reasons = [*filter(None, [outcome.error]), of_seed + _sentence(error)]
            outcomes[cell] = dataclasses.replace(outcome, error="; ".join(reasons))
            what = f"FAILED: {_sentence(error)}"
        took = "there"
        if not finished:
            seconds[cell.system] = time.perf_counter() - start
            took = f"{seconds[cell.system]:.1f} s"
        usual = sum(seconds.values()) / max(1, len(seconds))
        ahead = sum(seconds.get(later.system, usual) for later, _ in todo[number:])
        left = f"; about {clock(ahead)} left" if ahead else ""
        log.info("%d/%d %s-seed%d: %s, %s%s", number, len(todo), cell.name, seed, took, what, left)
    log.info("%d runs, %s", len(todo), clock(time.perf_counter() - start_of_all))
    return outcomes


def finished_cells(
    cells: Sequence[Cell], configure: Callable[[Cell], ConfigDict], settings: Settings
) -> dict[Cell, Outcome]:
    """Reads the cells all of whose runs are finished; the arguments are those of `run_cells`. Trains nothing."""
    outcomes: dict[Cell, Outcome] = {}
    fingerprints: dict[str, tuple[str, str]] = {}
    for cell in cells:
        outcome = Outcome()
        with contextlib.suppress(UserError):
            config = limited(configure(cell), settings)
            for seed in range(_seeds(config, settings)):
                config.seed = seed
                _, run = next(_folders(cell, config, settings, fingerprints))
                if run is None:
                    break
                outcome = outcome.plus(run)
            else:
                outcomes[cell] = outcome
    return outcomes


def limited(config: ConfigDict, settings: Settings) -> ConfigDict:
    """Returns a validated copy with the folds and the greatest number of epochs."""
    config = config.copy_and_resolve_references()
    config.data.folds = settings.folds
    if settings.epochs:
        config.train.epochs = min(config.train.epochs, settings.epochs)
    checks.validate(config)
    return config


def _seeds(config: ConfigDict, settings: Settings) -> int:
    return 1 if config.baseline.name in _WITHOUT_CHANCE else settings.seeds


def _run(
    cell: Cell, seed: int, config: ConfigDict, settings: Settings, fingerprints: dict[str, tuple[str, str]]
) -> tuple[_Run, bool]:
    """Reads or makes a run; returns it, and whether it was there."""
    config = config.copy_and_resolve_references()
    config.seed = seed
    for folder, run in _folders(cell, config, settings, fingerprints):
        if run is not None:
            return run, True
        try:
            _train(config, folder, settings)
            return _read(folder), False
        except OtherCorpusError:
            continue  # interrupted, and the corpus has changed since: left as it is
        except UserError:
            raise
        except Exception as error:  # out of memory, or a mistake in the program
            with contextlib.suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "train.log").open("a") as file:
                    file.write(traceback.format_exc())
            raise UserError(f"{_sentence(error)} (see {folder / 'train.log'})") from error
    raise AssertionError


def _sentence(error: Exception) -> str:
    """Says in one line what went wrong."""
    if isinstance(error, UserError):
        return str(error)
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def _folders(
    cell: Cell, config: ConfigDict, settings: Settings, fingerprints: dict[str, tuple[str, str]]
) -> Iterator[tuple[Path, _Run | None]]:
    """Goes through the folders that a run can be in: the folder, and the run if it is finished and can be read.

    A folder that holds another run is left as it is, and the next number taken.
    """
    name = f"{cell.name}-seed{config.seed}"
    for number in itertools.count(1):
        folder = settings.folder / (name if number == 1 else f"{name}-{number}")
        if not (folder / "config.json").exists():
            yield folder, None
            continue
        before = read_config(folder / "config.json")
        epochs = before.get("train", {}).get("epochs")
        if identity.differences(config, before) or (not config.baseline.name and epochs != config.train.epochs):
            continue
        try:
            run = _read(folder)
        except UserError:
            yield folder, None  # interrupted, or damaged
            continue
        if not _is_of_corpus(run, *_fingerprint(config, fingerprints)):
            continue
        if not _is_of_this_code(folder, run):
            continue
        if not _is_evaluated_as(config, run):
            yield folder, None  # by hand, in another way: evaluated again
            continue
        there = {split for split in run.results["splits"] if split in run.predictions.splits}
        needed = "test" if settings.test else "validation"
        yield folder, run if needed in there or "validation" not in run.results["splits"] else None


def _is_evaluated_as(config: ConfigDict, run: _Run) -> bool:
    """Whether a run was evaluated as its configuration says; early versions did not record it, and did so."""
    wanted = {"logit_adjustment": config.eval.logit_adjustment, "bag_key": config.data.bag_key}
    return all(run.results.get(key, value) == value for key, value in wanted.items())


def _is_of_this_code(folder: Path, run: _Run) -> bool:
    """Whether the code gives the scores of a run to its weights; without any, as of baselines, it counts as if so."""
    if run.results.get("environment", {}).get("code") == code_version():
        return True
    steps = (*folder.glob("checkpoints/[0-9]*"), *folder.glob("fold-*/checkpoints/[0-9]*"))
    parts = {step.parents[1] for step in steps}
    try:
        for part in sorted(parts):
            load_weights(part)
    except UserError as error:  # also where this code has no place for the weights
        log.warning("%s The run is made again, in another folder.", error)
        return False
    return True


def _read(folder: Path) -> _Run:
    """Reads a finished run.

    Raises:
        UserError: it is not finished, or its files are damaged, or of two evaluations.
    """
    try:
        results = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'results.json'} cannot be read: {error}") from error
    if not isinstance(results, dict) or not isinstance(results.get("splits"), dict):
        raise UserError(f"{folder / 'results.json'} has no results")
    predictions = load_predictions(folder / PREDICTIONS_FILE)
    if not belong_together(predictions, results):
        raise UserError(f"{folder / PREDICTIONS_FILE} is of another evaluation than results.json")
    return _Run(predictions, results)


def _is_of_corpus(run: _Run, fingerprint: str, clips_digest: str) -> bool:
    """Whether a run is of the corpus; the checksum of all clips counts where both have one."""
    recorded = run.results.get("clips_digest") or clips_digest
    return run.results.get("fingerprint") == fingerprint and recorded == (clips_digest or recorded)


def _fingerprint(config: ConfigDict, known: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """Returns fingerprint and `clips_digest` of the corpus; each is opened once."""
    key = json.dumps(keys.to_json(config)["data"], sort_keys=True)
    if key not in known:
        corpus = open_corpus(config.data)
        known[key] = corpus.fingerprint, corpus.clips_digest
    return known[key]


def _train(config: ConfigDict, folder: Path, settings: Settings) -> None:
    """Trains without a word on the terminal: `train.log` has it all."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if settings.folds:
            modes.cross_validate(config, folder)
        else:
            modes.train(config, folder, test=settings.test)


def _headline(predictions: Predictions, settings: Settings) -> str:
    split = "test" if settings.test and "test" in predictions.splits else "validation"
    if split not in predictions.splits:
        return "no clips to evaluate on"
    part: Any = predictions.of_split(split)
    level = "bag" if "bag" in part.levels else "clip"
    accuracy = (part.predicted(level) == part.label).mean()
    return f"{split} accuracy {accuracy:.3f} ({level})"
