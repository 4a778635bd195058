"""Spectrograms of whole songs, put together from the windows that a model takes."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from mgc_jax.report.charts import spectrogram_picture
from tfds_fma.clips.windows import Windows

_COLUMNS_PER_SECOND = 10
_MOST_COLUMNS = 1200  # of a picture; twice as many are kept


@dataclasses.dataclass
class _Song:
    """What is kept of a song.

    Attributes:
        columns: float16 [column, mel]; NaN where no window was.
        rate: columns per second.
    """

    columns: np.ndarray
    rate: float = _COLUMNS_PER_SECOND


class Pictures:
    """Keeps so many columns of each song and no more: those of a longer one are fewer per second."""

    def __init__(self, window: float, spectrograms: Callable[[np.ndarray], np.ndarray | None]):
        """Has no song yet.

        Args:
            window: length of a window, s.
            spectrograms: stored clips [clip, ...] -> [clip, frame, mel]; None: there are none.
        """
        self._window, self._spectrograms = window, spectrograms
        self._songs: dict[int, _Song] = {}

    def add(self, song: int, windows: Windows) -> None:
        """Takes windows of a song, in the order of time."""
        if not len(windows.clips) or (spectrograms := self._spectrograms(windows.clips)) is None:
            return
        kept = self._songs.setdefault(song, _Song(np.empty((0, spectrograms.shape[2]), np.float16)))
        for start, spectrogram in zip(windows.start.tolist(), spectrograms, strict=True):
            while (start + self._window) * kept.rate > 2 * _MOST_COLUMNS:
                kept.columns, kept.rate = _halved(kept.columns), kept.rate / 2
            begin = round(start * kept.rate)
            end = max(begin + 1, round((start + self._window) * kept.rate))
            part = thinned(spectrogram, end - begin)
            kept.columns = _lengthened(kept.columns, end)
            kept.columns[begin:end] = part[np.arange(end - begin) * len(part) // (end - begin)]

    def picture(self, song: int, seconds: float) -> str | None:
        """Returns the spectrogram of a song as a PNG in a data URI, from 0 to `seconds`; None: there is none.

        Where windows overlap the later one is seen; what no window covers has the colour of silence.
        """
        if song not in self._songs:
            return None
        kept = self._songs[song]
        length = max(1, math.ceil(seconds * kept.rate))
        whole = _lengthened(kept.columns, length)[:length].astype(np.float32)
        whole[np.isnan(whole)] = np.nanmin(kept.columns)
        return spectrogram_picture(thinned(whole, _MOST_COLUMNS))


def _halved(columns: np.ndarray) -> np.ndarray:
    """Returns the means of pairs of columns [column, mel]; where one is NaN, the other."""
    pairs = _lengthened(columns, len(columns) + len(columns) % 2).reshape(-1, 2, columns.shape[1])
    means = pairs.mean(axis=1)
    return np.where(np.isnan(means), np.fmax(pairs[:, 0], pairs[:, 1]), means)


def _lengthened(columns: np.ndarray, length: int) -> np.ndarray:
    """Returns at least so many columns [column, mel]; those behind the last one are NaN."""
    more = np.full((max(0, length - len(columns)), columns.shape[1]), np.nan, columns.dtype)
    return np.concatenate([columns, more]) if len(more) else columns


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Returns the means of `most` successive groups of the rows [row, column], float32; of fewer rows, them."""
    groups = min(most, len(values))
    begins = np.arange(groups) * len(values) // groups
    sizes = np.diff(np.append(begins, len(values)))
    return np.add.reduceat(values.astype(np.float32), begins) / sizes[:, None].astype(np.float32)
