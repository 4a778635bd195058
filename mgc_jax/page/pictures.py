"""Spectrograms of whole songs, put together from the windows that a model takes."""

import math
from collections import defaultdict
from collections.abc import Callable

import numpy as np

from mgc_jax.report.charts import spectrogram_picture
from tfds_fma.clips.windows import Windows

_COLUMNS_PER_SECOND = 10
_MOST_COLUMNS = 1200


class Pictures:
    """Keeps little of each window, so that memory hardly grows with the length of songs."""

    def __init__(self, window: float, spectrograms: Callable[[np.ndarray], np.ndarray | None]):
        """Has no song yet.

        Args:
            window: length of a window, s.
            spectrograms: stored clips [clip, ...] -> [clip, frame, mel]; None: there are none.
        """
        self._window, self._columns = window, math.ceil(window * _COLUMNS_PER_SECOND)
        self._spectrograms = spectrograms
        self._parts: dict[int, list[tuple[float, np.ndarray]]] = defaultdict(list)

    def add(self, song: int, windows: Windows) -> None:
        """Takes windows of a song, in the order of time."""
        if not len(windows.clips) or (spectrograms := self._spectrograms(windows.clips)) is None:
            return
        for start, spectrogram in zip(windows.start, spectrograms, strict=True):
            self._parts[song].append((float(start), thinned(spectrogram, self._columns)))

    def picture(self, song: int, seconds: float) -> str | None:
        """Returns the spectrogram of a song as a PNG in a data URI, from 0 to `seconds`; None: there is none.

        Where windows overlap the later one is seen; what no window covers has the colour of silence.
        """
        if not self._parts[song]:
            return None
        quietest = min(part.min() for _, part in self._parts[song])
        mels = self._parts[song][0][1].shape[1]
        whole = np.full((max(1, math.ceil(seconds * _COLUMNS_PER_SECOND)), mels), quietest, np.float32)
        for start, part in self._parts[song]:
            begin, end = (round(time * _COLUMNS_PER_SECOND) for time in (start, start + self._window))
            columns = np.arange(begin, min(end, len(whole)))  # of the whole
            whole[columns] = part[(columns - begin) * len(part) // (end - begin)]
        return spectrogram_picture(thinned(whole, _MOST_COLUMNS))


def thinned(values: np.ndarray, most: int) -> np.ndarray:
    """Returns the means of `most` successive groups of the rows [row, column], float32; of fewer rows, them."""
    groups = min(most, len(values))
    begins = np.arange(groups) * len(values) // groups
    sizes = np.diff(np.append(begins, len(values)))
    return np.add.reduceat(values.astype(np.float32), begins) / sizes[:, None].astype(np.float32)
