"""The clips of a prepared dataset, left in its shards and read when they are asked for.

TFDS's own data source decodes every field of a record; this reads the clip alone, which is two to four times as fast.
"""

import bisect
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfds_fma.errors import UserError, in_words
from tfds_fma.storage import layout

# Without read-ahead and threads of its own: records are read one by one, in any order.
_READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


_READER_BUFFER = 1 << 15


class Stamp(NamedTuple):
    """What changes when a file is written again.

    Attributes:
      size: in bytes.
      time: of the last change, in nanoseconds.
    """

    size: int
    time: int

    @classmethod
    def of(cls, path: str | Path) -> "Stamp":
        """Looks at a file."""
        state = Path(path).stat()
        return cls(state.st_size, state.st_mtime_ns)


class ClipRecords:
    """Random access to the clips in ArrayRecord files; small when it is pickled, and safe to share between threads.

    Attributes:
      shape: [clip, ...] of all clips together.
      dtype: in which they are stored.
    """

    def __init__(
        self, files: Sequence[str | Path], lengths: Sequence[int], clip_shape: Sequence[int], dtype: np.dtype
    ):
        """Opens nothing yet, but remembers the state of the files.

        Args:
          files: the shards of one prepared dataset, in order.
          lengths: records of each.
          clip_shape: of one clip.
          dtype: of the clips.
        """
        self._files = [str(file) for file in files]
        self._ends = list(itertools.accumulate(lengths))
        self._stamps = [Stamp.of(file) for file in self._files]
        self.shape = (sum(lengths), *map(int, clip_shape))
        self.dtype = np.dtype(dtype)
        self._readers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_readers", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _readers={}, _lock=threading.Lock())

    def record(self, row: int) -> bytes:
        """Returns a serialized example.

        Raises:
          UserError: if its file is gone, has changed since this object was made, or cannot be read.
        """
        number = bisect.bisect_right(self._ends, row)
        begin = self._ends[number - 1] if number else 0
        try:
            return self._reader(number).read([row - begin])[0]
        except UserError:
            raise
        except Exception as error:  # ArrayRecord raises RuntimeError, IndexError and others
            raise self._unreadable(number, error) from error

    def read(self, row: int, out: np.ndarray) -> None:
        """Reads one clip, or its first frames, into an array.

        Args:
          row: which one.
          out: takes as many of the clip's first entries as it has room for.

        Raises:
          UserError: as in `record`.
        """
        from tensorflow_datasets.proto import tf_example_pb2

        record = self.record(row)
        try:
            (stored,) = tf_example_pb2.Example.FromString(record).features.feature["clip"].bytes_list.value
            out[...] = np.frombuffer(stored, self.dtype).reshape(self.shape[1:])[: len(out)]
        except Exception as error:  # of Protocol Buffers, and of what is not a clip of this shape
            raise self._unreadable(bisect.bisect_right(self._ends, row), error) from error

    def _reader(self, number: int) -> Any:
        with self._lock:
            if number not in self._readers:
                from array_record.python.array_record_module import ArrayRecordReader

                if Stamp.of(self._files[number]) != self._stamps[number]:
                    raise self._changed(number)
                self._readers[number] = ArrayRecordReader(
                    self._files[number], options=_READER_OPTIONS, file_reader_buffer_size=_READER_BUFFER
                )
            return self._readers[number]

    def _changed(self, number: int) -> UserError:
        return UserError(
            f"{self._files[number]} has changed since the dataset was opened: was it prepared again? Leave it alone "
            "while it is being read, and start again."
        )

    def _unreadable(self, number: int, error: Exception) -> UserError:
        path = Path(self._files[number])
        try:
            if Stamp.of(path) != self._stamps[number]:
                return self._changed(number)
        except FileNotFoundError:
            return UserError(f"{path} has been deleted while it was being read. {layout.remedy(path.parent)}")
        except OSError:
            pass
        reason = in_words(error).splitlines()[0]
        return UserError(f"{path} cannot be read ({reason}): it is damaged. {layout.remedy(path.parent)}")
