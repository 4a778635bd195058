"""The columns of a prepared dataset in a Parquet file beside the shards: it can be opened without reading clips.

The file repeats what the records say. It holds, besides, which shards it belongs to: their names, sizes, numbers of
records and first bytes, among which ArrayRecord keeps a hash of the first record, and a hash of each of the files that
describe the dataset. Where one of them does not fit, the columns are read from the records.
"""

import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfds_fma.errors import in_words
from tfds_fma.identity import labelled_table, sample_step, table_digest
from tfds_fma.source.tracks import STORED_SPLITS

if TYPE_CHECKING:
    import numpy as np

    from tfds_fma.storage.records import ClipRecords

COLUMNS_FILE = "columns.parquet"

# Written into the file; one of another version is not read.
FORMAT_VERSION = 1

# Files of TFDS that say what the shards hold.
_DESCRIPTION_FILES = ("dataset_info.json", "features.json", "genre.labels.txt")

# Up to the end of the header of a shard's first record, with the hash of that record.
_HEAD_BYTES = 104

# Columns whose values are not of one size.
_OBJECTS = ("title", "artist", "subset", "genres_all")

_NUMBERS = {"track_id": "int64", "genre": "int64", "artist_id": "int64", "album_id": "int64", "duration": "float32"}

_METADATA = b"tfds_fma"


class Unfit(Exception):
    """The columns file cannot be used; the message says why."""


@dataclass(frozen=True)
class StoredColumns:
    """A columns file that fits its shards.

    Attributes:
      columns: [clip] each, of all splits, train first, as `tfds_fma.reading.read_dataset` returns them.
      clips: where the clips lie.
      fingerprints: the hash of a corpus's table (`tfds_fma.identity`) -> fingerprint of that corpus.
    """

    columns: dict[str, "np.ndarray"]
    clips: "ClipRecords"
    fingerprints: dict[str, str]


def splits_of(info: Any) -> list[Any]:
    """Returns TFDS's descriptions of the splits that are there, train first."""
    return [info.splits[split] for split in STORED_SPLITS if split in info.splits]


def clips_of(info: Any) -> "ClipRecords":
    """Returns the clips of all splits, left in their shards, from TFDS's description of a dataset."""
    from tfds_fma.storage.records import ClipRecords

    clip, splits = info.features["clip"], splits_of(info)
    return ClipRecords(
        [file for split in splits for file in split.filepaths],
        [length for split in splits for length in split.shard_lengths],
        clip.shape,
        clip.np_dtype,
    )


def read_columns(info: Any, clips: "ClipRecords") -> dict[str, "np.ndarray"]:
    """Reads the columns from the records, each of which has to be read whole.

    Args:
      info: TFDS's description of the dataset.
      clips: all its clips, from `clips_of`.

    Returns:
      The columns, [clip] each.

    Raises:
      UserError: a shard is damaged.
    """
    import tensorflow_datasets as tfds

    features = info.features
    # What is not named here is not decoded.
    others = tfds.features.FeaturesDict({name: features[name] for name in features if name != "clip"})
    columns = empty_columns(features, {split.name: split.num_examples for split in splits_of(info)})
    for row in range(len(columns["split"])):
        fill_row(columns, row, others.deserialize_example_np(clips.record(row)))
    return columns


def empty_columns(features: Any, sizes: Mapping[str, int]) -> dict[str, "np.ndarray"]:
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


def fill_row(columns: dict[str, "np.ndarray"], row: int, example: Mapping[str, Any]) -> None:
    """Puts the values of an example, as TFDS decodes it, into their columns."""
    for name, value in example.items():
        columns[name][row] = value.decode() if isinstance(value, bytes) else value


