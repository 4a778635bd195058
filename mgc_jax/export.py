"""Exported models: weights, labels and configuration of a run in files that need neither Orbax nor a corpus.

`--mode export` writes `<workdir>/export/`:

* `weights.safetensors`: every weight and moving average by its dotted name (`encoder.blocks.0.kernel`), and the
  standardization;
* `labels.json`: the genres, in the order of the scores;
* `config.json`: the run's configuration, and what else the weights do not say: shapes, sub-genres, corpus, step.

`mgc_jax.inference.load_export` reads them.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.errors import UserError
from mgc_jax.inference import CONFIG, EXPORT, LABELS, STANDARDIZATION, WEIGHTS, CheckpointMeta
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.workdir import claim
from mgc_jax.training.checkpoint import open_checkpoints
from mgc_jax.training.initialization import saved_weights

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
        meta, params, batch_stats = saved_weights(checkpoints, step)
        folder = workdir / EXPORT
        _write(folder, meta, {"params": params, "batch_stats": batch_stats})
    log.info("exported the checkpoint of step %d to %s", step, folder)
    return folder


_ELSEWHERE = ("standardization", "window", "checksums")  # in the other files, or of no use to a model


def _write(folder: Path, meta: CheckpointMeta, variables: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    statistics = {f"{STANDARDIZATION}.{k}": np.asarray(v, np.float32) for k, v in meta.standardization.items()}
    config = {name: value for name, value in meta.to_json().items() if name not in _ELSEWHERE}
    arrays = {name: np.asarray(value) for tree in variables.values() for name, value in _by_name(tree).items()}
    try:
        folder.mkdir(exist_ok=True)
        temporary = folder / (WEIGHTS + ".tmp")
        temporary.write_bytes(save({name: np.asarray(v, order="C") for name, v in (arrays | statistics).items()}))
        temporary.replace(folder / WEIGHTS)
        write_json(folder / LABELS, list(meta.genres))
        write_json(folder / CONFIG, config)
    except OSError as error:
        raise UserError(f"the export cannot be written to {folder}: {error}") from error


def _by_name(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts: {"a": {0: x}} -> {"a.0": x}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _by_name(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
