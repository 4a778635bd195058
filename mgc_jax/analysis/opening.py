"""Opens a run as `--mode eval` does: its configuration, its corpus and its best checkpoint."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mgc_jax import modes
from mgc_jax.config.keys import MULTI_LABEL
from mgc_jax.config.loading import load_config
from mgc_jax.errors import UserError
from mgc_jax.experiment import Experiment
from mgc_jax.inference import CheckpointMeta
from mgc_jax.runtime.workdir import claim
from mgc_jax.training.checkpoint import open_checkpoints

log = logging.getLogger(__name__)

FOLDER = "analysis"  # in the workdir
REMEDY = "Make room there, or make it writable, and give the same command again."


class OpenedRun(NamedTuple):
    """A run whose best weights are loaded.

    Attributes:
        experiment: of the run.
        weights: weights and batch statistics.
        about: what tells these weights and this corpus from others: see `about`.
    """

    experiment: Experiment
    weights: tuple[Any, Any]
    about: dict[str, Any]


@contextlib.contextmanager
def opened(workdir: Path, overrides: Mapping[str, str], beside: Experiment | None = None) -> Iterator[OpenedRun]:
    """Opens a run, and keeps other processes out of its folder meanwhile.

    Args:
        workdir: of the run.
        overrides: dotted key of the configuration -> text, where a corpus has moved.
        beside: another run, whose corpus is used.

    Raises:
        UserError: there is no trained model, the corpus is gone or another one, or the code of the model has changed.
    """
    config, why = modes.choose_corpus(_config(workdir, overrides), "eval", workdir)
    log.info(why)
    shared = {} if beside is None else {"corpus": beside.corpus, "clips": beside.clips}
    with (
        claim(workdir, config, create=False),
        open_checkpoints(workdir, config.train.select, read_only=True) as checkpoints,
    ):
        experiment = Experiment(config, workdir, **shared)  # type: ignore[arg-type]
        state = modes.best_state(experiment, checkpoints)
        yield OpenedRun(experiment, state.evaluated, about(checkpoints.meta(int(state.step))))


def about_best(workdir: Path) -> dict[str, Any]:
    """Returns `about` of the best checkpoint of a run; neither corpus nor weights are read."""
    config = _config(workdir, {})
    with open_checkpoints(workdir, config.train.select, read_only=True) as checkpoints:
        step = checkpoints.best_step()
        return {} if step is None else about(checkpoints.meta(step))


def about(meta: CheckpointMeta) -> dict[str, Any]:
    """Returns step and checksum of a checkpoint, and name and fingerprint of its corpus."""
    return {
        "step": meta.step,
        "weights": meta.checksums.get("state"),
        "corpus": meta.corpus,
        "fingerprint": meta.fingerprint,
    }


def _config(workdir: Path, overrides: Mapping[str, str]) -> Any:
    if not (workdir / "config.json").is_file():
        raise UserError(f"{workdir} holds no run (there is no config.json); give the --workdir of one")
    if (workdir / "fold-0").is_dir():
        raise UserError(f"{workdir} holds a cross-validation; analyse one of its runs, such as {workdir / 'fold-0'}")
    config = load_config(workdir, overrides)
    if config.task == MULTI_LABEL:
        raise UserError(
            f"{workdir} holds a run with config.task={MULTI_LABEL}; mgc-jax analyse shows models of one genre per clip"
        )
    if config.baseline.name:
        raise UserError(
            f"{workdir} holds a baseline of scikit-learn, which has no embeddings; give the run of a model"
        )
    return config


def make_folder(folder: Path) -> Path:
    """Makes a folder for results; raises `UserError` if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error}. {REMEDY}") from error
    return folder
