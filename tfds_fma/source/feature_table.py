"""FMA's table of audio features, ``fma_metadata/features.csv``: reading and writing.

The table has four header rows, because pandas wrote it with three-level columns: feature, statistics, number, and the
name of the index, ``track_id``. The tracks whose audio could not be analysed have empty cells.
"""

import contextlib
import csv
import io
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from tfds_fma.errors import UNREADABLE, UserError, in_words
from tfds_fma.representations.feature_names import COLUMNS, GROUPS, Column, columns_of
from tfds_fma.source.archives import check_zip

_MEMBER = "fma_metadata/features.csv"


_INDEX = "track_id"


_HEADER_ROWS = 4


_REMEDY = (
    "Get fma_metadata.zip from https://github.com/mdeff/fma and put it, zipped or not, in the source folder, or "
    "compute the features from the audio: python -m tfds_fma.extract_features."
)


# Bytes that are parsed at a time: enough for two threads, little beside the 221 MB of the whole table in memory.
_CHUNK_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Features of tracks.

    Attributes:
      track_id: FMA's ids, int64 [track], in the order of the file.
      values: float32 [track, column]; NaN where the file has an empty cell.
      columns: (feature, statistic, number) of each column, in the order of COLUMNS.
    """

    track_id: np.ndarray
    values: np.ndarray
    columns: tuple[Column, ...]

    def incomplete(self) -> np.ndarray:
        """Whether a track has a value that is missing or not finite; bool [track]."""
        return ~np.isfinite(self.values).all(axis=1)


def read_features(source: str | Path, groups: Iterable[str] | None = None) -> FeatureTable:
    """Reads FMA's feature table, or some columns of it.

    Args:
      source: folder that holds ``fma_metadata/features.csv`` or ``fma_metadata.zip``; or a file that is laid out as
        features.csv, whose name ends in ``.csv``.
      groups: the features wanted (keys of GROUPS), by default all that the file has.

    Returns:
      The table; its columns are in the order of COLUMNS, whatever their order in the file.

    Raises:
      UserError: if there is no table, it is cut off or damaged, lacks columns, holds a track twice, or a cell that is
        no number.
    """
    path, name = _find(Path(source))
    try:
        with _open(path) as file:
            positions, width = _read_header(file, name)
            columns = _wanted_columns(positions, groups, name)
            track_id, values = _read_rows(file, [positions[column] for column in columns], columns, width, name)
    except UNREADABLE as error:
        raise UserError(f"{name} cannot be read ({in_words(error)}). {_REMEDY}") from error
    if not len(track_id):
        raise UserError(f"{name} has no tracks below its header. {_REMEDY}")
    ids, counts = np.unique(track_id, return_counts=True)
    if len(ids) < len(track_id):
        repeated = ", ".join(map(str, ids[counts > 1][:5]))
        raise UserError(f"{name} holds tracks more than once ({repeated}). Keep one row of each.")
    return FeatureTable(track_id, values, columns)


def _find(source: Path) -> tuple[Path, str]:
    """Returns the file (the table or the zip file that holds it) and a name of the table for messages."""
    if source.suffix == ".csv":
        if not source.is_file():
            raise UserError(f"There is no feature table {source}. {_REMEDY}")
        return source, str(source)
    if not source.is_dir():
        raise UserError(f"The source folder {source} does not exist. Give the folder that holds fma_metadata.")
    path, archive = source / _MEMBER, source / "fma_metadata.zip"
    if path.is_file():
        return path, str(path)
    if not archive.is_file():
        raise UserError(f"There is no feature table: neither {path} nor {archive} exists. {_REMEDY}")
    check_zip(archive)
    return archive, f"{archive}:{_MEMBER}"


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """Opens the table, or its member of a zip file."""
    with contextlib.ExitStack() as stack:
        if path.suffix == ".csv":
            yield stack.enter_context(path.open("rb"))
            return
        opened = stack.enter_context(zipfile.ZipFile(path))
        if _MEMBER not in opened.namelist():
            raise UserError(f"{path} has no {_MEMBER}. {_REMEDY}")
        yield stack.enter_context(opened.open(_MEMBER))


def _read_header(file: IO[bytes], name: str) -> tuple[dict[Column, int], int]:
    """Consumes the header rows; returns the position of every column of FMA's, and the number of columns."""
    rows = [_cells(file.readline()) for _ in range(_HEADER_ROWS)]
    width = len(rows[0])
    if {len(row) for row in rows} != {width} or rows[3][0] != _INDEX or any(rows[3][1:]):
        if rows[3][0] == "path":
            raise UserError(f"{name} was made with --audio: it has paths in place of track ids. Read it with pandas.")
        raise UserError(
            f"{name} does not begin with FMA's four header rows: features, statistics, numbers, {_INDEX}. {_REMEDY}"
        )
    known = set(COLUMNS)
    positions: dict[Column, int] = {}
    for position, column in enumerate(zip(*rows[:3], strict=True)):
        if column in positions:
            raise UserError(f"{name} has the column {'.'.join(column)} twice. {_REMEDY}")
        if column in known:
            positions[column] = position
    return positions, width


def _cells(line: bytes) -> list[str]:
    """Splits a header row; a missing or an odd one has no cell that is looked for."""
    return next(csv.reader([line.decode("utf-8").rstrip("\r\n")]), [""]) or [""]


