"""Precomputed arrays, such as spectrograms or features in an .npz, and the CSV track table that belongs to them.

`read_arrays` reads both and checks that they fit together. `tfds_fma.clips.sources.arrays_source` makes a dataset of
them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tfds_fma.errors import UserError
from tfds_fma.labels import GENRES, SUBSETS
from tfds_fma.paths import local_path
from tfds_fma.source.track_table import SPLIT_WORDS, Columns, TrackTable, read_columns, track_table, whole_numbers

AXES = ("clip time mel", "clip mel time", "clip feature")


_CLIP_DTYPES = (np.uint8, np.float16, np.float32)


# How the flags of `tfds_fma.prepare` are written, for messages.
_FLAGS_OF_PREPARE = {
    "table": "--table FILE.csv",
    "columns": "--columns <what>=NAME",
    "clips": "--from_arrays FILE.npz",
    "clips_key": "--clips_key NAME",
    "ids": "--ids FILE.npy",
    "ids_key": "--ids_key NAME",
    "axes": "--axes 'NAMES'",
    "features": "--features COLUMN ...",
    "genres": "--genres NAME ...",
}


@dataclass(frozen=True)
class ArrayFiles:
    """What names precomputed arrays and their table.

    Attributes:
      table: CSV file with a header row and a row per clip.
      clips: .npz or .npy of per-clip arrays; "": the columns `features` of the table.
      clips_key: name of the clips in the .npz; "": its only array beside the ids.
      ids: .npy of track ids; "": those in the .npz, or else the table's, in its order.
      ids_key: name of the ids in the .npz; only the default may be absent. "": the .npz has none.
      axes: order of the axes, one of `AXES`.
      features: numeric columns of the table.
      genres: label list; empty: see `Arrays.genres`.
      separator: between the genres of a cell, where clips may have several; "": a cell is the name of one genre.
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
    separator: str = ""
    columns: Columns = field(default_factory=Columns)
    flags: Mapping[str, str] = field(default_factory=lambda: _FLAGS_OF_PREPARE, repr=False)

    def __post_init__(self) -> None:
        """Raises `UserError` for URLs."""
        for name in ("table", "clips", "ids"):
            if given := getattr(self, name):
                object.__setattr__(self, name, str(local_path(given)))

    @property
    def place(self) -> str:
        """The file that the clips are in."""
        return self.clips or self.table


@dataclass(frozen=True)
class Arrays:
    """Clips and the rows of the table that they belong to.

    Attributes:
      clips: [clip, time, mel] or [clip, feature]; uint8, float16 or float32. Those of an .npy are memory-mapped, and
        those whose axes were exchanged are a view.
      row: int64 [clip]: the clip's row in `table`.
      table: all rows, in the table's order; there may be some that no clip belongs to.
      genres: label list: as given, or FMA's genres that occur, in MATT's order, or the table's own, sorted; where
        clips may have several genres, the table's own, sorted.
    """

    clips: np.ndarray
    row: np.ndarray
    table: TrackTable
    genres: tuple[str, ...]

    @property
    def tracks(self) -> TrackTable:
        """The table's row of every clip."""
        return self.table.take(self.row)


def read_arrays(files: ArrayFiles, log: Callable[[str], None] = lambda line: None) -> Arrays:
    """Reads precomputed arrays and their table.

    Whether the values are finite is not looked at here: see `require_finite`.

    Args:
      files: what to read.
      log: takes lines about oddities of the table.

    Raises:
      UserError: if a file is not there or damaged, or they do not fit together.
    """
    if not files.table:
        raise UserError(
            f"Precomputed arrays need a track table: set {files.flags['table']} (and {files.flags['clips']} for the "
            "arrays)"
        )
    texts = read_columns(files.table, files.columns, files.features, files.flags)
    table = track_table(files.table, files.columns, texts, log)
    if files.clips:
        clips, ids = _read_clips(files, table.track_id)
        rows = _rows_of(files, ids, table.track_id)
    else:
        clips, rows = _feature_columns(files, texts), np.arange(len(table))
    for column in ("genre", "split"):
        _check_filled(files, column, table.take(rows))
    genre = np.array([name for cell in table.genre[rows].tolist() for name in genre_names(cell, files.separator)])
    found = set(genre.tolist())
    genres = tuple(files.genres) or (tuple(sorted(found)) if files.separator else _label_list(found))
    _check_words(files, files.columns.genre, genre, genres, f"Correct the table, or set {files.flags['genres']}")
    check_splits(files, table.split[rows])
    _check_words(files, files.columns.subset, table.subset[table.subset != ""], SUBSETS, "Correct the table")
    return Arrays(clips, rows, table, genres)


