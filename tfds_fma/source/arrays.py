"""Precomputed arrays, such as spectrograms or features in an .npz, and the CSV track table that belongs to them.

`read_arrays` reads both and checks that they fit together. `tfds_fma.clips.sources.arrays_source` makes a dataset of
them.
"""

import csv
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tfds_fma.errors import UserError
from tfds_fma.labels import GENRES, SUBSETS
from tfds_fma.source.tracks import SPLITS, UNKNOWN_ID

AXES = ("clip time mel", "clip mel time", "clip feature")


_CLIP_DTYPES = (np.uint8, np.float16, np.float32)


# Words for the splits in other people's tables -> names that TFDS users expect.
_SPLITS = {
    **{name: name for name in SPLITS.values()},
    **SPLITS,
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}


# How the flags of `tfds_fma.prepare` are written, for messages.
_FLAGS_OF_PREPARE = {
    "table": "--table FILE.csv",
    "columns": "--columns <what>=NAME",
    "clips": "--from_arrays FILE.npz",
    "clips_key": "--clips_key NAME",
    "ids": "--ids FILE.npy",
    "axes": "--axes 'NAMES'",
    "features": "--features COLUMN ...",
    "genres": "--genres NAME ...",
}


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; "" for those that may be missing (artist, album, title, artist_name,
    subset).

    Attributes:
      track_id: whole numbers.
      genre: name of the genre.
      split: train, validation or test; FMA's ``training`` and a few common abbreviations are understood.
      artist: id or name, empty or -1 where unknown.
      album: likewise.
      title: of the track.
      artist_name: for people, where `artist` is an id.
      subset: FMA's label, the smallest subset that has the track: small, medium, large or full; empty where unknown.
    """

    track_id: str = "track_id"
    genre: str = "genre_top"
    split: str = "split"
    artist: str = "artist_id"
    album: str = "album_id"
    title: str = ""
    artist_name: str = ""
    subset: str = ""


@dataclass(frozen=True)
class ArrayFiles:
    """What names precomputed arrays and their table.

    Attributes:
      table: CSV file with a header row and a row per clip.
      clips: .npz or .npy of per-clip arrays; "": the columns `features` of the table.
      clips_key: name of the clips in the .npz; "": its only array beside the ids.
      ids: .npy of track ids; "": those in the .npz, or else the table's, in its order.
      ids_key: name of the ids in the .npz.
      axes: order of the axes, one of `AXES`.
      features: numeric columns of the table.
      genres: label list; empty: see `Arrays.genres`.
      columns: of the table.
      flags: how the user sets each of these, for messages.
    """

    table: str
    clips: str = ""
    clips_key: str = ""
    ids: str = ""
    ids_key: str = "track_id"
    axes: str = "clip time mel"
    features: Sequence[str] = ()
    genres: Sequence[str] = ()
    columns: Columns = Columns()
    flags: Mapping[str, str] = field(default_factory=lambda: _FLAGS_OF_PREPARE, repr=False)

    @property
    def place(self) -> str:
        """The file that the clips are in."""
        return self.clips or self.table


@dataclass(frozen=True)
class TrackTable:
    """The columns of a track table, each [row].

    Attributes:
      track_id: int64.
      genre: str.
      split: str: ``train``, ``validation`` or ``test``, or a word that is none of them.
      artist: str: id or name, "" where unknown.
      album: str: likewise.
      title: str, "" where unknown.
      artist_name: str, "" where unknown.
      subset: str, "" where unknown.
    """

    track_id: np.ndarray
    genre: np.ndarray
    split: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    title: np.ndarray
    artist_name: np.ndarray
    subset: np.ndarray

    def __len__(self) -> int:
        return len(self.track_id)

    def take(self, rows: np.ndarray) -> "TrackTable":
        """Returns some of the rows."""
        return TrackTable(*(getattr(self, column.name)[rows] for column in dataclasses.fields(self)))


@dataclass(frozen=True)
class Arrays:
    """Clips and the rows of the table that they belong to.

    Attributes:
      clips: [clip, time, mel] or [clip, feature]; uint8, float16 or float32. Those of an .npy are memory-mapped, and
        those whose axes were exchanged are a view.
      row: int64 [clip]: the clip's row in `table`.
      table: all rows, in the table's order; there may be some that no clip belongs to.
      genres: label list: as given, or FMA's genres that occur, in MATT's order, or the table's own, sorted.
    """

    clips: np.ndarray
    row: np.ndarray
    table: TrackTable
    genres: tuple[str, ...]

    @property
    def tracks(self) -> TrackTable:
        """The table's row of every clip."""
        return self.table.take(self.row)


def parse_columns(pairs: Iterable[str]) -> Columns:
    """Reads ``artist=artist_id`` and the like; ``album=`` says that there is no such column.

    Raises:
      UserError: if what stands before the ``=`` is no column that is used.
    """
    known = [column.name for column in dataclasses.fields(Columns)]
    given = {}
    for pair in pairs:
        what, equals, name = pair.partition("=")
        if not equals or what not in known:
            raise UserError(f"--columns takes <what>=NAME with <what> one of {', '.join(known)}; not {pair!r}.")
        given[what] = name
    return Columns(**given)


