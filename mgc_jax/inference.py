"""A saved model: loads an export and scores arrays of clips. Needs neither Optax nor Orbax."""

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

from mgc_jax.data.frontend import LogMelFrontend
from mgc_jax.data.inputs import Inputs
from mgc_jax.data.standardization import Standardization
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import BagClassifier, build_model
from mgc_jax.models.logit_adjustment import adjust

log = logging.getLogger(__name__)


WEIGHTS, LABELS, CONFIG = "weights.safetensors", "labels.json", "config.json"


STANDARDIZATION = "standardization"


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


def model_of(meta: Mapping[str, Any]) -> BagClassifier:
    """Builds the model that a checkpoint or an export describes, with weights still to be filled in."""
    return build_model(
        ConfigDict(meta["config"]["model"]), tuple(meta["clip_shape"]), len(meta["genres"]),
        subgenre_parents=tuple(meta["subgenre_parents"]), seed=0,
    )  # fmt: skip


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
        model = model_of(meta)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} does not hold a complete export ({type(error).__name__}: {error})") from error
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    expected = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    given = {name: array for name, array in arrays.items() if not name.startswith(STANDARDIZATION)}
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
    statistics = Standardization(arrays[f"{STANDARDIZATION}.mean"], arrays[f"{STANDARDIZATION}.std"])
    stored_shape = tuple(meta["stored_shape"])
    frontend = None
    if config.model.frontend:  # an export made before there was `kernels` has no such key
        use = config.model.get("kernels", "auto") == "auto"
        frontend = LogMelFrontend(config.model.frontend, platform_kernels=use)
    inputs = Inputs(config, stored_shape, frontend, statistics)
    return ExportedModel(model, inputs, tuple(meta["genres"]), meta, np.array(meta["adjustment"], np.float32))
