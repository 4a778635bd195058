"""What a model takes of an audio file, and the decoding of many files in worker processes."""

import concurrent.futures
import contextlib
import functools
import logging
import math
from collections.abc import Generator, Iterable
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
    return found


def warn_of_other_resampler(meta: Any, representation: AudioRepresentation | FeatureVector) -> None:
    """Warns if the model was trained on audio that another version of the resampler made."""
    if isinstance(representation, FeatureVector) or not meta.resampler or "unknown" in meta.resampler:
        return
    now = implementation(representation.resampler)
    if meta.resampler != now:
        log.warning(
            "warning: the model was trained on audio resampled with %s, these songs are resampled with %s; the upper "
            "mel bands may differ by some dB",
            meta.resampler,
            now,
        )


def first_task(song: int, path: Path, hop: float) -> Task:
    """Returns the first task of a song."""
    return Task(song, path, 0, _windows_per_task(hop))


def further_tasks(task: Task, windows: Windows, hop: float) -> list[Task]:
    """Returns the tasks of a song after the first one; none if that came to the end of the file."""
    most = _windows_per_task(hop)
    if len(windows.start) < most:
        return []
    parts = max(2, math.ceil(windows.told / (hop * most)))
    # The header may tell too little.
    return [task._replace(first=part * most, most=most if part < parts - 1 else None) for part in range(1, parts)]


def _windows_per_task(hop: float) -> int:
    return max(1, min(_TASK_WINDOWS, int(_TASK_SECONDS / hop)))


def decoded(
    tasks: Iterable[Task],
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
