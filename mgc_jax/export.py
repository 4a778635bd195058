"""Exported models: weights, labels and configuration of a run in files that need neither Orbax nor a corpus.

`--mode export` writes `<workdir>/export/`:

* `weights.safetensors`: every weight and moving average by its dotted name (`encoder.blocks.0.kernel`), and the
  standardization;
* `labels.json`: the genres, in the order of the scores;
* `config.json`: the run's configuration, and what the weights do not tell: shapes, sub-genres, corpus, step.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mgc_jax.checkpoint import open_checkpoints
from mgc_jax.data.corpus import Standardization
from mgc_jax.errors import UserError
from mgc_jax.evaluate import adjust
from mgc_jax.inputs import Inputs
from mgc_jax.models.classifier import BagClassifier, build_model
from mgc_jax.models.frontend import LogMelFrontend
from mgc_jax.state import split_model, untimed_optimizer
from mgc_jax.workdir import claim, write_json

log = logging.getLogger(__name__)

WEIGHTS, LABELS, CONFIG = "weights.safetensors", "labels.json", "config.json"
_STANDARDIZATION = "standardization"


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A trained model and what it needs to score clips.

    Attributes:
        model: the model, with its weights.
        inputs: turns stored clips into its input.
        genres: label names, in the order of the scores.
        config: what `config.json` holds.
        adjustment: float32 [genre]: post-hoc logit adjustment of the scores.
    """

    model: BagClassifier
    inputs: Inputs
    genres: tuple[str, ...]
    config: dict[str, Any]
    adjustment: np.ndarray

    def __call__(self, clips: np.ndarray, segment: np.ndarray | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Scores clips.

        Args:
            clips: [clip, ...] in the form of the corpus it was trained on (not standardized): spectrograms,
                features or audio.
            segment: int [clip]: number of the bag of each clip, from 0; None: every clip is a bag of its own.

        Returns:
            Log scores [bag, genre], and `aux`: `embedding` [clip, feature], and `attention` [bag, (genre,) clip] where
            bags were given.

        Raises:
            UserError: clips of another shape, or bags that are not numbered from 0.
        """
        stored = tuple(self.config["stored_shape"])
        if clips.shape[1:] != stored or len(clips) == 0:
            raise UserError(f"clips of shape {clips.shape}: this model takes [clip, {', '.join(map(str, stored))}]")
        x = self.inputs.evaluation((jnp.asarray(clips),))
        if segment is None:
            scores, aux = self.model(x[:, None], jnp.zeros((len(clips), 1), jnp.int32))
            return adjust(scores[:, 0], self.adjustment), {"embedding": aux["embedding"][:, 0]}
        segment = np.asarray(segment)
        bags = len(np.unique(segment))
        if segment.shape != (len(clips),) or segment.min() != 0 or segment.max() != bags - 1:
            raise UserError(f"segment must hold the bag of each of the {len(clips)} clips, bags numbered from 0")
        scores, aux = self.model(x[None], jnp.asarray(segment, jnp.int32)[None])
        scores = adjust(scores[0, :bags], self.adjustment)
        return scores, {"embedding": aux["embedding"][0], "attention": aux["attention"][0, :bags]}


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
        _, params, batch_stats = split_model(_model(meta))
        state = checkpoints.restore(step, untimed_optimizer(config.optimizer).initial_state(params, batch_stats))
        folder = workdir / "export"
        _write(folder, meta | {"step": step}, {"params": state.evaluated, "batch_stats": state.batch_stats})
    log.info("exported the checkpoint of step %d to %s", step, folder)
    return folder


def _model(meta: Mapping[str, Any]) -> BagClassifier:
    return build_model(
        ConfigDict(meta["config"]["model"]), tuple(meta["clip_shape"]), len(meta["genres"]),
        subgenre_parents=tuple(meta["subgenre_parents"]), seed=0,
    )  # fmt: skip


def _write(folder: Path, meta: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    from safetensors.numpy import save

    statistics = {f"{_STANDARDIZATION}.{k}": np.asarray(v, np.float32) for k, v in meta["standardization"].items()}
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


def load_export(folder: str | Path) -> ExportedModel:
    """Loads what `export_workdir` wrote.

    Raises:
        UserError: a file is missing, damaged, or belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    try:
        meta = json.loads((folder / CONFIG).read_text())
        meta["genres"] = json.loads((folder / LABELS).read_text())
        arrays = load_file(folder / WEIGHTS)
        config = ConfigDict(meta["config"])
        model = _model(meta)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} does not hold a complete export ({type(error).__name__}: {error})") from error
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    expected = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    given = {name: array for name, array in arrays.items() if not name.startswith(_STANDARDIZATION)}
    if expected.keys() != given.keys():
        odd = sorted(expected.keys() ^ given.keys())
        raise UserError(
            f"{folder / WEIGHTS} belongs to another model than {CONFIG} describes: {', '.join(odd[:3])} ..."
        )
    flat = dict(nnx.to_flat_state(state))
    for name, path in expected.items():
        if flat[path][...].shape != given[name].shape:
            raise UserError(
                f"{folder / WEIGHTS} belongs to another model than {CONFIG} describes: {name} has shape "
                f"{given[name].shape} there, {flat[path][...].shape} here"
            )
        flat[path] = flat[path].replace(jnp.asarray(given[name]))
    nnx.update(model, nnx.from_flat_state(flat))
    statistics = Standardization(arrays[f"{_STANDARDIZATION}.mean"], arrays[f"{_STANDARDIZATION}.std"])
    stored_shape = tuple(meta["stored_shape"])
    frontend = LogMelFrontend(config.model.frontend) if config.model.frontend else None
    inputs = Inputs(config, stored_shape, frontend, statistics)
    return ExportedModel(model, inputs, tuple(meta["genres"]), meta, np.array(meta["adjustment"], np.float32))
