"""What the clips of a model were made of, and so what it takes of a song."""

from typing import Any

from mgc_jax.errors import UserError
from tfds_fma.representations.audio import Audio
from tfds_fma.representations.base import AudioRepresentation, Representation
from tfds_fma.representations.feature_names import groups_of
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import get_representation


def recorded_representation(meta: Any) -> Representation | None:
    """Returns what `tfds_fma` computed the clips of a model as; None: they came from arrays, or it was not recorded.

    Args:
        meta: what the model says of itself (`mgc_jax.inference.CheckpointMeta`).
    """
    if meta.corpus == "arrays":
        return None
    try:
        made = get_representation(meta.config["data"]["representation"])
    except UserError:  # the name of precomputed arrays
        return None
    # Arrays can be prepared under such a name, too; nothing resampled them.
    return made if isinstance(made, FeatureVector) or meta.resampler else None


def song_representation(meta: Any) -> AudioRepresentation | FeatureVector:
    """Returns what a model takes of the audio of a song.

    Of a model of the first frames (`config.data.frames`) that is all of the frames.

    Args:
        meta: what the model says of itself.

    Raises:
        UserError: it was trained on arrays, and how they were computed from audio is not known.
    """
    data, frontend = meta.config["data"], meta.config["model"]["frontend"]
    found: Any = recorded_representation(meta)
    if meta.corpus == "arrays" and frontend:
        spectrogram: Any = get_representation(frontend)
        found = Audio(spectrogram.sample_rate, length=meta.stored_shape[0])
    if found is None:
        raise UserError(
            f"this model was trained on arrays ({data['arrays']['clips'] or data['representation']}), or on clips of "
            "which no resampler was recorded. How they were computed from audio is not known, so it cannot take audio "
            "files. Compute the same arrays from them and give these to the model (mgc_jax.load_model), or train on a "
            "representation of tfds_fma.prepare."
        )
    if isinstance(found, FeatureVector) and data["features"]:
        found = FeatureVector(found.name, groups_of(data["features"]))
    shape = tuple(found.shape)
    if data.get("frames"):
        shape = (data["frames"], *shape[1:])
    if shape != tuple(meta.stored_shape):
        raise UserError(
            f"this model takes clips of {' x '.join(map(str, meta.stored_shape))}, but {found.name} has "
            f"{' x '.join(map(str, shape))}: it was trained with another version of mgc-jax"
        )
    return found
