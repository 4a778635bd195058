"""A saved model: what it says of itself, and how an export is loaded and scores clips. No Optax, no Orbax."""

import dataclasses
import functools
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mgc_jax.data.bags import Bags, numbered_bags
from mgc_jax.data.frontend import LogMelFrontend
from mgc_jax.data.inputs import Inputs
from mgc_jax.data.on_disk import all_finite
from mgc_jax.data.placement import HostClips
from mgc_jax.data.standardization import Standardization
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import BagClassifier, build_model, split_model
from mgc_jax.models.genre_tree import check_parents
from mgc_jax.models.layers import ENDLESS, Count
from mgc_jax.probe import Probe, require_same_scores
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import data_mesh, replicate
from mgc_jax.runtime.environment import code_version
from mgc_jax.runtime.xla_flags import warn_without_cpu_flags
from mgc_jax.scoring import BagScores, Scorer
from tfds_fma.paths import local_path

if TYPE_CHECKING:
    from mgc_jax.songs.predict import SongPredictions

log = logging.getLogger(__name__)


EXPORT, WEIGHTS, LABELS, CONFIG = "export", "weights.safetensors", "labels.json", "config.json"


STANDARDIZATION = "standardization"


STATE_VERSION = 2  # of the form of the training state: see `training.state.from_version_1`


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
        genre_parents: int [genre]: of a multi-label model, the genre above each, -1 where there is none; empty: a clip
            has one genre.
        stored_shape: of a clip of the corpus.
        clip_shape: of the encoder's input.
        adjustment: float [genre]: post-hoc logit adjustment of the scores.
        standardization: `mean` and `std` of the training clips, float [mel] or [feature].
        seconds: time spent on each part of the run so far.
        init_from: where the initial weights came from (`config.train.init_from`): `path`, `step`, `corpus`,
            `fingerprint`, and `reset`, the parts of the model that were drawn at random; None: drawn at random.
        window: sums of the train steps that were not logged yet, of a run stopped between log lines.
        gru_form: how the GRUs were computed, as `models.recurrent.gru_form` says it; empty: no GRU, or not recorded.
        devices: the devices that trained, such as "2 x cpu, 2 threads"; empty: not recorded.
        code: what trained, as `runtime.environment.code_version` says it; empty: not recorded.
        probe: log scores [bag, genre] of fixed clips (`mgc_jax.probe`); empty: not recorded.
        state_version: `STATE_VERSION` of the program that wrote it.
        resampler: what resampled the audio that it was trained on, as in `Corpus`; other audio is to be resampled in
            the same way; empty: not recorded.
        clips_digest: of all clips of the corpus, as in `Corpus`; empty: they were on the disk, or not recorded.
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
    gru_form: str = ""
    devices: str = ""
    code: str = ""
    probe: tuple[Sequence[float], ...] = ()
    state_version: int = 1  # of those that do not say
    resampler: str = ""
    clips_digest: str = ""
    step: int | None = None
    best_step: int | None = None
    genre_parents: tuple[int, ...] = ()
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

    Clips are scored in chunks, as in evaluation: at most the run's `eval.batch_clips` at once. Chunks have few sizes,
    and a call compiles only where it needs one that no call before it needed.

    Attributes:
        model: the model, with its weights. Those of the first call are used from then on.
        inputs: turns stored clips into its input.
        meta: what it says of itself: configuration, labels, shapes, corpus.
        mesh: the devices that score; by default those of this process.
    """

    model: BagClassifier
    inputs: Inputs
    meta: CheckpointMeta
    mesh: jax.sharding.Mesh = dataclasses.field(default_factory=lambda: data_mesh(jax.local_devices()))

    @property
    def genres(self) -> tuple[str, ...]:
        """Label names, in the order of the scores."""
        return self.meta.genres

    @property
    def adjustment(self) -> np.ndarray:
        """float32 [genre]: post-hoc logit adjustment of the scores."""
        return np.array(self.meta.adjustment, np.float32)

    def __call__(
        self, clips: np.ndarray, segment: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores clips; apart from the results, memory does not grow with their number.

        Args:
            clips: [clip, ...] in the form of the corpus it was trained on (not standardized): spectrograms,
                features or audio.
            segment: int [clip]: number of the bag of each clip, from 0; None: every clip is a bag of its own.

        Returns:
            Log scores float32 [bag, genre] (of a multi-label model log odds, whose sigmoid is a probability), and
            `aux`: `embedding` float32 [clip, feature], and `attention` float32 [bag, (genre,) clip] where bags were
            given, 0 for the clips of other bags. Of 1000 bags, 16 genres and 10,000 clips it would fill 640 MB.

        Raises:
            UserError: clips of another shape or with values that are not finite, bags that are not numbered from 0,
                or one too long.
        """
        stored = self.meta.stored_shape
        if clips.shape[1:] != stored or len(clips) == 0:
            raise UserError(f"clips of shape {clips.shape}: this model takes [clip, {', '.join(map(str, stored))}]")
        damaged = next((i for i, clip in enumerate(clips) if not all_finite(np.asarray(clip))), None)
        if damaged is not None:
            raise UserError(f"clip {damaged} has values that are not finite (NaN or infinity); leave it out")
        each = np.arange(len(clips))
        bags = _bags(each if segment is None else np.asarray(segment), len(clips))
        embeddings = self.embed(clips)
        if segment is None:
            return self.score_bags(embeddings, bags).scores, {"embedding": embeddings}
        scores, weights = self.score_bags(embeddings, bags)
        attention = np.zeros((len(bags), *weights.shape[1:], len(clips)), np.float32)
        attention[segment, ..., each] = weights
        return scores, {"embedding": embeddings, "attention": attention}

    def embed(self, clips: np.ndarray) -> np.ndarray:
        """Returns the embeddings float32 [clip, feature] of clips as a call takes them; nothing is checked."""
        placed = HostClips(np.asarray(clips), self.mesh)
        return self._scorer.embed(*self._weights, placed, np.arange(len(clips)))

    def score_bags(self, embeddings: np.ndarray, bags: Bags) -> BagScores:
        """Scores bags of embeddings [clip, feature]; every clip is in one of the bags."""
        return self._scorer.score(*self._weights, embeddings, bags)

    def predict(self, paths: Sequence[str | Path], **options: Any) -> "SongPredictions":
        """Classifies audio files and albums; see `mgc_jax.songs.predict.predict_songs` for the options.

            table = model.predict(["song.mp3", "album/"])
            print([table.genre(song.scores) for song in table.songs])

        Raises:
            UserError: the model cannot take audio, or there is no audio file.
        """
        from mgc_jax.songs.predict import predict_songs  # which needs the decoders

        return predict_songs(self, paths, **options)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        batch_clips = self.meta.config["eval"]["batch_clips"]
        return Scorer(
            self.model, self.inputs, self.mesh, batch_clips, self.adjustment, parents=self.meta.genre_parents
        )

    @functools.cached_property
    def _weights(self) -> tuple[Any, Any]:
        """Weights and batch statistics, on the devices."""
        _, params, batch_stats = split_model(self.model)
        return replicate((params, batch_stats), self.mesh)


