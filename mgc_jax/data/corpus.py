"""A corpus: the arrays of all clips and their track table, whatever they came from.

`open_corpus(config.data)` gives FMA as prepared by `tfds_fma`, the demo corpus, or precomputed arrays. What
follows (bags, batches, training, evaluation) sees only a `Corpus`.
"""

import csv
import dataclasses
import functools
import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np

from mgc_jax.errors import UserError
from tfds_fma.labels import GENRES

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
_SPLIT_NAMES = {
    **{name: name for name in SPLITS},
    "training": "train",  # FMA's own word
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
_CLIP_DTYPES = (np.uint8, np.float16, np.float32)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Clips and their track table; row i of every array is clip i.

    Attributes:
        name: what the user calls it: demo, fma_small, fma_medium, arrays.
        genres: label names; `label` indexes them.
        clips: [clip, time, mel] or [clip, feature]; uint8, float16 or float32.
        track_id: int64 [clip].
        label: int32 [clip].
        split: str [clip], one of `SPLITS`.
        artist: str [clip], "" where unknown.
        album: str [clip], "" where unknown.
    """

    name: str
    genres: tuple[str, ...]
    clips: np.ndarray
    track_id: np.ndarray
    label: np.ndarray
    split: np.ndarray
    artist: np.ndarray
    album: np.ndarray

    def __len__(self) -> int:
        return len(self.track_id)

    def indices(self, split: str) -> np.ndarray:
        """Returns the rows of one split, in the corpus's order."""
        return np.flatnonzero(self.split == split)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hash of the table and of a thousand clips: tells two corpora apart."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.genres, self.clips.shape, str(self.clips.dtype))).encode())
        for column in (self.track_id, self.label):
            digest.update(np.ascontiguousarray(column).tobytes())
        for column in (self.split, self.artist, self.album):
            digest.update("\n".join(column.tolist()).encode())
        step = max(1, len(self) // 1000)
        digest.update(np.ascontiguousarray(self.clips[::step]).tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """Returns one line for the log."""
        what = "SYNTHETIC music, " if self.name == "demo" else ""
        counts = ", ".join(f"{len(self.indices(split)):,} {split}" for split in SPLITS)
        return (
            f"corpus {self.name}: {what}{len(self):,} clips of {' x '.join(map(str, self.clips.shape[1:]))} "
            f"({counts}), {len(self.genres)} genres, fingerprint {self.fingerprint}"
        )


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Mean and standard deviation per mel band or feature: float32 [mel] or [feature]."""

    mean: np.ndarray
    std: np.ndarray


def standardization(corpus: Corpus, enabled: bool, max_clips: int = 4096) -> Standardization:
    """Returns the statistics of the training clips (scikit-learn's `StandardScaler` for features).

    Args:
        corpus: the corpus.
        enabled: False gives mean 0 and deviation 1.
        max_clips: of a larger training split, this many clips evenly spaced over it are used.
    """
    width = corpus.clips.shape[-1]
    rows = corpus.indices("train")
    if not enabled or len(rows) == 0:
        return Standardization(np.zeros(width, np.float32), np.ones(width, np.float32))
    if len(rows) > max_clips:
        rows = rows[np.linspace(0, len(rows) - 1, max_clips).astype(int)]
    # Sums of differences from the first clip: E[x^2] - E[x]^2 of values far from zero would cancel.
    shift = corpus.clips[rows[0]].reshape(-1, width).astype(np.float64).mean(axis=0)
    total, squares, count = np.zeros(width), np.zeros(width), 0
    for some in np.array_split(rows, max(1, len(rows) // 64)):
        values = corpus.clips[some].reshape(-1, width).astype(np.float64) - shift
        total += values.sum(axis=0)
        squares += np.square(values).sum(axis=0)
        count += len(values)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    mean += shift
    std[std <= 1e-6 * np.maximum(1, np.abs(mean))] = 1  # a constant feature stays at zero
    return Standardization(mean.astype(np.float32), std.astype(np.float32))


def open_corpus(data: Any) -> Corpus:
    """Opens the corpus that `config.data` names; `auto` must have been resolved with `resolve_auto`.

    Raises:
        UserError: the corpus is not there, or its files do not fit together; the message says what to do.
    """
    corpus = _open_arrays(data.arrays) if data.corpus == "arrays" else _open_fma(data)
    if data.frames:
        if corpus.clips.ndim != 3 or data.frames > corpus.clips.shape[1]:
            raise UserError(
                f"config.data.frames={data.frames}, but a clip of this corpus is "
                f"{' x '.join(map(str, corpus.clips.shape[1:]))} (time x mel). Give 0 for all frames."
            )
        corpus = dataclasses.replace(corpus, clips=corpus.clips[:, : data.frames])
    if len(corpus.indices("train")) == 0:
        raise UserError(f"corpus {data.corpus}: no clip is in the training split, so nothing can be trained")
    return corpus


def resolve_auto(data: Any) -> tuple[str, str]:
    """Returns the corpus to use for `auto` and a sentence that says why, without opening it."""
    if data.corpus != "auto":
        return data.corpus, f"corpus {data.corpus}, as asked"
    from tfds_fma.reading import find_prepared

    for subset in ("medium", "small"):
        found = find_prepared(data.data_dir, subset, data.representation)
        if found:
            return f"fma_{subset}", f"corpus fma_{subset}: prepared FMA found in {found}"
    return "demo", (
        f"corpus demo: SYNTHETIC music, since no prepared FMA is in {Path(data.data_dir).resolve()}; "
        "`python -m tfds_fma.prepare --help` tells how to prepare FMA"
    )


def _open_fma(data: Any) -> Corpus:
    from tfds_fma import demo, reading
    from tfds_fma.errors import FmaError

    try:
        if data.corpus == "demo":
            return _from_tfds("demo", demo.ensure_demo(data.data_dir, log=log.info))
        subset = data.corpus.removeprefix("fma_")
        path = reading.find_prepared(data.data_dir, subset, data.representation)
        if path is None:
            raise UserError(
                f"corpus {data.corpus} with {data.representation} is not prepared in "
                f"{Path(data.data_dir).resolve()}. Get fma_metadata.zip and fma_{subset}.zip (the FMA data set's "
                f"page on GitHub, mdeff/fma, has the addresses), then run: python -m tfds_fma.prepare --source DIR "
                f"--subset {subset} --representation {data.representation} --data_dir {data.data_dir}. Or point "
                "--config.data.data_dir at the folder where it is."
            )
        return _from_tfds(data.corpus, path)
    except FmaError as error:
        raise UserError(str(error)) from error


def _from_tfds(name: str, path: Path) -> Corpus:
    from tfds_fma import reading

    table, clips = reading.read_dataset(path)
    return Corpus(
        name=name,
        genres=tuple(reading.class_names(path)),
        clips=clips,
        track_id=table["track_id"],
        label=table["genre"].astype(np.int32),
        split=table["split"],
        artist=np.where(table["artist_id"] >= 0, table["artist_id"].astype(str), ""),
        album=np.where(table["album_id"] >= 0, table["album_id"].astype(str), ""),
    )


# --- precomputed arrays -------------------------------------------------------------------------------------


def _open_arrays(arrays: Any) -> Corpus:
    table = _read_table(arrays)
    columns = arrays.columns
    track_id = table[columns.track_id]
    if arrays.clips:
        clips, ids = _read_clips(arrays, track_id)
    else:
        clips, ids = _feature_columns(arrays, table), track_id
    rows = _align(arrays, ids, track_id)
    table = {name: values[rows] for name, values in table.items()}

    genre = table[columns.genre].tolist()
    genres = tuple(arrays.genres) or _label_list(set(genre))
    for name, allowed, remedy in (
        (columns.genre, genres, "Correct the table, or set --config.data.arrays.genres"),
        (columns.split, tuple(_SPLIT_NAMES), "Correct the table"),
    ):
        strange = sorted(set(table[name].tolist()) - set(allowed))
        if strange:
            raise UserError(
                f"{arrays.table}: {strange[0]!r} in column {name!r} is not one of {', '.join(allowed)}. {remedy}."
            )
    number = {name: i for i, name in enumerate(genres)}
    return Corpus(
        name="arrays",
        genres=genres,
        clips=clips,
        track_id=ids,
        label=np.array([number[g] for g in genre], np.int32),
        split=np.array([_SPLIT_NAMES[s] for s in table[columns.split].tolist()]),
        artist=_identifiers(table, columns.artist, len(rows)),
        album=_identifiers(table, columns.album, len(rows)),
    )


def _label_list(found: set[str]) -> tuple[str, ...]:
    """Returns FMA's genres that occur, in MATT's order; or the table's own, sorted, if none of them is FMA's.

    Where only some are FMA's, the others are mistakes, and the check that follows names them.
    """
    of_fma = tuple(genre for genre in GENRES if genre in found)
    return of_fma or tuple(sorted(found))


def _read_table(arrays: Any) -> dict[str, np.ndarray]:
    """Reads the columns that the configuration names: track ids as int64 [row], all else as text [row]."""
    path, columns = Path(arrays.table), arrays.columns
    if not arrays.table:
        raise UserError(
            "data.corpus=arrays needs a track table: set --config.data.arrays.table=FILE.csv (and "
            "--config.data.arrays.clips=FILE.npz for the arrays)"
        )
    needed = [columns.track_id, columns.genre, columns.split]
    wanted = [*needed, *arrays.features, *(name for name in (columns.artist, columns.album) if name)]
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            for name in wanted:
                if name not in (reader.fieldnames or ()):
                    raise UserError(
                        f"{path} has no column {name!r}; it has {', '.join(reader.fieldnames or ())}. Name the "
                        "right one with --config.data.arrays.columns.<what>=NAME (artist and album may be empty: "
                        "unknown)."
                    )
            rows = [[(row[name] or "").strip() for name in wanted] for row in reader]
    except FileNotFoundError:
        raise UserError(f"track table {path} does not exist (config.data.arrays.table)") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"track table {path} cannot be read as CSV: {error}") from error
    if not rows:
        raise UserError(f"track table {path} has no rows")
    table = dict(zip(wanted, np.array(rows, dtype=str).T, strict=True))
    ids = table[columns.track_id]
    for name in needed:
        empty = np.flatnonzero(table[name] == "")
        if len(empty):
            raise UserError(
                f"{path}: column {name!r} is empty for track {str(ids[empty[0]])!r} (row {empty[0] + 2}); "
                "drop that row or fill it in"
            )
    try:
        table[columns.track_id] = ids.astype(np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{path}: column {columns.track_id!r} has track ids that are not whole numbers") from None
    values, counts = np.unique(table[columns.track_id], return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{path}: track id {values[counts > 1][0]} occurs more than once")
    return table


def _identifiers(table: dict[str, np.ndarray], column: str, num_rows: int) -> np.ndarray:
    """Returns names or ids as text, "" where unknown (empty, or FMA's -1)."""
    if not column:
        return np.full(num_rows, "")
    return np.where(table[column] == "-1", "", table[column])


def _load_arrays(path: str) -> dict[str, np.ndarray]:
    """Reads an .npy (under the name "") or the members of an .npz."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.endswith(".npy") else None, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist (config.data.arrays)") from None
    except Exception as error:  # zipfile, zlib, pickle and header errors: all mean a file that is damaged or foreign
        raise UserError(f"{path} cannot be read as .npy or .npz: {type(error).__name__}: {error}") from error


def _read_clips(arrays: Any, table_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns clips [clip, time, mel] or [clip, feature], and their track ids."""
    loaded = _load_arrays(arrays.clips)
    ids = loaded.pop(arrays.ids_key, table_ids)
    key = arrays.clips_key or (next(iter(loaded)) if len(loaded) == 1 else None)
    if key not in loaded:
        raise UserError(
            f"{arrays.clips} holds {', '.join(loaded)}; say which one is the clips with "
            "--config.data.arrays.clips_key=NAME"
        )
    clips = loaded[key]
    if arrays.ids:
        (ids,) = _load_arrays(arrays.ids).values()
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{arrays.ids or arrays.clips}: track ids must be whole numbers in one row, not {ids.dtype}")
    axes = arrays.axes.split()
    if clips.ndim != len(axes):
        raise UserError(f"{arrays.clips}: clips have {clips.ndim} axes, but config.data.arrays.axes={arrays.axes!r}")
    if len(ids) != len(clips):
        raise UserError(
            f"{arrays.clips} has {len(clips)} clips but there are {len(ids)} track ids; give the ids with "
            "--config.data.arrays.ids=FILE.npy or make the table's rows match the clips"
        )
    if axes == ["clip", "mel", "time"]:
        clips = np.ascontiguousarray(clips.transpose(0, 2, 1))
    if clips.dtype not in _CLIP_DTYPES:
        raise UserError(f"{arrays.clips}: clips are {clips.dtype}; store them as uint8, float16 or float32")
    _check_finite(arrays.clips, clips, ids)
    return clips, np.asarray(ids).astype(np.int64)


def _feature_columns(arrays: Any, table: dict[str, np.ndarray]) -> np.ndarray:
    if not arrays.features:
        raise UserError(
            "data.corpus=arrays needs clips: set --config.data.arrays.clips=FILE.npz, or "
            "--config.data.arrays.features=\"('column', ...)\" to use columns of the table"
        )
    try:
        features = np.stack([table[name].astype(np.float32) for name in arrays.features], axis=1)
    except ValueError as error:
        raise UserError(f"{arrays.table}: a feature column is not numeric: {error}") from error
    _check_finite(arrays.table, features, table[arrays.columns.track_id])
    return features


def _check_finite(path: str, clips: np.ndarray, ids: np.ndarray) -> None:
    if clips.dtype == np.uint8:
        return
    for start in range(0, len(clips), 256):
        finite = np.isfinite(clips[start : start + 256]).reshape(min(256, len(clips) - start), -1).all(axis=1)
        if not finite.all():
            raise UserError(f"{path}: the values of track {ids[start + int(np.argmin(finite))]} are not all finite")


def _align(arrays: Any, ids: np.ndarray, table_ids: np.ndarray) -> np.ndarray:
    """Returns the table row of every clip; rows without a clip are left out, and the log says how many."""
    order = np.argsort(table_ids)
    found = order[np.minimum(np.searchsorted(table_ids, ids, sorter=order), len(order) - 1)]
    if not np.array_equal(table_ids[found], ids):
        stray = ids[table_ids[found] != ids][0]
        raise UserError(f"{arrays.clips} has track {stray}, which {arrays.table} does not have")
    if len(np.unique(ids)) < len(ids):
        raise UserError(f"{arrays.clips}: a track id occurs more than once")
    if len(ids) < len(table_ids):
        log.info("%d rows of %s have no clip", len(table_ids) - len(ids), arrays.table)
    return found
