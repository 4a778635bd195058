"""Exported models: weights, labels and configuration of a run in files that need neither Orbax nor a corpus.

`--mode export` writes `<workdir>/export/`:

* `weights.safetensors`: every weight and moving average by its dotted name (`encoder.blocks.0.kernel`), and the
  standardization;
* `labels.json`: the genres, in the order of the scores;
* `config.json`: the run's configuration, and what the weights do not tell: shapes, sub-genres, corpus, step.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.errors import UserError
from mgc_jax.inference import CONFIG, LABELS, STANDARDIZATION, WEIGHTS, model_of
from mgc_jax.models.classifier import split_model
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.workdir import claim
from mgc_jax.training.checkpoint import open_checkpoints
from mgc_jax.training.optimizer import untimed_optimizer

log = logging.getLogger(__name__)


def export_workdir(config: ConfigDict, workdir: Path) -> Path:
    """Writes the best checkpoint of a workdir as files (`--mode export`); returns their folder.

    The corpus need not be there.

    Raises:
        UserError: the workdir has no checkpoint, or one of another configuration.
    """
    with (
        claim(workdir, config, create=False),
        open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints,
    ):
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{workdir} has no complete checkpoint to export; train first")
        meta = checkpoints.meta(step)
        _, params, batch_stats = split_model(model_of(meta))
        state = checkpoints.restore(step, untimed_optimizer(config.optimizer).initial_state(params, batch_stats))
        folder = workdir / "export"
        _write(folder, meta | {"step": step}, {"params": state.evaluated, "batch_stats": state.batch_stats})
    log.info("exported the checkpoint of step %d to %s", step, folder)
    return folder


def _write(folder: Path, meta: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    statistics = {f"{STANDARDIZATION}.{k}": np.asarray(v, np.float32) for k, v in meta["standardization"].items()}
    arrays = {name: np.asarray(value) for tree in variables.values() for name, value in _by_name(tree).items()}
    try:
        folder.mkdir(exist_ok=True)
        temporary = folder / (WEIGHTS + ".tmp")
        temporary.write_bytes(save({name: np.ascontiguousarray(v) for name, v in (arrays | statistics).items()}))
        temporary.replace(folder / WEIGHTS)
        write_json(folder / LABELS, meta["genres"])
        write_json(folder / CONFIG, {k: v for k, v in meta.items() if k not in ("genres", "standardization")})
    except OSError as error:
        raise UserError(f"the export cannot be written to {folder}: {error}") from error


def _by_name(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts: {"a": {0: x}} -> {"a.0": x}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _by_name(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