def _bags(segment: np.ndarray, clips: int) -> Bags:
    """Returns bags by the bag's number of each clip, [clip]; their labels are not known."""
    numbers = np.unique(segment)
    if segment.shape != (clips,) or not np.array_equal(numbers, np.arange(len(numbers))):
        raise UserError(f"segment must hold the bag of each of the {clips} clips, bags numbered from 0")
    return numbered_bags(segment)


def model_of(meta: CheckpointMeta) -> BagClassifier:
    """Builds the model that a checkpoint or an export describes, with weights still to be filled in.

    Raises:
        ValueError: the parents of its genres are no tree.
    """
    check_parents(meta.genre_parents, len(meta.genres))
    return build_model(
        ConfigDict(meta.config["model"]), meta.clip_shape, len(meta.genres),
        subgenre_parents=meta.subgenre_parents, multi_label=bool(meta.genre_parents), seed=0,
    )  # fmt: skip


def with_weights(model: BagClassifier, params: Any, batch_stats: Any) -> BagClassifier:
    """Returns a model of the same structure with other weights and batch statistics."""
    graph, *_ = split_model(model)
    return nnx.merge(graph, params, batch_stats)


def inputs_of(meta: CheckpointMeta) -> Inputs:
    """Builds what turns stored clips into the input of the model that a checkpoint or an export describes."""
    config = ConfigDict(meta.config)
    mean, std = (np.array(meta.standardization[name], np.float32) for name in ("mean", "std"))
    frontend = None
    if config.model.frontend:  # an export made before there was `kernels` has no such key
        use = config.model.get("kernels", "auto") != "plain"
        frontend = LogMelFrontend(config.model.frontend, platform_kernels=use)
    return Inputs(config, meta.stored_shape, frontend, Standardization(mean, std))


