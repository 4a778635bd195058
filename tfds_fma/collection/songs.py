"""Audio files among the paths that somebody gives, and what their tags say."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tfds_fma.errors import UserError
from tfds_fma.paths import local_path
from tfds_fma.source.audio_files import AUDIO_SUFFIXES, UNREAD_SUFFIXES

# A tag may hold megabytes.
_MOST_CHARACTERS = 500


@dataclass(frozen=True)
class Tags:
    """What the tags of a file say; "" where they are silent.

    Attributes:
      title: of the song.
      artist: of the album if the file names one, else of the song.
      album: title of the album.
      genre: as somebody wrote it; no label of a model.
    """

    title: str = ""
    artist: str = ""
    album: str = ""
    genre: str = ""


def find_songs(paths: Iterable[str | Path]) -> list[Path]:
    """Returns the audio files among files and below folders, each once; those of a folder in order of their names.

    In folders, files with other endings than `AUDIO_SUFFIXES` and hidden ones are left out, and
    links to folders are not followed. A path that is not there is returned: what reads it says so.

    Raises:
      UserError: there is none.
    """
    given = [local_path(path) for path in paths]
    songs = list(dict.fromkeys(song for path in given for song in (_below(path) if path.is_dir() else [path])))
    if not songs:
        where = ", ".join(map(str, given)) or "nothing"
        unread = unread_files(path for path in given if path.is_dir())
        raise UserError(
            f"no audio in {where}: looked for files that end in {', '.join(AUDIO_SUFFIXES)}"
            + (f". {unread}" if unread else "")
        )
    return songs


def unread_files(folders: Iterable[Path]) -> str:
    """Says how many files below folders are music in formats that are not read; "" if there are none."""
    found = [path for folder in folders for path in _below(folder, UNREAD_SUFFIXES)]
    if not found:
        return ""
    endings = ", ".join(sorted({path.suffix.lower() for path in found}))
    files = "1 file is" if len(found) == 1 else f"{len(found)} files are"
    return f"{files} in formats that are not read ({endings}): convert them, for example to FLAC with ffmpeg"


def _below(folder: Path, endings: tuple[str, ...] = AUDIO_SUFFIXES) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(endings) and not name.startswith("."):
                yield Path(parent, name)


def read_tags(path: Path) -> Tags:
    """Reads the tags of a file; one that has none, or is damaged, gives empty ones."""
    from tinytag import TinyTag

    if not path.is_file():  # a pipe would block
        return Tags()
    try:
        tag = TinyTag.get(path, duration=False)  # without tags it would search all of the file for audio
    except Exception:  # of damaged bytes it raises many kinds; decoding says what is wrong
        return Tags()
    return Tags(
        title=_text(tag.title),
        artist=_text(tag.albumartist or tag.artist),
        album=_text(tag.album),
        genre=_text(tag.genre),
    )


def _text(tag: str | None) -> str:
    return (tag or "").strip()[:_MOST_CHARACTERS]
