"""The CSV track table of precomputed arrays: which columns it has, and what they say.

FMA's own tracks.csv, which has three header rows, is such a table, too.
"""

import csv
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfds_fma.errors import UserError, in_words
from tfds_fma.source.tracks import SPLITS, UNKNOWN_ID, long_fields

# Words for the splits in other people's tables -> names that TFDS users expect.
SPLIT_WORDS = {
    **{name: name for name in SPLITS.values()},
    **SPLITS,
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}

# What says that a value is not known, in small letters: the words that pandas.read_csv takes for missing values, as it
# writes some of them itself once a column has become text; and FMA's number for unknown ids.
_UNKNOWN = (
    "", "nan", "-nan", "na", "n/a", "<na>", "#na", "#n/a", "#n/a n/a", "null", "none", "1.#ind", "-1.#ind", "1.#qnan",
    "-1.#qnan", "nat", str(UNKNOWN_ID), f"{UNKNOWN_ID}.0",
)  # fmt: skip


# Stands for bytes that are not UTF-8.
_NOT_UTF8 = "\ufffd"

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}(\.0+)?")


@dataclass(frozen=True)
class Columns:
    """Names of the table's columns; "" for those that may be missing (artist, album, title, artist_name,
    subset).

    Attributes:
      track_id: whole numbers, also written as 12.0.
      genre: name of the genre; may be empty for a track without a clip.
      split: train, validation or test; FMA's ``training`` and a few common abbreviations are understood. Likewise.
      artist: id or name, where unknown empty or a word that says so: see `without_unknown`.
      album: likewise.
      title: of the track.
      artist_name: for people, where `artist` is an id.
      subset: FMA's label, the smallest subset that has the track: small, medium, large or full; likewise.
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
class TrackTable:
    """The columns of a track table, each [row].

    Attributes:
      track_id: int64.
      genre: str, "" where unknown.
      split: str: ``train``, ``validation`` or ``test``, "" where unknown, or a word that is none of them.
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


def whole_numbers(values: np.ndarray) -> np.ndarray | None:
    """Reads whole numbers: integers, and what they become beside gaps, floating-point or text such as "12.0".

    Returns:
      int64 [value]; None if the values are not in one row, or not all whole numbers.
    """
    if values.ndim != 1 or values.dtype.kind not in "iufUS":
        return None
    if values.dtype.kind in "US":
        texts = values.astype(str).tolist()
        if not all(map(_WHOLE_NUMBER.fullmatch, texts)):
            return None
        return np.array([int(text.partition(".")[0]) for text in texts], np.int64)
    if values.dtype.kind == "f":
        values = values.astype(np.float64)  # 2**63 is no float16
    if np.any(np.abs(values) >= 2**63) or np.any(values != np.floor(values)):  # also NaN
        return None
    return values.astype(np.int64)


def without_unknown(names: np.ndarray, where: str, log: Callable[[str], None]) -> np.ndarray:
    """Empties the names that say that nothing is known, such as nan, None, NA, -1 and -1.0.

    Otherwise they would be one artist with very many clips.

    Args:
      names: str [row].
      where: names the column in the log.
      log: takes a line that counts them, if there are any.
    """
    unknown = np.isin(np.char.lower(names), _UNKNOWN)
    written = unknown & (names != "")
    if written.any():
        words = ", ".join(map(repr, np.unique(names[written]).tolist()))
        log(f"{where}: {int(written.sum())} of {len(names)} are taken as unknown ({words})")
    return np.where(unknown, "", names)


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