def check_weights(meta: CheckpointMeta, probe: Probe, params: Any, batch_stats: Any, what: str) -> None:
    """Raises `ChangedCodeError` if restored weights give other scores than when they were saved.

    Args:
        meta: what was saved with them.
        probe: of the model as it is now.
        params: the weights.
        batch_stats: the batch statistics.
        what: names the weights.
    """
    if not meta.probe:
        return
    exact = meta.config["model"]["dtype"] == "float32" and " x cpu" in meta.devices and platform.on_cpu()
    require_same_scores(
        meta.probe, probe(params, batch_stats), coarse=not exact, what=what, code=(meta.code, code_version())
    )


def load_export(folder: str | Path) -> ExportedModel:
    """Loads an exported model; see `mgc_jax.loading.load_model`, which takes the folders of runs too.

    Args:
        folder: what `--mode export` wrote.

    Raises:
        UserError: a file is missing or damaged, or the weights belong to another model.
    """
    warn_without_cpu_flags()
    folder = local_path(folder)
    meta, arrays = _read(folder)
    try:
        model, inputs = model_of(meta), inputs_of(meta)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} does not describe a model ({type(error).__name__}: {error})") from error
    _fill(model, arrays, folder)
    _, params, batch_stats = split_model(model)
    check_weights(meta, Probe(model, inputs, meta.stored_shape), params, batch_stats, f"the export in {folder}")
    return ExportedModel(model, inputs, meta)


def _read(folder: Path) -> tuple[CheckpointMeta, dict[str, np.ndarray]]:
    """Reads the files of an export; the standardization, which `config.json` leaves out, is among the weights."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        saved, labels = (json.loads((folder / name).read_text()) for name in (CONFIG, LABELS))
        arrays = load_file(folder / WEIGHTS)
        statistics = {name: arrays[f"{STANDARDIZATION}.{name}"].tolist() for name in ("mean", "std")}
        meta = CheckpointMeta.from_json({"genres": labels, **saved, STANDARDIZATION: statistics})
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} does not hold a complete export ({type(error).__name__}: {error})") from error
    if list(meta.genres) != labels:
        raise UserError(f"{folder / LABELS} is not of this model, whose genres are {', '.join(meta.genres)}")
    return meta, arrays


def _fill(model: BagClassifier, arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    """Gives a model the weights and moving averages of an export, under the names that the model gives them."""
    state = nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat))
    flat = dict(nnx.to_flat_state(state))
    expected = {".".join(map(str, path)): path for path in flat}
    # An export of before there were counts holds averages whose start was forgotten.
    given = {name: np.array(ENDLESS, np.float32) for name, path in expected.items() if isinstance(flat[path], Count)}
    given |= {name: array for name, array in arrays.items() if not name.startswith(STANDARDIZATION)}
    if expected.keys() != given.keys():
        odd = sorted(expected.keys() ^ given.keys())
        raise UserError(
            f"{folder / WEIGHTS} belongs to another model than {CONFIG} describes: {', '.join(odd[:3])} ..."
        )
    for name, path in expected.items():
        if flat[path][...].shape != given[name].shape:
            raise UserError(
                f"{folder / WEIGHTS} belongs to another model than {CONFIG} describes: {name} has shape "
                f"{given[name].shape} there, {flat[path][...].shape} here"
            )
        flat[path] = flat[path].replace(jnp.asarray(given[name]))
    nnx.update(model, nnx.from_flat_state(flat))
