"""Finds and reads prepared datasets.

`find_prepared` and `class_names` are quick; the others import TFDS.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma.errors import UserError, in_words
from tfds_fma.source.tracks import SPLITS
from tfds_fma.storage import layout

if TYPE_CHECKING:
    import numpy as np

    from tfds_fma.storage.records import ClipRecords

# Records decoded at a time: many enough to amortise the call, few enough to add nothing to memory.
_BATCH = 256

# Columns whose values are not of one size.
_OBJECTS = ("title", "artist", "subset", "genres_all")


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
    return _read(path, (split,))


def read_dataset(path: str | Path) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    """Reads all splits, train first, into one array; otherwise as `read_split`."""
    return _read(path, tuple(SPLITS.values()))


def stored_bytes(path: str | Path) -> int:
    """Returns the size of all clips of a prepared dataset, without reading them."""
    import math

    builder = _open_builder(path)
    clip = builder.info.features["clip"]
    clips = sum(split.num_examples for split in builder.info.splits.values())
    return clips * math.prod(clip.shape) * clip.np_dtype.itemsize


def open_dataset(path: str | Path) -> tuple[dict[str, "np.ndarray"], "ClipRecords"]:
    """Reads the columns of all splits, train first, and leaves the clips on the disk; otherwise as `read_dataset`.

    The columns are in the records of the clips, so that one pass over the files is made all the same.
    """
    import tensorflow_datasets as tfds

    from tfds_fma.storage.records import ClipRecords

    builder = _open_builder(path)
    with _damage_explained(path):
        infos = [builder.info.splits[split] for split in SPLITS.values() if split in builder.info.splits]
        features = builder.info.features
        clips = ClipRecords(
            [file for info in infos for file in info.filepaths],
            [length for info in infos for length in info.shard_lengths],
            features["clip"].shape,
            features["clip"].np_dtype,
        )
        # What is not named here is not decoded.
        others = tfds.features.FeaturesDict({name: features[name] for name in features if name != "clip"})
        columns = _empty_columns(features, {info.name: info.num_examples for info in infos})
        for row in range(len(columns["split"])):
            _fill_row(columns, row, others.deserialize_example_np(clips.record(row)))
    return columns, clips


def _read(path: str | Path, splits: tuple[str, ...]) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    builder = _open_builder(path)
    with _damage_explained(path):
        return _read_splits(builder, [split for split in splits if split in builder.info.splits])


def _read_splits(builder: Any, splits: list[str]) -> tuple[dict[str, "np.ndarray"], "np.ndarray"]:
    import numpy as np

    features = builder.info.features
    sources = {split: builder.as_data_source(split=split) for split in splits}
    columns = _empty_columns(features, {split: len(source) for split, source in sources.items()})
    clips = np.empty((len(columns["split"]), *features["clip"].shape), features["clip"].np_dtype)
    row = 0
    for source in sources.values():
        for start in range(0, len(source), _BATCH):
            for example in source.__getitems__(list(range(start, min(start + _BATCH, len(source))))):
                clips[row] = example.pop("clip")
                _fill_row(columns, row, example)
                row += 1
    return columns, clips


def _empty_columns(features: Any, sizes: Mapping[str, int]) -> dict[str, "np.ndarray"]:
    """Returns columns to be filled, and `split`, for splits of these sizes."""
    import numpy as np

    size = sum(sizes.values())
    columns = {
        name: np.empty(size, object if name in _OBJECTS else feature.np_dtype)
        for name, feature in features.items()
        if name != "clip"
    }
    columns.setdefault("subset", np.full(size, "", object))  # a dataset from before there was this field
    columns["split"] = np.repeat(list(sizes), list(sizes.values())).astype(str)
    return columns


def _fill_row(columns: dict[str, "np.ndarray"], row: int, example: Mapping[str, Any]) -> None:
    for name, value in example.items():
        columns[name][row] = value.decode() if isinstance(value, bytes) else value


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
def _damage_explained(path: str | Path) -> Iterator[None]:
    """Turns whatever TFDS, Protocol Buffers and ArrayRecord raise about damaged files into a UserError."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        folder = Path(path).absolute()
        raise UserError(f"The dataset in {folder} is damaged ({in_words(error)}). {layout.remedy(folder)}") from error