def read_arrays(files: ArrayFiles) -> Arrays:
    """Reads precomputed arrays and their table.

    Whether the values are finite is not looked at here: see `require_finite`.

    Raises:
      UserError: if a file is not there or damaged, or they do not fit together.
    """
    if not files.table:
        raise UserError(
            f"Precomputed arrays need a track table: set {files.flags['table']} (and {files.flags['clips']} for the "
            "arrays)"
        )
    texts = _read_columns(files)
    table = _track_table(files, texts)
    if files.clips:
        clips, ids = _read_clips(files, table.track_id)
        rows = _rows_of(files, ids, table.track_id)
    else:
        clips, rows = _feature_columns(files, texts), np.arange(len(table))
    genre = table.genre[rows]
    genres = tuple(files.genres) or _label_list(set(genre.tolist()))
    _check_words(files, files.columns.genre, genre, genres, f"Correct the table, or set {files.flags['genres']}")
    check_splits(files, table.split[rows])
    _check_words(files, files.columns.subset, table.subset[table.subset != ""], SUBSETS, "Correct the table")
    return Arrays(clips, rows, table, genres)


def check_splits(files: ArrayFiles, splits: np.ndarray) -> None:
    """Raises UserError if one of the words is no split.

    Args:
      files: what the words come from.
      splits: str [row], as in `TrackTable`.
    """
    _check_words(files, files.columns.split, splits, tuple(_SPLITS), "Correct the table")


def require_finite(files: ArrayFiles, arrays: Arrays) -> None:
    """Raises UserError if there are infinities or NaNs in the clips that `files` names."""
    clips = arrays.clips
    if clips.dtype == np.uint8:
        return
    for start in range(0, len(clips), 256):
        some = clips[start : start + 256]
        finite = np.isfinite(some).reshape(len(some), -1).all(axis=1)
        if not finite.all():
            track_id = arrays.table.track_id[arrays.row[start + int(np.argmin(finite))]]
            raise UserError(f"{files.place}: the values of track {track_id} are not all finite")


def number_names(names: np.ndarray) -> tuple[np.ndarray, bool]:
    """Turns ids or names of artists or albums into numbers.

    Args:
      names: str [row], "" where unknown.

    Returns:
      int64 [row]: whole numbers as they are, names numbered in sorted order from 0, and -1 where unknown; and whether
      they were names.
    """
    known = np.unique(names[names != ""]).tolist()
    # pandas writes whole numbers as "12.0" where a column has gaps.
    are_numbers = all(re.fullmatch(r"\d{1,18}(\.0)?", name) for name in known)
    number = {name: int(name.removesuffix(".0")) if are_numbers else i for i, name in enumerate(known)}
    number[""] = UNKNOWN_ID
    return np.array([number[name] for name in names.tolist()], np.int64), not are_numbers


def _label_list(found: set[str]) -> tuple[str, ...]:
    """Returns FMA's genres that occur, in MATT's order; or the table's own, sorted, if none of them is FMA's.

    Where only some are FMA's, the others are mistakes, and the check that follows names them.
    """
    of_fma = tuple(genre for genre in GENRES if genre in found)
    return of_fma or tuple(sorted(found))


def _check_words(files: ArrayFiles, column: str, words: np.ndarray, allowed: tuple[str, ...], remedy: str) -> None:
    """Raises UserError if one of the words of a column is not allowed."""
    strange = sorted(set(words.tolist()) - set(allowed))
    if strange:
        raise UserError(
            f"{files.table}: {strange[0]!r} in column {column!r} is not one of {', '.join(allowed)}. {remedy}."
        )


# --- the table ----------------------------------------------------------------------------------------------


def _read_columns(files: ArrayFiles) -> dict[str, np.ndarray]:
    """Reads the columns that are named, as text [row] without spaces at the ends."""
    named = dataclasses.asdict(files.columns)
    optional = {what: named.pop(what) for what in ("artist", "album", "title", "artist_name", "subset")}
    wanted = [*named.values(), *files.features, *filter(None, optional.values())]
    try:
        with Path(files.table).open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            for name in wanted:
                if name not in (reader.fieldnames or ()):
                    raise UserError(
                        f"{files.table} has no column {name!r}; it has {', '.join(reader.fieldnames or ())}. Name the "
                        f"right one with {files.flags['columns']} (artist and album may be empty: unknown)."
                    )
            rows = [[(row[name] or "").strip() for name in wanted] for row in reader]
    except FileNotFoundError:
        raise UserError(f"track table {files.table} does not exist; set {files.flags['table']}") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"track table {files.table} cannot be read as CSV: {error}") from error
    if not rows:
        raise UserError(f"track table {files.table} has no rows")
    texts = {name: np.array(column) for name, column in zip(wanted, zip(*rows, strict=True), strict=True)}
    for name in named.values():
        empty = np.flatnonzero(texts[name] == "")
        if len(empty):
            track = str(texts[files.columns.track_id][empty[0]])
            raise UserError(
                f"{files.table}: column {name!r} is empty for track {track!r} (row {empty[0] + 2}); drop that row or "
                "fill it in"
            )
    return texts