def write_columns(folder: str | Path, info: Any) -> None:
    """Writes the columns file of a dataset that is complete, from its records.

    Args:
      folder: of the prepared dataset.
      info: TFDS's description of it.

    Raises:
      UserError: a shard is damaged.
      OSError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet

    folder, clips = Path(folder), clips_of(info)
    columns, genres = read_columns(info, clips), tuple(info.features["genre"].names)
    about = {
        "version": FORMAT_VERSION,
        "description": _description_hashes(folder),
        "splits": [
            {
                "name": split.name,
                "shards": [
                    {"name": Path(file).name, "records": length, **_state(folder / Path(file).name)}
                    for file, length in zip(split.filepaths, split.shard_lengths, strict=True)
                ],
            }
            for split in splits_of(info)
        ],
        "clip": {"shape": list(clips.shape[1:]), "dtype": str(clips.dtype)},
        "fingerprints": dict([_fingerprint(columns, clips, genres)]),
    }
    content = json.dumps(about)
    table = pa.table({name: pa.array(columns[name].tolist(), _arrow_type(name)) for name in _names()})
    table = table.replace_schema_metadata(
        {_METADATA: json.dumps({"hash": _hash(content.encode()), "content": content})}
    )
    # A name of its own: two processes may write at once.
    temporary = folder / f".{COLUMNS_FILE}.{uuid.uuid4().hex}"
    try:
        pyarrow.parquet.write_table(table, temporary, write_page_checksum=True)
        temporary.replace(folder / COLUMNS_FILE)
    finally:
        temporary.unlink(missing_ok=True)


def load_columns(folder: str | Path) -> StoredColumns:
    """Reads the columns file, and no record; imports neither TFDS nor ArrayRecord.

    Args:
      folder: of the prepared dataset.

    Raises:
      Unfit: it is not there, damaged, of another version, or does not belong to these shards.
    """
    folder = Path(folder)
    if not (folder / COLUMNS_FILE).is_file():
        raise Unfit("it is not there")
    try:
        import pyarrow.parquet

        from tfds_fma.storage.records import ClipRecords

        with pyarrow.parquet.ParquetFile(folder / COLUMNS_FILE, page_checksum_verification=True) as file:
            about = _read_about(file.schema_arrow.metadata or {})
            _check_fits(folder, about)
            table = file.read(use_threads=False)
        columns = _columns_of(table, about)
        clip, shards = about["clip"], list(_shards(about))
        clips = ClipRecords(
            [folder.absolute() / shard["name"] for shard in shards],
            [shard["records"] for shard in shards],
            clip["shape"],
            clip["dtype"],
        )
    except (Unfit, MemoryError):
        raise
    except Exception as error:  # whatever Arrow and the system raise about damaged files
        raise Unfit(f"it is damaged ({in_words(error).splitlines()[0]})") from error
    return StoredColumns(columns, clips, about["fingerprints"])


def stored_bytes(clips: "ClipRecords") -> int:
    """Returns the size of all clips in memory."""
    return math.prod(clips.shape) * clips.dtype.itemsize


def _names() -> tuple[str, ...]:
    return (*_NUMBERS, *_OBJECTS, "split")


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    if name in _NUMBERS:
        return pa.from_numpy_dtype(_NUMBERS[name])
    return pa.list_(pa.int64()) if name == "genres_all" else pa.string()


def _columns_of(table: Any, about: Mapping[str, Any]) -> dict[str, "np.ndarray"]:
    """Turns the table into columns as the records give them; raises `Unfit` if it is not what it should be."""
    import numpy as np

    types = {name: _arrow_type(name) for name in _names()}
    if dict(zip(table.schema.names, table.schema.types, strict=True)) != types:
        raise Unfit("it has other columns")
    splits = [(split["name"], sum(shard["records"] for shard in split["shards"])) for split in about["splits"]]
    expected = np.repeat([name for name, _ in splits], [records for _, records in splits]).astype(str)
    if table.column("split").to_pylist() != expected.tolist():
        raise Unfit("its rows are not those of the splits")
    columns = {name: table.column(name).to_numpy() for name in _NUMBERS}
    for name in _OBJECTS:
        columns[name] = np.empty(len(expected), object)
        columns[name][:] = table.column(name).to_pylist()
    return {**columns, "split": expected}


def _read_about(metadata: Mapping[bytes, bytes]) -> dict[str, Any]:
    """Returns what the file says of itself; raises `Unfit` if it is of another version."""
    if _METADATA not in metadata:
        raise Unfit("it is not one of tfds_fma")
    whole = json.loads(metadata[_METADATA])
    if whole["hash"] != _hash(whole["content"].encode()):
        raise Unfit("it is damaged (its metadata have changed)")
    about = json.loads(whole["content"])
    if about["version"] != FORMAT_VERSION:
        raise Unfit(f"it is of version {about['version']}, and this program reads {FORMAT_VERSION}")
    return about


def _check_fits(folder: Path, about: Mapping[str, Any]) -> None:
    """Raises `Unfit` unless the shards and the files that describe them are those of the columns."""
    found = _description_hashes(folder)
    for name, expected in about["description"].items():
        if found[name] != expected:
            raise Unfit(f"it does not belong to this {name}")
    for shard in _shards(about):
        path = folder / shard["name"]
        if not path.is_file() or _state(path) != {"bytes": shard["bytes"], "head": shard["head"]}:
            raise Unfit(f"it does not belong to this {shard['name']}")


def _shards(about: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (shard for split in about["splits"] for shard in split["shards"])


def _description_hashes(folder: Path) -> dict[str, str]:
    return {name: _hash((folder / name).read_bytes()) for name in _DESCRIPTION_FILES}


def _state(shard: Path) -> dict[str, Any]:
    """Looks at a shard without reading a record."""
    with shard.open("rb") as file:
        return {"bytes": shard.stat().st_size, "head": _hash(file.read(_HEAD_BYTES))}


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _fingerprint(
    columns: Mapping[str, "np.ndarray"], clips: "ClipRecords", genres: tuple[str, ...]
) -> tuple[str, str]:
    """Computes the fingerprint of the labelled clips in FMA's splits; returns the table's hash and the fingerprint."""
    import numpy as np

    table = labelled_table(columns, genres)
    shape = (len(table.rows), *clips.shape[1:])
    digest = table_digest(genres, shape, clips.dtype, table)
    key, clip = digest.hexdigest(), np.empty(shape[1:], clips.dtype)
    for row in table.rows[:: sample_step(len(table.rows))]:
        clips.read(int(row), clip)
        digest.update(clip.tobytes())
    return key, digest.hexdigest()
