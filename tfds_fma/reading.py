"""Finds and reads prepared datasets.

`find_prepared`, `class_names` and `open_prepared` are quick; the others import TFDS, as does `open_prepared` where
there is no columns file that fits (`tfds_fma.storage.columns`).
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma.errors import UserError, in_words
from tfds_fma.representations.base import SOXR, AudioRepresentation
from tfds_fma.representations.registry import get_representation
from tfds_fma.storage import layout
from tfds_fma.storage.columns import (
    COLUMNS_FILE,
    Unfit,
    clips_of,
    empty_columns,
    fill_row,
    load_columns,
    read_columns,
    splits_of,
    stored_bytes,
    write_columns,
)

if TYPE_CHECKING:
    import numpy as np

    from tfds_fma.storage.records import ClipRecords

# Records decoded at a time: many enough to amortise the call, few enough to add nothing to memory.
_BATCH = 256


def find_prepared(data_dir: str | Path, subset: str, representation: str) -> Path | None:
    """Returns the folder of a prepared dataset, or None if it has not been prepared (completely)."""
    path = layout.version_dir(data_dir, subset, representation)
    return path if layout.is_complete(path) else None


def class_names(path: str | Path) -> tuple[str, ...]:
    """Returns the genre names of a prepared dataset; class ids are positions in the tuple."""
    if not layout.is_complete(Path(path)):
        raise UserError(f"{path} holds no prepared dataset. Run python -m tfds_fma.prepare.")
    with _damage_explained(path):
        return tuple((Path(path) / "genre.labels.txt").read_text(encoding="utf-8").splitlines())


def resampler_of(path: str | Path) -> str:
    """Returns what resampled the audio of a prepared dataset, with its version; "" if the clips are not made of audio.

    Datasets of earlier versions do not say so. They were made with soxr HQ, but for arrays that somebody prepared
    under the name of a representation of this package.

    Raises:
      UserError: if the dataset is damaged.
    """
    file = Path(path) / layout.METADATA_FILE
    with _damage_explained(path):
        if file.exists():
            return str(json.loads(file.read_text(encoding="utf-8"))[layout.RESAMPLER])
    try:
        representation = get_representation(Path(path).absolute().parent.name.rpartition("-")[2])
    except UserError:  # the name of precomputed arrays
        return ""
    return f"{SOXR}, version unknown" if isinstance(representation, AudioRepresentation) else ""


def load(path: str | Path) -> Mapping[str, Any]:
    """Opens a prepared dataset.

    Args:
      path: its folder, from `find_prepared` or `tfds_fma.preparation.prepare`.

    Returns:
      Split name -> TFDS data source (random access; ``source[i]`` is a dict of NumPy values, text as bytes).
      A split in which no clip could be used is not there.

    Raises:
      UserError: if there is no prepared dataset, or files of it are missing or cut off.
    """
    builder = _open_builder(path)
    with _damage_explained(path):
        return builder.as_data_source()


def read_split(path: str | Path, split: str) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    """Reads a whole split in one pass.

    Args:
      path: folder of the prepared dataset.
      split: ``train``, ``validation`` or ``test``. One that was left out, for want of a usable clip, reads as empty.

    Returns:
      The columns, each [clip] in the order of the track table: track_id, genre, artist_id, album_id (int64), duration
      (float32, seconds), title, artist, subset (str objects), genres_all (lists of int), split (str); and the clips
      [clip, ...] in the stored type. subset is FMA's label: the smallest subset that has the track, "" if unknown.

    Raises:
      UserError: if there is no prepared dataset, or it is damaged.
    """
    builder = _open_builder(path)
    with _damage_explained(path):
        return _read_splits(builder, [split] if split in builder.info.splits else [])


def read_dataset(path: str | Path) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    """Reads all splits, train first, into one array; otherwise as `read_split`."""
    return open_prepared(path).read()


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset that has been opened, and whose clips have not been read.

    Attributes:
      clips: of all splits, train first, left in their shards.
      fingerprints: the hash of a corpus's table (`tfds_fma.identity`) -> fingerprint of that corpus, as far as the
        columns file has them.
    """

    path: Path
    clips: "ClipRecords"
    fingerprints: Mapping[str, str]
    _stored: "dict[str, np.ndarray] | None"
    _builder: Any

    @property
    def nbytes(self) -> int:
        """The size of all clips."""
        return stored_bytes(self.clips)

    def columns(self) -> dict[str, "np.ndarray"]:
        """Returns the columns, as `read_dataset`: from the columns file, or else from the records, in one pass."""
        if self._stored is not None:
            return dict(self._stored)
        with _damage_explained(self.path):
            return read_columns(self._builder.info, self.clips)

    def read(self) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
        """Returns the columns and all clips, as `read_dataset`; reads every record once."""
        import numpy as np

        if self._stored is None:
            with _damage_explained(self.path):
                return _read_splits(self._builder, [split.name for split in splits_of(self._builder.info)])
        clips = np.empty(self.clips.shape, self.clips.dtype)
        for row, clip in enumerate(clips):
            self.clips.read(row, clip)
        return dict(self._stored), clips


