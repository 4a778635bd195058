"""The track table of FMA: ``fma_metadata/tracks.csv``, from a folder or from ``fma_metadata.zip``.

The file has three header rows, because pandas wrote it with two-level columns: the first names the group
(``album``, ``artist``, ``set``, ``track``), the second the field, the third the index (``track_id``).
Free-text fields (biographies, comments) hold commas, quotes and line breaks.
"""

import collections
import contextlib
import csv
import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

from tfds_fma.errors import UNREADABLE, UserError, in_words
from tfds_fma.labels import genres_of
from tfds_fma.source.audio_files import check_source_folder

# Names of the splits in tracks.csv -> names that TFDS users expect.
SPLITS = {"training": "train", "validation": "validation", "test": "test"}

# Of clips that a dataset has and its split leaves out, such as the known faults of GTZAN.
UNUSED = "unused"


STORED_SPLITS = (*SPLITS.values(), UNUSED)


UNKNOWN_ID = -1


# FMA's subset labels are exclusive: a track of FMA-small is labelled "small" only. FMA-medium is the union.
_LABELS_OF = {
    "small": ("small",),
    "medium": ("small", "medium"),
    "large": ("small", "medium", "large"),
    "full": ("small", "medium", "large"),
}


_LABELS = _LABELS_OF["full"]


_COLUMNS = {
    "split": ("set", "split"),
    "subset": ("set", "subset"),
    "genre": ("track", "genre_top"),
    "artist_id": ("artist", "id"),
    "album_id": ("album", "id"),
    "title": ("track", "title"),
    "artist": ("artist", "name"),
    "duration": ("track", "duration"),
}


# Not in every copy of the table.
_OPTIONAL_COLUMNS = {"genres_all": ("track", "genres_all")}


_MEMBER = "fma_metadata/tracks.csv"


_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


_DOWNLOAD = "Get fma_metadata.zip from https://github.com/mdeff/fma and put it, zipped or not, in the source folder."


@dataclass(frozen=True, slots=True)
class Track:
    """One row of the track table.

    Attributes:
      track_id: FMA's id; names the MP3 file.
      split: ``train``, ``validation`` or ``test`` (FMA's artist-filtered ``set.split``), or `UNUSED`.
      genre: top genre, or "" if the table has none.
      artist_id: FMA's id of the artist, -1 if unknown.
      album_id: FMA's id of the album, -1 if unknown.
      title: title of the track.
      artist: name of the artist.
      duration: length of the full track (not of the clip) in seconds, NaN if unknown.
      genres_all: FMA's ids of all genres of the track and of their ancestors, as listed in ``genres.csv``.
      subset: FMA's label, the smallest subset that has the track (``small``, ``medium`` or ``large``), "" if unknown.
    """

    track_id: int
    split: str
    genre: str
    artist_id: int
    album_id: int
    title: str
    artist: str
    duration: float
    genres_all: tuple[int, ...] = ()
    subset: str = ""


def read_tracks(source: str | Path, subset: str, log: Callable[[str], None] | None = None) -> list[Track]:
    """Reads the tracks of a subset, in FMA's order: those labelled small first, else as in the file.

    What is odd and harmless is told in a line each: rows of an unknown subset and repeated rows, which are left out,
    and bytes that are not UTF-8, which become U+FFFD.

    Args:
      source: folder that holds ``fma_metadata/tracks.csv`` or ``fma_metadata.zip``.
      subset: ``"small"``, ``"medium"`` (which includes small), ``"large"`` or ``"full"`` (all of them).
      log: takes the lines.

    Raises:
      UserError: if there is no table, it is cut off or damaged, lacks a column, has no track of the subset, holds a
        genre, split or number that makes no sense, or two different rows for one track.
    """
    genres = set(genres_of(subset))
    tracks: dict[str, list[Track]] = {label: [] for label in _LABELS_OF[subset]}
    seen: dict[int, Track] = {}
    repeated, not_utf8 = 0, 0
    unknown: collections.Counter[str] = collections.Counter()
    with _open_table(Path(source)) as (file, name), long_fields():
        rows = csv.reader(file)
        index = _column_index(rows, name)
        width = max(index.values()) + 1
        for row in rows:
            if not row:  # a blank line
                continue
            if len(row) < width:
                raise UserError(
                    f"{name}, line {rows.line_num}: {len(row)} of at least {width} columns, so the file "
                    f"is damaged or cut off. {_DOWNLOAD}"
                )
            label = row[index["subset"]]
            if label not in tracks:
                unknown.update(() if label in _LABELS else (label,))
                continue
            track = _track(row, index, genres, f"{name}, line {rows.line_num}", subset)
            if track.track_id in seen:
                _check_same(track, seen[track.track_id], f"{name}, line {rows.line_num}")
                repeated += 1
                continue
            seen[track.track_id] = track
            tracks[label].append(track)
            not_utf8 += _REPLACEMENT in track.title + track.artist
    ordered = [track for label in _LABELS_OF[subset] for track in tracks[label]]
    if not ordered:
        raise UserError(f"{name} has no track of the subset {subset!r}: is it FMA's own table? {_DOWNLOAD}")
    if log is not None:
        _tell_oddities(log, name, unknown, repeated, not_utf8)
    return ordered