def genre_names(cell: str, separator: str) -> list[str]:
    """Returns the genres that a cell names: one, or (with a separator) those between separators, without spaces."""
    return [name for part in cell.split(separator) if (name := part.strip())] if separator else [cell]


def check_splits(files: ArrayFiles, splits: np.ndarray) -> None:
    """Raises UserError if one of the words is no split.

    Args:
      files: what the words come from.
      splits: str [row], as in `TrackTable`.
    """
    _check_words(files, files.columns.split, splits, tuple(SPLIT_WORDS), "Correct the table")


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


def doubtful_axes(files: ArrayFiles, arrays: Arrays) -> str:
    """Returns a sentence if spectrograms have fewer frames than mel bands, as if their axes were exchanged; or "".

    A clip of 30 s has hundreds of frames or more, and at most 256 mel bands are usual. librosa puts mel before time.
    """
    if arrays.clips.ndim != 3 or arrays.clips.shape[1] >= arrays.clips.shape[2]:
        return ""
    frames, mels = arrays.clips.shape[1:]
    other = next(axes for axes in AXES if axes != files.axes and len(axes.split()) == 3)
    return (
        f"{files.place}: read as {files.axes!r}, its clips have only {frames} frames of {mels} mel bands. If these "
        f"are {mels} frames of {frames} mel bands, set {files.flags['axes']} to {other!r}"
    )


def _label_list(found: set[str]) -> tuple[str, ...]:
    """Returns FMA's genres that occur, in MATT's order; or the table's own, sorted, if none of them is FMA's.

    Where only some are FMA's, the others are mistakes, and the check that follows names them.
    """
    of_fma = tuple(genre for genre in GENRES if genre in found)
    return of_fma or tuple(sorted(found))


def _check_filled(files: ArrayFiles, column: str, tracks: TrackTable) -> None:
    """Raises UserError if a clip has no value in a column."""
    empty = getattr(tracks, column) == ""
    if empty.any():
        raise UserError(
            f"{files.table}: column {getattr(files.columns, column)!r} is empty for track "
            f"{tracks.track_id[empty][0]}{f' and {empty.sum() - 1} others' if empty.sum() > 1 else ''}, which "
            f"{'have clips' if empty.sum() > 1 else 'has a clip'}. Fill it in, or leave out the row and the clip"
        )


