"""The runs that the tables are made of: those that are missing are trained, finished ones are read."""

import contextlib
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mgc_jax import config as config_lib
from mgc_jax import jobs
from mgc_jax.data.corpus import open_corpus
from mgc_jax.errors import UserError
from mgc_jax.predictions import FILE_NAME, Predictions, load
from mgc_jax.progress import clock
from mgc_jax.tables.plan import Cell
from mgc_jax.workdir import read_config

log = logging.getLogger(__name__)

_WITHOUT_CHANCE = ("lr", "knn", "svm")  # baselines that are the same with every seed


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        runs: predictions of all splits, one per seed.
        error: why there are none; empty: there are.
        selected_by: what chose the checkpoints; empty for baselines.
    """

    runs: tuple[Predictions, ...] = ()
    error: str = ""
    selected_by: str = ""


@dataclass(frozen=True)
class Settings:
    """How cells are run.

    Attributes:
        folder: of the runs.
        seeds: how many.
        folds: of a cross-validation; 0: none.
        epochs: at most so many per neural system; 0: as many as its configuration has.
        test: evaluate on the test split.
    """

    folder: Path
    seeds: int = 1
    folds: int = 0
    epochs: int = 0
    test: bool = True


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs in a folder, unless one is chosen already: many runs compile the same ones."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def run_cells(
    cells: Sequence[Cell], configure: Callable[[Cell], ConfigDict], settings: Settings
) -> dict[Cell, Outcome]:
    """Trains what is missing, one run after the other, and reads what is there.

    Args:
        cells: the cells.
        configure: gives the configuration of a cell.
        settings: how.

    Returns:
        The outcome of each cell; a `UserError` is an outcome, too, and stops nothing.
    """
    configs: dict[Cell, ConfigDict] = {}
    outcomes: dict[Cell, Outcome] = {}
    for cell in cells:
        try:
            configs[cell] = limited(configure(cell), settings)
        except UserError as error:
            outcomes[cell] = Outcome(error=str(error))
    todo = [(cell, seed) for cell, config in configs.items() for seed in range(_seeds(config, settings))]
    fingerprints: dict[str, str] = {}
    seconds: dict[str, float] = {}  # of the last run that was trained, by system
    start_of_all = time.perf_counter()
    for number, (cell, seed) in enumerate(todo, 1):
        if cell in outcomes and outcomes[cell].error:
            continue  # another seed of it failed
        start = time.perf_counter()
        config = configs[cell].copy_and_resolve_references()
        config.seed = seed
        try:
            folder, finished = _folder(f"{cell.name}-seed{seed}", config, settings, fingerprints)
            if not finished:
                _train(config, folder, settings)
            predictions = load(folder / FILE_NAME)
            selected_by = json.loads((folder / "results.json").read_text()).get("selected_by", "")
            before = outcomes[cell].runs if cell in outcomes else ()
            outcomes[cell] = Outcome((*before, predictions), selected_by=selected_by)
            what = _headline(predictions, settings)
        except UserError as error:
            outcomes[cell] = Outcome(error=str(error))
            finished, what = False, f"FAILED: {error}"
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


def limited(config: ConfigDict, settings: Settings) -> ConfigDict:
    """Returns a validated copy with the folds and the greatest number of epochs."""
    config = config.copy_and_resolve_references()
    config.data.folds = settings.folds
    if settings.epochs:
        config.train.epochs = min(config.train.epochs, settings.epochs)
    config_lib.validate(config)
    return config


def _seeds(config: ConfigDict, settings: Settings) -> int:
    return 1 if config.baseline.name in _WITHOUT_CHANCE else settings.seeds


def _folder(name: str, config: ConfigDict, settings: Settings, fingerprints: dict[str, str]) -> tuple[Path, bool]:
    """Returns the folder of a run, and whether the run is finished.

    A folder that holds another run is left as it is, and the next number taken.
    """
    for number in itertools.count(1):
        folder = settings.folder / (name if number == 1 else f"{name}-{number}")
        if not (folder / "config.json").exists():
            return folder, False
        before = read_config(folder / "config.json")
        epochs = before.get("train", {}).get("epochs")
        if config_lib.differences(config, before) or (not config.baseline.name and epochs != config.train.epochs):
            continue
        try:
            results = json.loads((folder / "results.json").read_text())
        except (OSError, ValueError):
            return folder, False  # interrupted
        if results.get("fingerprint") != _fingerprint(config, fingerprints):
            continue
        needed = "test" if settings.test else "validation"
        evaluated = (folder / FILE_NAME).exists() and (
            needed in results.get("splits", {}) or "validation" not in results.get("splits", {})
        )
        return folder, evaluated
    raise AssertionError


def _fingerprint(config: ConfigDict, known: dict[str, str]) -> str:
    """Returns the fingerprint of the corpus; each is opened once."""
    key = json.dumps(config_lib.to_json(config)["data"], sort_keys=True)
    if key not in known:
        known[key] = open_corpus(config.data).fingerprint
    return known[key]


def _train(config: ConfigDict, folder: Path, settings: Settings) -> None:
    """Trains without a word on the terminal: `train.log` has it all."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if settings.folds:
            jobs.cross_validate(config, folder)
        else:
            jobs.train(config, folder, test=settings.test)


def _headline(predictions: Predictions, settings: Settings) -> str:
    split = "test" if settings.test and "test" in predictions.splits else "validation"
    if split not in predictions.splits:
        return "no clips to evaluate on"
    part: Any = predictions.of_split(split)
    view = "bag" if "bag" in part.views else "clip"
    accuracy = (part.predicted(view) == part.label).mean()
    return f"{split} accuracy {accuracy:.3f} ({view})"