def read_columns(
    path: str, columns: Columns, features: Sequence[str], flags: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Reads columns of the table as text.

    Args:
      path: the CSV file.
      columns: those that say what a clip is.
      features: further ones.
      flags: how the user sets `table` and `columns`, for messages.

    Returns:
      Name of the column -> str [row], without spaces at the ends.

    Raises:
      UserError: if the file cannot be read, lacks a column, or has no rows.
    """
    wanted = [*filter(None, dataclasses.astuple(columns)), *features]
    try:
        with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file, long_fields():
            positions, reader = _after_header(csv.reader(file))
            for name in wanted:
                if name not in positions:
                    check_header(path, positions)
                    raise UserError(
                        f"{path} has no column {name!r}; it has {', '.join(positions)}. Name the right one with "
                        f"{flags['columns']} (artist and album may be empty: unknown)."
                    )
            chosen = [positions[name] for name in wanted]
            rows = [[row[at].strip() if at < len(row) else "" for at in chosen] for row in reader if row]
    except FileNotFoundError:
        raise UserError(f"track table {path} does not exist; set {flags['table']}") from None
    except (OSError, csv.Error) as error:
        raise UserError(f"track table {path} cannot be read as CSV: {in_words(error)}") from error
    if not rows:
        raise UserError(f"track table {path} has no rows")
    for at, name in enumerate(wanted):
        # Different names would become one. Titles and the like are only shown.
        strange = next((row[at] for row in rows if _NOT_UTF8 in row[at]), None)
        if strange is not None and name not in (columns.title, columns.artist_name):
            raise UserError(f"track table {path}, column {name!r}: {strange!r} is not UTF-8. Save the table as UTF-8.")
    return {name: np.array(column) for name, column in zip(wanted, zip(*rows, strict=True), strict=True)}


def check_header(path: str, names: Iterable[str]) -> None:
    """Raises UserError if the names of a table's columns show that it is no CSV file in UTF-8 with commas."""
    names = list(names)
    first = "".join(names)
    if not first:
        raise UserError(f"track table {path} is empty: its first row must name the columns.")
    is_text = first.replace("\t", "").isprintable() and _NOT_UTF8 not in first
    separators = [mark for mark in (";", "\t", "|") if mark in first]
    if len(names) == 1 and separators and is_text:
        raise UserError(f"track table {path} separates its columns by {separators[0]!r}. Save it as CSV with commas.")
    if not is_text:
        raise UserError(f"track table {path} is no text in UTF-8. Save it as CSV in UTF-8.")


def column_names(path: str) -> tuple[str, ...]:
    """Returns the names of the table's columns; none if the file cannot be read as CSV, which `read_columns` explains.

    Those of FMA's own tracks.csv are as `read_columns` takes them, such as track_title.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig", errors="replace") as file, long_fields():
            return tuple(_after_header(csv.reader(file))[0])
    except (OSError, csv.Error):
        return ()


def _after_header(rows: Iterator[list[str]]) -> tuple[dict[str, int], Iterator[list[str]]]:
    """Returns the position of every column by its name, and the rows below the header.

    FMA's own tracks.csv has three header rows: groups, fields, and track_id alone. There a column is called by both,
    as artist_id, and by the field alone where no other group has it, as genre_top.
    """
    head = list(itertools.islice(rows, 3))
    groups, fields, index = [*head, [], [], []][:3]
    if len(head) == 3 and (groups[0], fields[0]) == ("", "") and index[0] == "track_id" and not any(index[1:]):
        pairs = list(zip(groups, fields, strict=False))
        single = {field: at for at, field in enumerate(fields) if fields.count(field) == 1}
        both = {f"{group}_{field}": at for at, (group, field) in enumerate(pairs)}
        return single | both | {"track_id": 0}, rows
    return {name: at for at, name in enumerate(groups)}, itertools.chain(head[1:], rows)


def track_table(
    path: str, columns: Columns, texts: Mapping[str, np.ndarray], log: Callable[[str], None] = lambda line: None
) -> TrackTable:
    """Turns columns of text into a table; raises UserError if its track ids are none.

    Args:
      path: the CSV file, for messages.
      columns: those that say what a clip is.
      texts: as from `read_columns`.
      log: takes a line about every column in which words say that a value is unknown.
    """
    track_id = whole_numbers(texts[columns.track_id])
    if track_id is None:
        raise UserError(f"{path}: column {columns.track_id!r} has track ids that are not whole numbers")
    values, counts = np.unique(track_id, return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{path}: track id {values[counts > 1][0]} occurs more than once")
    unknown = np.full(len(track_id), "")

    def text(column: str) -> np.ndarray:
        return texts[column] if column else unknown

    def known(column: str) -> np.ndarray:
        return without_unknown(text(column), f"{path}, column {column!r}", log)

    return TrackTable(
        track_id=track_id,
        genre=known(columns.genre),
        split=np.array([SPLIT_WORDS.get(word, word) for word in known(columns.split).tolist()]),
        artist=known(columns.artist),
        album=known(columns.album),
        title=text(columns.title),
        artist_name=known(columns.artist_name),
        subset=known(columns.subset),
    )
