"""The decoding of many songs in worker processes."""

import collections
import concurrent.futures
import contextlib
import functools
import logging
import math
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tfds_fma.clips.resampling import implementation
from tfds_fma.clips.windows import Windows, cut_windows
from tfds_fma.errors import ClipError
from tfds_fma.parallel import WorkerDied, ordered_map
from tfds_fma.representations.base import AudioRepresentation
from tfds_fma.representations.feature_vector import FeatureVector

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
    """Yields the windows of each task in order, or the error that its file gave; decoded in worker processes.

    Where a worker process dies, what it may have worked on is tried again, one task at a time, and the file on which
    it dies again is an error as others are.
    """
    function = functools.partial(_windows, representation, hop)
    waiting: collections.deque[Task] = collections.deque()

    def noted() -> Iterator[Task]:
        for task in source:
            waiting.append(task)
            yield task

    source = iter(tasks)
    while True:
        try:
            with contextlib.closing(ordered_map(function, noted(), workers, pool=pool)) as results:
                for result in results:
                    waiting.popleft()
                    yield result
            return
        except WorkerDied:
            pool = None  # the next round starts its own
            while waiting:
                task = waiting.popleft()
                try:
                    yield from ordered_map(function, [task], 1)
                except WorkerDied:
                    yield task, ClipError("undecodable", "a decoder crashed on it, or ran out of memory")


def _windows(
    representation: AudioRepresentation | FeatureVector, hop: float, task: Task
) -> tuple[Task, Windows | ClipError]:
    try:
        return task, cut_windows(task.path, representation, hop, first=task.first, most=task.most)
    except ClipError as error:
        return task, error
