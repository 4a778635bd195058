"""A saved model: what it says of itself, and how an export is loaded and scores clips. No Optax, no Orbax."""

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


EXPORT, WEIGHTS, LABELS, CONFIG = "export", "weights.safetensors", "labels.json", "config.json"


STANDARDIZATION = "standardization"


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
    """What a checkpoint says of itself beside its weights; an export says the same of its model.

    Attributes:
        config: the run's configuration, as JSON.
        corpus: name of the corpus that it was trained on.
        fingerprint: of that corpus.
        genres: label names, in the order of the scores.
        subgenres: names of the sub-genres; the first ones are the genres themselves.
        subgenre_parents: int [sub-genre]: the genre of each.
        stored_shape: of a clip of the corpus.
        clip_shape: of the encoder's input.
        adjustment: float [genre]: post-hoc logit adjustment of the scores.
        standardization: `mean` and `std` of the training clips, float [mel] or [feature].
        seconds: time spent on each part of the run so far.
        init_from: where the initial weights came from (`config.train.init_from`): `path`, `step`, `corpus`,
            `fingerprint`, and `reset`, the parts of the model that were drawn at random; None: drawn at random.
        window: sums of the train steps that were not logged yet, of a run stopped between log lines.
        step: train steps done.
        best_step: the checkpoint that was the best on validation then; None: none was validated.
        checksums: of `state`, `metrics` and `meta`, as `training.checkpoint` computes them.
    """

    config: dict[str, Any]
    corpus: str
    fingerprint: str
    genres: tuple[str, ...]
    subgenres: tuple[str, ...]
    subgenre_parents: tuple[int, ...]
    stored_shape: tuple[int, ...]
    clip_shape: tuple[int, ...]
    adjustment: tuple[float, ...]
    standardization: dict[str, list[float]]
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    init_from: dict[str, Any] | None = None
    window: tuple[dict[str, float], ...] = ()
    step: int | None = None
    best_step: int | None = None
    checksums: dict[str, int | None] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns all of it as JSON would give it back (tuples become lists)."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "CheckpointMeta":
        """Reads what `to_json` returned, in this version of the program or another one.

        Fields that this version does not know are ignored; those with a default may be missing.

        Raises:
            ValueError: another field is missing, or it is no JSON object.
        """
        if not isinstance(values, Mapping):
            raise ValueError("it is no JSON object")
        fields = dataclasses.fields(cls)
        missing = [f.name for f in fields if f.name not in values and _is_required(f)]
        if missing:
            raise ValueError(f"it does not say {', '.join(missing)}")
        known: dict[str, Any] = {f.name: values[f.name] for f in fields if f.name in values}
        known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
        return cls(**known)


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """A trained model and what it needs to score clips.

    Attributes:
        model: the model, with its weights.
        inputs: turns stored clips into its input.
        meta: what it says of itself: configuration, labels, shapes, corpus.
    """

    model: BagClassifier
    inputs: Inputs
    meta: CheckpointMeta

    @property
    def genres(self) -> tuple[str, ...]:
        """Label names, in the order of the scores."""
        return self.meta.genres

    @property
    def adjustment(self) -> np.ndarray:
        """float32 [genre]: post-hoc logit adjustment of the scores."""
        return np.array(self.meta.adjustment, np.float32)

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
        stored = self.meta.stored_shape
        if clips.shape[1:] != stored or len(clips) == 0:
            raise UserError(f"clips of shape {clips.shape}: this model takes [clip, {', '.join(map(str, stored))}]")
        x, mask = self.inputs.evaluation(jnp.asarray(clips)), jnp.ones(len(clips), bool)
        if segment is None:
            index = jnp.arange(len(clips))[:, None]
            scores, aux = self.model(x, mask, index, jnp.zeros_like(index))
            return adjust(scores[:, 0], self.adjustment), {"embedding": aux["embedding"]}
        segment = np.asarray(segment)
        bags = len(np.unique(segment))
        if segment.shape != (len(clips),) or segment.min() != 0 or segment.max() != bags - 1:
            raise UserError(f"segment must hold the bag of each of the {len(clips)} clips, bags numbered from 0")
        scores, aux = self.model(x, mask, jnp.arange(len(clips))[None], jnp.asarray(segment, jnp.int32)[None])
        scores = adjust(scores[0, :bags], self.adjustment)
        return scores, {"embedding": aux["embedding"], "attention": aux["attention"][0, :bags]}


def model_of(meta: CheckpointMeta) -> BagClassifier:
    """Builds the model that a checkpoint or an export describes, with weights still to be filled in."""
    return build_model(
        ConfigDict(meta.config["model"]), meta.clip_shape, len(meta.genres),
        subgenre_parents=meta.subgenre_parents, seed=0,
    )  # fmt: skip


def load_model(folder: str | Path) -> ExportedModel:
    """Loads an exported model.

        model = load_model("runs/matt/export")
        scores, aux = model(clips)  # clips [clip, ...] as in the corpus it was trained on, not standardized

    Args:
        folder: what `--mode export` wrote: `<workdir>/export`, or the workdir that holds it.

    Raises:
        UserError: there is no export, a file is missing or damaged, or the weights belong to another model.
    """
    folder = Path(folder)
    if (folder / EXPORT).is_dir():
        folder = folder / EXPORT
    elif (folder / "checkpoints").is_dir():
        raise UserError(f"{folder} holds a run that is not exported yet: --mode export --workdir {folder}")
    meta, arrays = _read(folder)
    config, model = ConfigDict(meta.config), model_of(meta)
    _fill(model, arrays, folder)
    statistics = Standardization(arrays[f"{STANDARDIZATION}.mean"], arrays[f"{STANDARDIZATION}.std"])
    frontend = None
    if config.model.frontend:  # an export made before there was `kernels` has no such key
        use = config.model.get("kernels", "auto") == "auto"
        frontend = LogMelFrontend(config.model.frontend, platform_kernels=use)
    return ExportedModel(model, Inputs(config, meta.stored_shape, frontend, statistics), meta)


def _read(folder: Path) -> tuple[CheckpointMeta, dict[str, np.ndarray]]:
    """Reads the files of an export; the standardization, which `config.json` leaves out, is among the weights."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        saved, labels = (json.loads((folder / name).read_text()) for name in (CONFIG, LABELS))
        arrays = load_file(folder / WEIGHTS)
        statistics = {name: arrays[f"{STANDARDIZATION}.{name}"].tolist() for name in ("mean", "std")}
        return CheckpointMeta.from_json({**saved, "genres": labels, STANDARDIZATION: statistics}), arrays
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} does not hold a complete export ({type(error).__name__}: {error})") from error


def _fill(model: BagClassifier, arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    """Gives a model the weights and moving averages of an export, under the names that the model gives them."""
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