def _check_words(files: ArrayFiles, column: str, words: np.ndarray, allowed: tuple[str, ...], remedy: str) -> None:
    """Raises UserError if one of the words of a column is not allowed."""
    strange = sorted(set(words.tolist()) - set(allowed))
    if strange:
        raise UserError(
            f"{files.table}: {strange[0]!r} in column {column!r} is not one of {', '.join(allowed)}. {remedy}."
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


def _load(path: str) -> dict[str, np.ndarray]:
    """Reads an .npy (under the name "") or the members of an .npz."""
    member = ""
    try:
        loaded = np.load(path, mmap_mode="r" if path.endswith(".npy") else None, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            return {"": loaded}
        arrays = {}
        with loaded:
            for member in loaded:
                arrays[member] = loaded[member]
        return arrays
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except Exception as error:  # zipfile, zlib, pickle and header errors: all mean a file that is damaged or foreign
        # NumPy's own text may advise to load it unsafely.
        what = f"the array {member!r} in {path}" if member else path
        raise UserError(
            f"{what} cannot be read as .npy or .npz ({type(error).__name__}): it is damaged, of another kind, or "
            "holds Python objects. Save it with numpy.savez as numbers or text, or leave it out."
        ) from error


def _read_clips(files: ArrayFiles, table_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns clips [clip, time, mel] or [clip, feature], and their track ids, int64 [clip]."""
    loaded = _load(files.clips)
    names = ", ".join(loaded) or "a single array"
    stored = loaded.pop(files.ids_key, None) if files.ids_key else None
    if stored is None and files.ids_key not in ("", ArrayFiles.ids_key):
        raise UserError(f"{files.clips} has no {files.ids_key!r}; it holds {names}. Correct {files.flags['ids_key']}")
    key = files.clips_key or (next(iter(loaded)) if len(loaded) == 1 else None)
    if key not in loaded:
        and_ids = "" if files.ids or stored is not None else f", and which the track ids with {files.flags['ids_key']}"
        raise UserError(
            f"{files.clips} holds {names}; say which one is the clips with {files.flags['clips_key']}{and_ids}"
        )
    clips = loaded.pop(key)
    if files.axes not in AXES:
        raise UserError(f"axes {files.axes!r} is none of {', '.join(map(repr, AXES))}; set {files.flags['axes']}")
    axes = files.axes.split()
    if clips.ndim != len(axes):
        raise UserError(f"{files.clips}: clips have {clips.ndim} axes, not {files.axes!r}; set {files.flags['axes']}")
    ids = _track_ids(files, loaded, stored, table_ids, len(clips))
    numbers = whole_numbers(ids)
    if numbers is None:
        raise UserError(f"{files.ids or files.clips}: track ids must be whole numbers in one row, not {ids.dtype}")
    if len(ids) != len(clips):
        raise UserError(
            f"{files.clips} has {len(clips)} clips but there are {len(ids)} track ids; give the ids with "
            f"{files.flags['ids']} or make the table's rows match the clips"
        )
    if axes == ["clip", "mel", "time"]:
        clips = clips.transpose(0, 2, 1)
    if clips.dtype not in _CLIP_DTYPES:
        raise UserError(f"{files.clips}: clips are {clips.dtype}; store them as uint8, float16 or float32")
    return clips, numbers


def _track_ids(
    files: ArrayFiles, others: Mapping[str, np.ndarray], stored: np.ndarray | None, table_ids: np.ndarray, clips: int
) -> np.ndarray:
    """Returns the ids of the clips, from wherever they are; whether they are ids is not looked at.

    Args:
      files: where the ids may be.
      others: the arrays that lie beside the clips, without the ids.
      stored: those under `files.ids_key`.
      table_ids: those of the table's rows.
      clips: how many clips there are.
    """
    if files.ids:
        beside = _load(files.ids)
        if len(beside) != 1:
            raise UserError(
                f"{files.ids} holds {', '.join(beside)}; give the track ids alone with {files.flags['ids']}"
            )
        (ids,) = beside.values()
        if stored is not None and not np.array_equal(stored, ids):
            raise UserError(
                f"{files.ids} and {files.ids_key!r} in {files.clips} are different track ids. Leave out "
                f"{files.flags['ids']}, or set {files.flags['ids_key']} with an empty NAME to use the file's"
            )
        return ids
    if stored is not None:
        return stored
    # In the table's order only if nothing speaks against it: a clip with the label of another one is never noticed.
    likely = [
        name for name, values in others.items() if values.shape == (clips,) and whole_numbers(values) is not None
    ]
    if likely and files.ids_key:
        raise UserError(
            f"{files.clips} has no {files.ids_key!r}, but a whole number for each clip in {likely[0]!r}. If those are "
            f"the track ids, set {files.flags['ids_key']}; if they are not, and the clips are in the order of the "
            "table, set it with an empty NAME"
        )
    return table_ids


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
