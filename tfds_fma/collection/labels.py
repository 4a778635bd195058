"""What is known of the songs of a collection, from a table, their tags, or their folders."""

import collections
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfds_fma.collection.songs import find_songs, read_tags, unread_files
from tfds_fma.errors import UserError
from tfds_fma.source.track_table import SPLIT_WORDS, Columns, check_header, column_names, read_columns, without_unknown
from tfds_fma.source.tracks import SPLITS

# Where genre, artist and album come from, the first that tells it.
ORIGINS = ("table", "tags", "folders")

_FIELDS = ("genre", "artist", "album")

_LAYOUT = "FOLDER/genre/artist/album/song, FOLDER/genre/artist/song or FOLDER/genre/song"


@dataclass(frozen=True)
class Songs:
    """The songs of a collection, each [song]; "" where something is not known.

    Attributes:
      path: files, some perhaps missing.
      genre: one spelling of each genre.
      artist: likewise.
      album: likewise.
      title: the tag, or else the name of the file.
      split: of the table, ``train``, ``validation`` or ``test``; all "" without.
    """

    path: tuple[Path, ...]
    genre: tuple[str, ...]
    artist: tuple[str, ...]
    album: tuple[str, ...]
    title: tuple[str, ...]
    split: tuple[str, ...]


def read_songs(folder: Path, table: str, genre_from: str, log: Callable[[str], None]) -> Songs:
    """Finds the songs of a folder and what is known of them.

    Genre, artist and album come each from one place for all songs: from the table if it has the column; else from the
    tags if they tell it of at least half of the songs; else from the folders. These mean something only if the genre
    comes from them.

    Args:
      folder: with audio, at any depth. Hidden files and links to folders are left out.
      table: CSV file with a column `path`, relative to the folder, and any of `genre`, `artist`, `album`, `title` and
        `split`; the songs are its rows. "": all audio in the folder.
      genre_from: one of `ORIGINS`, or "" for the rule above.
      log: takes the lines for people.

    Raises:
      UserError: no folder, no audio, a table that makes no sense, or no genre.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one that holds your music to --audio.")
    given = _table(table, log) if table else {}
    if genre_from == "table" and "genre" not in given:
        raise UserError("--genre_from table needs a --table with a column 'genre'.")
    paths = _paths(folder, table, given, log)
    if not given and (unread := unread_files([folder])):
        log(unread)
    tags = [read_tags(path) for path in paths]
    places = [_folders(folder, path) for path in paths]
    known = {
        field: {
            **({"table": given[field]} if field in given else {}),
            "tags": [getattr(tag, field) for tag in tags],
            "folders": [place.get(field, "") for place in places],
        }
        for field in _FIELDS
    }
    origin = {"genre": genre_from or _origin(known["genre"])}
    if origin["genre"] != "folders":
        for field in ("artist", "album"):
            known[field]["folders"] = [""] * len(paths)
    origin |= {field: _origin(known[field]) for field in ("artist", "album")}
    values = {field: one_spelling(known[field][origin[field]]) for field in _FIELDS}
    if not any(values["genre"]):
        raise UserError(
            f"No song in {folder} has a genre: put the songs into folders ({_LAYOUT}), tag them, or give a "
            "--table with the columns path, genre and artist."
        )
    told = ", ".join(f"{field} from {origin[field] if any(values[field]) else 'nowhere'}" for field in _FIELDS)
    counts = ", ".join(counted(len(set(values[field]) - {""}), field) for field in _FIELDS)
    log(f"{folder}: {told}: {counted(len(paths), 'song')}, {counts}")
    _tell_oddities(known["genre"][origin["genre"]], values, log)
    titles = given.get("title", [""] * len(paths))
    return Songs(
        path=tuple(paths),
        genre=tuple(values["genre"]),
        artist=tuple(values["artist"]),
        album=tuple(values["album"]),
        title=tuple(_clean(t or tag.title or path.stem) for t, tag, path in zip(titles, tags, paths, strict=True)),
        split=tuple(given.get("split", [""] * len(paths))),
    )


def counted(number: int, what: str) -> str:
    """Writes a number of things, such as ``1 song`` and ``2 songs``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def one_spelling(names: Sequence[str]) -> list[str]:
    """Gives names that differ by case or spaces the spelling that occurs most often, else the first in order.

    Args:
      names: "" where unknown.
    """
    spellings: dict[str, collections.Counter[str]] = {}
    cleaned = [_clean(name) for name in names]
    for name in cleaned:
        spellings.setdefault(_key(name), collections.Counter())[name] += 1
    chosen = {key: min(found, key=lambda name: (-found[name], name)) for key, found in spellings.items()}
    return [chosen[_key(name)] for name in cleaned]