def _track_table(files: ArrayFiles, texts: dict[str, np.ndarray]) -> TrackTable:
    """Turns columns of text into a table; raises UserError if its track ids are none."""
    columns = files.columns
    try:
        track_id = texts[columns.track_id].astype(np.int64)
    except (ValueError, OverflowError):
        raise UserError(
            f"{files.table}: column {columns.track_id!r} has track ids that are not whole numbers"
        ) from None
    values, counts = np.unique(track_id, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{files.table}: track id {values[counts > 1][0]} occurs more than once")
    unknown = np.full(len(track_id), "")

    def text(column: str) -> np.ndarray:
        return texts[column] if column else unknown

    def identifier(column: str) -> np.ndarray:
        return np.where(text(column) == str(UNKNOWN_ID), "", text(column))

    return TrackTable(
        track_id=track_id,
        genre=texts[columns.genre],
        split=np.array([_SPLITS.get(word, word) for word in texts[columns.split].tolist()]),
        artist=identifier(columns.artist),
        album=identifier(columns.album),
        title=text(columns.title),
        artist_name=text(columns.artist_name),
        subset=text(columns.subset),
    )


def _feature_columns(files: ArrayFiles, texts: dict[str, np.ndarray]) -> np.ndarray:
    """Returns columns of the table as float32 [row, feature]."""
    if not files.features:
        raise UserError(
            f"Precomputed arrays need clips: set {files.flags['clips']}, or {files.flags['features']} to use columns "
            "of the table"
        )
    try:
        return np.stack([texts[name].astype(np.float32) for name in files.features], axis=1)
    except ValueError as error:
        raise UserError(f"{files.table}: a feature column is not numeric: {error}") from error


# --- the arrays ---------------------------------------------------------------------------------------------


def _load(path: str) -> dict[str, np.ndarray]:
    """Reads an .npy (under the name "") or the members of an .npz."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.endswith(".npy") else None, allow_pickle=False)
        return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"": loaded}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # zipfile, zlib, pickle and header errors: all mean a file that is damaged or foreign
        # NumPy's own text may advise to load it unsafely.
        raise UserError(
            f"{path} cannot be read as .npy or .npz ({type(error).__name__}): it is damaged, of another kind, or "
            "holds Python objects. Save the arrays with numpy.savez."
        ) from error


def _read_clips(files: ArrayFiles, table_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns clips [clip, time, mel] or [clip, feature], and their track ids, int64 [clip]."""
    loaded = _load(files.clips)
    ids = loaded.pop(files.ids_key, table_ids)
    key = files.clips_key or (next(iter(loaded)) if len(loaded) == 1 else None)
    if key not in loaded:
        raise UserError(
            f"{files.clips} holds {', '.join(loaded)}; say which one is the clips with {files.flags['clips_key']}"
        )
    clips = loaded[key]
    if files.ids:
        beside = _load(files.ids)
        if len(beside) != 1:
            raise UserError(
                f"{files.ids} holds {', '.join(beside)}; give the track ids alone with {files.flags['ids']}"
            )
        (ids,) = beside.values()
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"{files.ids or files.clips}: track ids must be whole numbers in one row, not {ids.dtype}")
    if files.axes not in AXES:
        raise UserError(f"axes {files.axes!r} is none of {', '.join(map(repr, AXES))}; set {files.flags['axes']}")
    axes = files.axes.split()
    if clips.ndim != len(axes):
        raise UserError(f"{files.clips}: clips have {clips.ndim} axes, not {files.axes!r}; set {files.flags['axes']}")
    if len(ids) != len(clips):
        raise UserError(
            f"{files.clips} has {len(clips)} clips but there are {len(ids)} track ids; give the ids with "
            f"{files.flags['ids']} or make the table's rows match the clips"
        )
    if axes == ["clip", "mel", "time"]:
        clips = clips.transpose(0, 2, 1)
    if clips.dtype not in _CLIP_DTYPES:
        raise UserError(f"{files.clips}: clips are {clips.dtype}; store them as uint8, float16 or float32")
    return clips, np.asarray(ids).astype(np.int64)


def _rows_of(files: ArrayFiles, ids: np.ndarray, table_ids: np.ndarray) -> np.ndarray:
    """Returns the table row of every clip.

    A clip without a row is an error: nothing is known about it, not even its split, so the table must be a wrong one.
    """
    order = np.argsort(table_ids)
    found = order[np.minimum(np.searchsorted(table_ids, ids, sorter=order), len(order) - 1)]
    if not np.array_equal(table_ids[found], ids):
        stray = ids[table_ids[found] != ids][0]
        raise UserError(f"{files.clips} has track {stray}, which {files.table} does not have")
    if len(np.unique(ids)) < len(ids):
        raise UserError(f"{files.clips}: a track id occurs more than once")
    return found
