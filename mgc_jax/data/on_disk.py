"""Clips that stay on the disk: they look like an array, and are read when they are indexed.

What is pickled to a worker process is small, and this file imports neither JAX nor TFDS.
"""

import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from mgc_jax.errors import UserError
from mgc_jax.runtime.memory import SHARE
from tfds_fma.storage.records import Stamp

log = logging.getLogger(__name__)


def stays_on_disk(placement: str, stored: int, available: int | None) -> bool:
    """Whether to stream clips: placement "stream", or "auto" and too large for memory.

    Args:
        placement: auto, device, host or stream.
        stored: bytes of all clips.
        available: bytes of free memory; None: unknown, taken as enough.
    """
    if placement != "auto" or available is None or stored <= SHARE * available:
        return placement == "stream"
    log.info(
        "the clips take %.1f GiB, more than %.0f %% of the %.1f GiB of memory that are free: they stay on the disk, "
        "and batches are read from there (config.data.placement=stream)",
        stored / 2**30, 100 * SHARE, available / 2**30,
    )  # fmt: skip
    return True


class ClipStore(Protocol):
    """Where clips lie.

    Attributes:
        shape: [clip, ...] of all clips.
        dtype: of the clips.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def read(self, row: int, out: np.ndarray) -> None:
        """Reads a clip, or as many of its first entries as `out` has room for; raises `UserError`."""


class ArrayFile:
    """The clips of an .npy file, read one by one.

    Not a memory map: if the file is cut off while it is mapped, the system kills the process, without a word.

    Attributes:
        shape: [clip, ...] of all clips, time before mel.
        dtype: of the clips.
    """

    def __init__(self, mapped: np.memmap, mel_first: bool, name: Callable[[int], str]):
        """Opens the file and remembers its state.

        Args:
            mapped: all clips, as they are stored.
            mel_first: they are stored as [clip, mel, time].
            name: names the clip of a row in messages.

        Raises:
            UserError: the clips do not lie one after the other.
        """
        self._path, self._offset, self._name = str(mapped.filename), mapped.offset, name
        if not mapped.flags.c_contiguous:
            raise UserError(f"{self._path} is in Fortran order: save numpy.ascontiguousarray of it")
        self._stored_shape, self._mel_first = mapped.shape[1:], mel_first
        self.shape = (len(mapped), *(self._stored_shape[::-1] if mel_first else self._stored_shape))
        self.dtype = mapped.dtype
        self._stamp = Stamp.of(self._path)
        self._file = self._open()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_file"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._file = self._open()

    def __del__(self) -> None:
        if "_file" in self.__dict__:
            os.close(self._file)

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror or error}") from error

    def read(self, row: int, out: np.ndarray) -> None:
        """Reads a clip, or as many of its first frames as `out` has room for.

        Raises:
            UserError: the file is gone, has changed, or cannot be read; or the clip has infinities or NaNs.
        """
        size = int(np.prod(self._stored_shape)) * self.dtype.itemsize
        whole = not self._mel_first and out.flags.c_contiguous
        values = out if whole else np.empty(self._stored_shape, self.dtype)
        try:
            state = os.fstat(self._file)
            if (state.st_size, state.st_mtime_ns) != self._stamp:
                raise UserError(
                    f"{self._path} has changed since it was opened. Leave it alone while it is being read, and start "
                    "again."
                )
            read = os.preadv(self._file, [values.data.cast("B")], self._offset + row * size)
        except OSError as error:
            raise UserError(f"{self._path} cannot be read: {error.strerror or error}") from error
        if read != values.nbytes:
            raise UserError(f"{self._path} is cut off: the clip of {self._name(row)} cannot be read")
        if not all_finite(values):
            raise UserError(f"{self._path}: the values of {self._name(row)} are not all finite")
        if not whole:
            out[...] = (values.T if self._mel_first else values)[: len(out)]


@dataclasses.dataclass(frozen=True)
class TrackNames:
    """Names clips in messages; a function that can be pickled.

    Attributes:
        track_id: int64 [clip].
    """

    track_id: np.ndarray

    def __call__(self, row: int) -> str:
        """Returns how a message names the clip."""
        return f"track {self.track_id[row]}"


def all_finite(values: np.ndarray) -> bool:
    """Whether there are neither infinities nor NaNs."""
    if values.dtype == np.float16:  # by the exponent's bits: ten times as fast as NumPy's isfinite
        return int((values.view(np.uint16) & 0x7FFF).max()) < 0x7C00
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


class LazyClips:
    """An array [clip, ...] on the disk, of which rows, columns or frames may be left out.

    Attributes:
        shape: as of an array.
        dtype: as of an array.
        fingerprints: the hash of a corpus's table -> fingerprint of the corpus, where it is known without reading
            these clips. Not of their first frames or of some of their columns: those are other clips.
    """

    def __init__(
        self,
        store: ClipStore,
        rows: np.ndarray | None = None,
        frames: int = 0,
        columns: Sequence[int] | np.ndarray | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ):
        """Reads nothing yet.

        Args:
            store: where the clips lie.
            rows: int [clip], which of them; None: all.
            frames: only the first ones; 0: all.
            columns: only these features; None: all.
            fingerprints: what is known of corpora with these very clips.
        """
        self.fingerprints = dict(fingerprints or {})
        self._store, self._rows = store, np.arange(store.shape[0]) if rows is None else rows
        self._columns = None if columns is None else np.asarray(columns)
        clip_shape = (frames or store.shape[1], *store.shape[2:])
        self._read_shape = clip_shape
        self.shape = (len(self._rows), *(clip_shape if columns is None else (len(columns),)))
        self.dtype = np.dtype(store.dtype)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes that all clips would take in memory."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def first_frames(self, frames: int) -> Self:
        """Returns the clips with their first frames alone."""
        return type(self)(self._store, self._rows, frames)

    def take_columns(self, columns: Sequence[int] | np.ndarray) -> Self:
        """Returns the clips with some of their features."""
        return type(self)(self._store, self._rows, columns=columns)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Reads clips: an array [*index, ...] for an int array, [n, ...] for a slice, [...] for a number.

        Raises:
            UserError: they cannot be read.
        """
        rows = np.asarray(self._rows[index])
        clips = np.empty((rows.size, *self._read_shape), self.dtype)
        last, at = -1, -1
        # In the order of the disk; the first clip, which fills empty slots of batches, is read only once.
        for place in np.argsort(rows, axis=None, kind="stable").tolist():
            row = int(rows.flat[place])
            if row == last:
                clips[place] = clips[at]
                continue
            self._store.read(row, clips[place])
            last, at = row, place
        if self._columns is not None:
            clips = clips[:, self._columns]
        return clips.reshape(*rows.shape, *self.shape[1:])


def in_parts(clips: "np.ndarray | LazyClips", step: int, size: int = 64) -> Iterator[np.ndarray]:
    """Yields every `step`-th clip, a few at a time."""
    for start in range(0, len(clips), step * size):
        yield clips[start : start + step * size : step]