def _clean(name: str) -> str:
    """Text that can be written to a line of any file; names of files may hold newlines, and bytes that are no text."""
    return " ".join(unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode()).split())


def _key(name: str) -> str:
    return name.replace(" ", "").casefold()


def _origin(known: dict[str, list[str]]) -> str:
    """Returns the place that a field comes from: see `read_songs`."""
    if "table" in known:
        return "table"
    tags = known["tags"]
    return "tags" if any(tags) and 2 * sum(map(bool, tags)) >= len(tags) else "folders"


def _folders(folder: Path, path: Path) -> dict[str, str]:
    """What the folders of a song say, genre first."""
    try:
        names = path.relative_to(folder).parts[:-1]
    except ValueError:  # of a table that names it by a path from elsewhere
        return {}
    return dict(zip(_FIELDS, [*names[:2], "/".join(names[2:])], strict=False))


def _table(path: str, log: Callable[[str], None]) -> dict[str, list[str]]:
    """Reads the columns of a table that are used: name -> value of every row."""
    there = column_names(path)
    if there and "path" not in there:
        check_header(path, there)
        raise UserError(
            f"{path} has no column 'path'; it has {', '.join(there)}. Give it one, with the files relative to the "
            "--audio folder; genre, artist, album, title and split are read, too."
        )
    names = {field: field if field in there else "" for field in (*_FIELDS, "split", "title")}
    texts = read_columns(path, Columns(track_id="path", **names), (), {"table": "--table FILE.csv", "columns": ""})
    given = {
        field: values if field in ("path", "title") else without_unknown(values, f"{path}, column {field!r}", log)
        for field, values in texts.items()
    }
    files, counts = np.unique(given["path"], return_counts=True)
    if counts.max() > 1:
        raise UserError(f"{path}: {str(files[counts > 1][0])!r} occurs more than once. Keep one of the rows.")
    if "" in files:
        raise UserError(f"{path}: a row has no path. Fill it in, or delete the row.")
    if "split" in given:
        strange = sorted(set(given["split"].tolist()) - set(SPLIT_WORDS))
        if strange:
            raise UserError(
                f"{path}, column 'split': {strange[0]!r} is none of {', '.join(SPLITS.values())}. Correct the table, "
                "or remove the column to split by artist."
            )
        given["split"] = np.array([SPLIT_WORDS[word] for word in given["split"].tolist()])
    return {field: values.tolist() for field, values in given.items()}


def _paths(folder: Path, table: str, given: dict[str, list[str]], log: Callable[[str], None]) -> list[Path]:
    """Returns the rows of the table, or all audio in the folder."""
    if not given:
        return find_songs([folder])
    paths = [folder / name for name in given["path"]]
    try:
        others = len(set(find_songs([folder])) - set(paths))
    except UserError:  # the files may lie elsewhere
        others = 0
    if others:
        log(f"{counted(others, 'audio file')} in {folder} not in {table}: left out")
    if not any(path.is_file() for path in paths):
        raise UserError(
            f"None of the {len(paths)} files of {table} is there; the first is {paths[0]}. Paths are relative to the "
            "--audio folder."
        )
    return paths


def _tell_oddities(genres: Iterable[str], values: dict[str, list[str]], log: Callable[[str], None]) -> None:
    """Tells which genres became one, and of how many songs something is not known."""
    written: dict[str, set[str]] = {}
    for name in genres:
        written.setdefault(_key(_clean(name)), set()).add(name)
    chosen = {_key(name): name for name in values["genre"]}
    for key, spellings in sorted(written.items()):
        if key and len(spellings) > 1:
            log(f"genre {chosen[key]!r}: {', '.join(map(repr, sorted(spellings)))} are taken as one")
    if missing := values["genre"].count(""):
        log(
            f"{missing} of {counted(len(values['genre']), 'song')} without a genre: rejected (--genre_from takes it "
            f"from elsewhere: {', '.join(ORIGINS)})"
        )
    if len(set(values["genre"]) - {""}) == 1:
        log(f"warning: all songs are of one genre, {max(values['genre'])!r}: a model needs at least two to tell apart")
    if missing := values["artist"].count(""):
        songs = counted(len(values["artist"]), "song")
        log(f"{missing} of {songs} without an artist: each counts as one of its album, or alone")