def _check_same(track: Track, first: Track, where: str) -> None:
    """Raises UserError if a track that occurs again differs from its first row."""
    if track == first or repr(track) == repr(first):  # NaN durations are equal in writing only
        return
    raise UserError(
        f"{where}: track {track.track_id} occurs a second time, with other contents. Keep one of the two rows. "
        f"{_DOWNLOAD}"
    )


def _tell_oddities(
    log: Callable[[str], None], name: str, unknown: collections.Counter[str], repeated: int, not_utf8: int
) -> None:
    """Tells what was left out or changed on reading the table."""
    if unknown:
        labels = ", ".join(repr(label) for label, _ in unknown.most_common(3))
        log(f"{name}: {unknown.total()} rows left out, of subsets that FMA does not have ({labels})")
    if repeated:
        log(f"{name}: {repeated} rows left out that repeat another one")
    if not_utf8:
        log(f"{name}: {not_utf8} titles or artist names hold bytes that are not UTF-8, now {_REPLACEMENT}")


@contextlib.contextmanager
def long_fields() -> Iterator[None]:
    """Lets the csv module read fields of more than 128 KiB, its default limit: biographies can be longer."""
    previous_limit = csv.field_size_limit(1 << 30)
    try:
        yield
    finally:
        csv.field_size_limit(previous_limit)


@contextlib.contextmanager
def _open_table(source: Path) -> Iterator[tuple[TextIO, str]]:
    """Opens tracks.csv from a folder, else from the zip file; yields it with a name for messages.

    Errors of reading it become UserErrors, also in the `with` block.
    """
    check_source_folder(source)
    path, archive = source / _MEMBER, source / "fma_metadata.zip"
    if not path.is_file() and not archive.is_file():
        raise UserError(f"There is no track table: neither {path} nor {archive} exists. {_DOWNLOAD}")
    name = str(path) if path.is_file() else f"{archive}:{_MEMBER}"
    try:
        with contextlib.ExitStack() as stack:
            if path.is_file():
                raw: IO[bytes] = stack.enter_context(path.open("rb"))
            else:
                opened = stack.enter_context(zipfile.ZipFile(archive))
                if _MEMBER not in opened.namelist():
                    raise UserError(f"{archive} has no {_MEMBER}. {_DOWNLOAD}")
                raw = stack.enter_context(opened.open(_MEMBER))
            yield stack.enter_context(io.TextIOWrapper(raw, encoding="utf-8", errors="replace", newline="")), name
    except UNREADABLE as error:
        raise UserError(f"{name} cannot be read ({in_words(error)}). {_DOWNLOAD}") from error


def _column_index(rows: Iterator[list[str]], name: str) -> dict[str, int]:
    """Consumes the three header rows; returns the position of every needed column, "track_id" included."""
    groups, fields, index_row = next(rows, []), next(rows, []), next(rows, [])
    if not index_row or index_row[0] != "track_id":
        raise UserError(f"{name} does not begin with FMA's three header rows (groups, fields, track_id). {_DOWNLOAD}")
    positions = {pair: position for position, pair in enumerate(zip(groups, fields, strict=False))}
    missing = [".".join(pair) for pair in _COLUMNS.values() if pair not in positions]
    if missing:
        raise UserError(f"{name} lacks the column {' and '.join(missing)}. {_DOWNLOAD}")
    optional = {key: positions[pair] for key, pair in _OPTIONAL_COLUMNS.items() if pair in positions}
    return {"track_id": 0} | {key: positions[pair] for key, pair in _COLUMNS.items()} | optional


def _track(row: list[str], index: dict[str, int], genres: set[str], where: str, subset: str) -> Track:
    """Turns one row into a Track; `where` names the row in messages."""
    genre, split = row[index["genre"]], row[index["split"]]
    if genre and genre not in genres:
        raise UserError(
            f"{where}: genre {genre!r} is not among the {len(genres)} genres of subset {subset!r} "
            f"({', '.join(genres_of(subset))}). Correct the table, or extend GENRES in tfds_fma/labels.py."
        )
    if split not in SPLITS:
        raise UserError(f"{where}: split {split!r} is none of {', '.join(SPLITS)}. {_DOWNLOAD}")
    try:
        return Track(
            track_id=int(row[index["track_id"]]),
            split=SPLITS[split],
            genre=genre,
            artist_id=_id(row[index["artist_id"]]),
            album_id=_id(row[index["album_id"]]),
            title=row[index["title"]],
            artist=row[index["artist"]],
            duration=float(row[index["duration"]] or "nan"),
            genres_all=_id_list(row[index["genres_all"]]) if "genres_all" in index else (),
            subset=row[index["subset"]],
        )
    except ValueError as error:
        raise UserError(f"{where}: {error}. {_DOWNLOAD}") from error


def _id(text: str) -> int:
    """Parses an id; pandas writes whole numbers as "12.0" where a column has gaps."""
    return int(float(text)) if text else UNKNOWN_ID


def _id_list(text: str) -> tuple[int, ...]:
    """Parses a list of ids as Python writes it, e.g. ``[21, 10]``."""
    numbers = text.strip("[] ")
    return tuple(int(number) for number in numbers.split(",")) if numbers else ()