def open_prepared(path: str | Path, log: Callable[[str], None] = lambda line: None) -> Prepared:
    """Opens a prepared dataset; reads no record, and imports TFDS only if there is no columns file that fits.

    Args:
      path: folder of the prepared dataset.
      log: takes a line for people if the columns have to be read from the records.

    Raises:
      UserError: if there is no prepared dataset, or it is damaged. A record that is damaged is found when it is read.
    """
    class_names(path)
    try:
        stored = load_columns(path)
        return Prepared(Path(path), stored.clips, stored.fingerprints, stored.columns, None)
    except Unfit as error:
        builder = _open_builder(path)  # which finds what is damaged
        log(
            f"every record of {path} has to be read for its columns, since {COLUMNS_FILE} cannot be used: {error}. "
            f"{layout.columns_remedy(Path(path))}"
        )
    with _damage_explained(path):
        return Prepared(Path(path), clips_of(builder.info), {}, None, builder)


def open_dataset(
    path: str | Path, log: Callable[[str], None] = lambda line: None
) -> tuple[dict[str, "np.ndarray"], "ClipRecords"]:
    """Returns the columns of all splits, train first, and leaves the clips on the disk.

    Otherwise as `read_dataset`; `log` is that of `open_prepared`.
    """
    prepared = open_prepared(path, log)
    return prepared.columns(), prepared.clips


def add_columns(path: str | Path) -> bool:
    """Writes the columns file of a prepared dataset, unless it is there and fits; reads every record once for it.

    Returns:
      Whether it was written.

    Raises:
      UserError: if there is no prepared dataset, it is damaged, or its folder cannot be written to.
    """
    try:
        load_columns(path)
        return False
    except Unfit:
        builder = _open_builder(path)
    try:
        with _damage_explained(path, (OSError,)):
            write_columns(path, builder.info)
    except OSError as error:
        raise UserError(
            f"Cannot write {COLUMNS_FILE} to {path} ({error.strerror or error}). The dataset can be used all the "
            "same: opening it takes longer. Make room or let the folder be written to, and run the same command again."
        ) from error
    return True


def _read_splits(builder: Any, splits: list[str]) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    import numpy as np

    features = builder.info.features
    sources = {split: builder.as_data_source(split=split) for split in splits}
    columns = empty_columns(features, {split: len(source) for split, source in sources.items()})
    clips = np.empty((len(columns["split"]), *features["clip"].shape), features["clip"].np_dtype)
    row = 0
    for source in sources.values():
        for start in range(0, len(source), _BATCH):
            for example in source.__getitems__(list(range(start, min(start + _BATCH, len(source))))):
                clips[row] = example.pop("clip")
                fill_row(columns, row, example)
                row += 1
    return columns, clips


def _open_builder(path: str | Path) -> Any:
    """Opens a prepared dataset with TFDS and checks that its files are complete.

    Raises:
      UserError: if there is no prepared dataset, or it is damaged.
    """
    names = class_names(path)
    import tensorflow_datasets as tfds

    with _damage_explained(path):
        builder = tfds.builder_from_directory(path)
        if builder.info.features["genre"].num_classes != len(names):
            raise ValueError(f"genre.labels.txt has {len(names)} genres")
        for split in builder.info.splits.values():
            for shard, expected in zip(split.filepaths, split.shard_lengths, strict=True):
                _check_shard(shard, expected)
    return builder


def _check_shard(shard: Path, expected: int) -> None:
    """Raises an error unless a file of records has as many as it should; reads only its index."""
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(shard))
    try:
        if reader.num_records() != expected:
            raise ValueError(f"{shard.name} has {reader.num_records()} of {expected} records")
    finally:
        reader.close()


@contextlib.contextmanager
def _damage_explained(path: str | Path, others: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns whatever TFDS, Protocol Buffers and ArrayRecord raise about damaged files into a UserError.

    Args:
      path: folder of the dataset.
      others: errors that are not about damage, and pass.
    """
    passing: tuple[type[Exception], ...] = (UserError, MemoryError, *others)
    try:
        yield
    except passing:
        raise
    except Exception as error:
        folder = Path(path).absolute()
        raise UserError(f"The dataset in {folder} is damaged ({in_words(error)}). {layout.remedy(folder)}") from error
