"""What a model takes of an audio file, and the decoding of many files in worker processes."""

import concurrent.futures
import contextlib
import functools
import logging
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mgc_jax.errors import UserError
from tfds_fma.clips.resampling import implementation
from tfds_fma.clips.windows import Windows, cut_windows
from tfds_fma.errors import ClipError
from tfds_fma.parallel import ordered_map
from tfds_fma.representations.audio import Audio
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.feature_names import groups_of
from tfds_fma.representations.feature_vector import FeatureVector
from tfds_fma.representations.registry import get_representation

log = logging.getLogger(__name__)

# A task of a worker process: so many seconds of a file, in at most so many windows. Longer files are several tasks, so
# that memory does not grow with their length.
_TASK_SECONDS, _TASK_WINDOWS = 600.0, 32


class Task(NamedTuple):
    """Some windows of a song.

    Attributes:
        song: its number.
        path: its file.
        first: number of the first window.
        most: number of windows at most; None: to the end of the file.
    """

    song: int
    path: Path
    first: int
    most: int | None


def representation_of(meta: Any) -> AudioRepresentation | FeatureVector:
    """Returns what a model takes of the audio of a song.

    Args:
        meta: what the model says of itself (`mgc_jax.inference.CheckpointMeta`).

    Raises:
        UserError: it was trained on arrays, and how they were computed from audio is not known.
    """
    data, frontend = meta.config["data"], meta.config["model"]["frontend"]
    found: Any = None
    if meta.corpus == "arrays" and frontend:
        spectrogram: Any = get_representation(frontend)
        found = Audio(spectrogram.sample_rate, length=meta.stored_shape[0])
    elif meta.corpus != "arrays":
        with contextlib.suppress(UserError):  # the name of arrays that were packaged
            found = get_representation(data["representation"])
    if found is None:
        raise UserError(
            f"this model was trained on arrays ({data['arrays']['clips'] or data['representation']}). How they were "
            "computed from audio is not known, so it cannot take audio files. Compute the same arrays from them and "
            "give these to the model (mgc_jax.load_model), or train on a representation of tfds_fma.prepare."
        )
    if isinstance(found, FeatureVector) and data["features"]:
        found = FeatureVector(found.name, groups_of(data["features"]))
    if tuple(found.shape) != tuple(meta.stored_shape):
        raise UserError(
            f"this model takes clips of {' x '.join(map(str, meta.stored_shape))}, but {found.name} has "
            f"{' x '.join(map(str, found.shape))}: it was trained with another version of mgc-jax"
        )
    if not isinstance(found, FeatureVector):
        now = implementation(found.resampler)
        if meta.resampler and meta.resampler != now:
            _warn_of_resampler(meta.resampler, now)
    return found


@functools.cache  # once: every song would say it again
def _warn_of_resampler(trained_on: str, now: str) -> None:
    log.warning(
        "warning: the model was trained on audio resampled with %s, these songs are resampled with %s; the upper mel "
        "bands may differ by some dB",
        trained_on,
        now,
    )


def tasks_of(song: int, path: Path, seconds: float | None, hop: float) -> list[Task]:
    """Divides a song into tasks; `seconds` is its length where that is known."""
    most = max(1, min(_TASK_WINDOWS, int(_TASK_SECONDS / hop)))
    number = max(1, math.ceil((seconds or 0) / (hop * most)))
    return [Task(song, path, part * most, most if part < number - 1 else None) for part in range(number)]


def decoded(
    tasks: Iterator[Task],
    representation: AudioRepresentation | FeatureVector,
    hop: float,
    workers: int | None,
    pool: concurrent.futures.Executor | None = None,
) -> Generator[tuple[Task, Windows | ClipError], None, None]:
    """Yields the windows of each task in order, or the error that its file gave; decoded in worker processes."""
    yield from ordered_map(functools.partial(_windows, representation, hop), tasks, workers, pool=pool)


def _windows(
    representation: AudioRepresentation | FeatureVector, hop: float, task: Task
) -> tuple[Task, Windows | ClipError]:
    try:
        return task, cut_windows(task.path, representation, hop, first=task.first, most=task.most)
    except ClipError as error:
        return task, error