def _wanted_columns(positions: dict[Column, int], groups: Iterable[str] | None, name: str) -> tuple[Column, ...]:
    """Returns the columns to read; raises UserError if the file lacks one."""
    present = {group for group, _, _ in positions}
    wanted = tuple(COLUMNS[position] for position in columns_of(present if groups is None else groups))
    absent = tuple(group for group in GROUPS if group in {column[0] for column in wanted} - present)
    if absent or not wanted:
        has = ", ".join(group for group in GROUPS if group in present) or "none of FMA's features"
        raise UserError(f"{name} has no columns of {', '.join(absent) or 'any feature'}; it has {has}. {_REMEDY}")
    missing = [".".join(column) for column in wanted if column not in positions]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        raise UserError(f"{name} lacks {len(missing)} columns ({some}). {_REMEDY}")
    return wanted


def _read_rows(
    file: IO[bytes], positions: Sequence[int], columns: Sequence[Column], width: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Reads the rows below the header: ids int64 [track], values float32 [track, column]."""
    import pyarrow as pa
    import pyarrow.csv

    names = [str(position) for position in range(width)]
    wanted = [names[position] for position in positions]
    convert = pa.csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, pa.float32()) | {names[0]: pa.int64()},
        include_columns=[names[0], *wanted],
        null_values=[""],
    )
    track_id, values = [np.empty(0, np.int64)], bytearray()  # a bytearray grows in place: no second copy at the end
    line_number = _HEADER_ROWS + 1
    while chunk := file.read(_CHUNK_BYTES):
        chunk += file.readline()
        if not chunk.endswith(b"\n"):
            raise UserError(f"{name} ends in the middle of a line, so it is cut off. {_REMEDY}")
        if not chunk.strip():
            continue
        try:
            table = pa.csv.read_csv(io.BytesIO(chunk), pa.csv.ReadOptions(column_names=names), None, convert)
            if table.column(0).null_count:
                raise pa.ArrowInvalid("a row without a track id")
        except pa.ArrowInvalid as error:
            where = _fault(chunk, line_number, dict(zip(positions, columns, strict=True)), width)
            raise UserError(f"{name}, {where or in_words(error)}. {_REMEDY}") from error
        track_id.append(table.column(0).to_numpy())
        values += np.stack([column.to_numpy() for column in table.columns[1:]], axis=1).tobytes()
        line_number += chunk.count(b"\n")
    return np.concatenate(track_id), np.frombuffer(values, np.float32).reshape(-1, len(columns))


def _fault(chunk: bytes, line_number: int, columns: dict[int, Column], width: int) -> str:
    """Says what is wrong with the first row that cannot be read, or "" if none is found.

    Args:
      chunk: whole lines of the file.
      line_number: number of their first in the file.
      columns: what the positions to read hold.
      width: number of cells of a row.
    """
    for number, line in enumerate(chunk.splitlines(), line_number):
        try:
            cells = _cells(line)
        except UnicodeDecodeError:
            return f"line {number} is not UTF-8 text, so the file is damaged"
        if cells == [""]:  # a blank line
            continue
        if len(cells) != width:
            return f"line {number} has {len(cells)} of {width} columns, so the file is damaged or cut off"
        if not cells[0].isdecimal():
            return f"line {number} begins with {cells[0]!r}, which is no track id"
        for position, column in columns.items():
            try:
                float(cells[position] or "nan")
            except ValueError:
                cell = f"{'.'.join(column)} of track {cells[0]} is {cells[position]!r}"
                return f"line {number}: {cell}, which is no number"
    return ""


def write_features(path: str | Path, track_ids: np.ndarray, values: np.ndarray) -> None:
    """Writes a table of all 518 features in FMA's layout; the file appears when it is complete.

    Args:
      path: the file; its folder must be there.
      track_ids: integers [track].
      values: float [track, 518], in the order of COLUMNS; a NaN becomes an empty cell.

    Raises:
      UserError: if the file cannot be written.
    """
    rows = (format_row(str(track), row) for track, row in zip(track_ids, values, strict=True))
    write_rows(Path(path), _INDEX, rows)


def format_row(index: str, values: Sequence[float] | np.ndarray) -> str:
    """Returns a row of the table with its line end, as pandas writes it with FMA's ten digits after the point."""
    if len(values) != len(COLUMNS):
        raise ValueError(f"{len(values)} values for {len(COLUMNS)} columns")
    if any(character in index for character in ',"\r\n'):
        index = '"' + index.replace('"', '""') + '"'
    numbers = np.asarray(values, np.float64).tolist()
    return ",".join([index, *("" if number != number else f"{number:.10e}" for number in numbers)]) + "\n"


def write_rows(path: Path, index: str, rows: Iterable[str]) -> None:
    """Writes the header and rows made by `format_row`; the file appears when it is complete.

    Args:
      path: the file; its folder must be there.
      index: name of the first column.
      rows: the rows.

    Raises:
      UserError: if the file cannot be written.
    """
    levels = zip(*COLUMNS, strict=True)
    header = [[title, *level] for title, level in zip(("feature", "statistics", "number"), levels, strict=True)]
    temporary = path.with_name(f".{path.name}.incomplete")
    try:
        # File names need not be UTF-8; the table is.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.writelines(",".join(cells) + "\n" for cells in [*header, [index, *("" for _ in COLUMNS)]])
            file.writelines(rows)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}). Choose another file.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
