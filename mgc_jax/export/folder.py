"""The folder of an export: the model, what it says of itself, and its other formats.

`mgc-jax export` and `--mode export` write `<workdir>/export/`:

* `weights.safetensors`: every weight and moving average by its dotted name (`encoder.blocks.0.kernel`), and the
  standardization;
* `labels.json`: the genres, in the order of the scores;
* `config.json`: the run's configuration, and what else the weights do not say: shapes, sub-genres, corpus, step;
* `preprocessing.json`: how its clips are made (`preprocessing`);
* `probe.npz`: clips, and what the model says of them (`reference`);
* `MODEL_CARD.md`: what it is, how good, and how to load it (`card`);
* `files.json`: sizes and checksums (`files`).

`mgc_jax.load_model` reads the first three.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mgc_jax.errors import UserError
from mgc_jax.export import files
from mgc_jax.export.card import model_card
from mgc_jax.export.preprocessing import describe
from mgc_jax.export.reference import PROBE, probe_bytes, reference
from mgc_jax.inference import (
    CONFIG,
    EXPORT,
    LABELS,
    STANDARDIZATION,
    WEIGHTS,
    CheckpointMeta,
    ExportedModel,
    inputs_of,
    model_of,
    with_weights,
)
from mgc_jax.models.classifier import split_model

log = logging.getLogger(__name__)


def export_workdir(config: ConfigDict, workdir: Path) -> Path:
    """Writes the best checkpoint of a workdir as files (`--mode export`); returns their folder.

    The corpus need not be there.

    Raises:
        UserError: the workdir has no checkpoint, or one of another configuration.
    """
    from mgc_jax.runtime.workdir import claim  # with Orbax, which an export does without
    from mgc_jax.training.checkpoint import open_checkpoints
    from mgc_jax.training.initialization import saved_weights

    with (
        claim(workdir, config, create=False),
        open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints,
    ):
        step = checkpoints.best_step()
        if step is None:
            raise UserError(f"{workdir} has no complete checkpoint to export; train first")
        meta, params, batch_stats = saved_weights(checkpoints, step)
        folder = workdir / EXPORT
        exported = ExportedModel(with_weights(model_of(meta), params, batch_stats), inputs_of(meta), meta)
        write_export(folder, exported, results_of(workdir, meta))
    log.info("exported the checkpoint of step %d to %s", step, folder)
    return folder


def write_export(folder: Path, exported: ExportedModel, results: Mapping[str, Any] | None = None) -> None:
    """Writes a model as files, but for the other formats; those that are there stay if it is still the same model.

    Args:
        folder: is made where it is not there.
        exported: the model.
        results: what `results.json` holds of these weights; None: they were not evaluated.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"the export cannot be written to {folder}: {error}") from error
    files.write_model(folder, _model(exported))
    files.write(folder, files.PREPROCESSING, _json(describe(exported.meta)))
    files.write(folder, PROBE, probe_bytes(reference(exported)))
    files.write(folder, files.CARD, model_card(exported, results).encode())


_ELSEWHERE = ("standardization", "window", "checksums")  # in the other files, or of no use to a model


def _model(exported: ExportedModel) -> dict[str, bytes]:
    from safetensors.numpy import save

    meta, (_, *variables) = exported.meta, split_model(exported.model)
    arrays = {name: np.asarray(value) for tree in variables for name, value in _by_name(tree).items()}
    arrays |= {f"{STANDARDIZATION}.{k}": np.asarray(v, np.float32) for k, v in meta.standardization.items()}
    config = {name: value for name, value in meta.to_json().items() if name not in _ELSEWHERE}
    return {
        WEIGHTS: save({name: np.asarray(value, order="C") for name, value in arrays.items()}),
        LABELS: _json(list(meta.genres)),
        CONFIG: _json(config),
    }


def _by_name(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts: {"a": {0: x}} -> {"a.0": x}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _by_name(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def results_of(workdir: Path, meta: CheckpointMeta) -> dict[str, Any] | None:
    """Returns what `results.json` of a run holds; None: there is none, or it is of other weights."""
    try:
        results = json.loads((workdir / "results.json").read_text())
        same = (results["best_step"], results["fingerprint"]) == (meta.step, meta.fingerprint)
        return results if same and isinstance(results["splits"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
