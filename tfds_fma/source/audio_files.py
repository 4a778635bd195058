"""Where the MP3 files of FMA lie: extracted folders or the official zip files, read in place."""

import functools
import io
import stat
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tfds_fma.errors import UNREADABLE, ClipError, UserError, in_words
from tfds_fma.source.archives import check_zip, readable_size, size_limit

# The usual endings of what libsndfile reads.
AUDIO_SUFFIXES = (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".oga", ".ogg", ".opus", ".w64", ".wav")

# Those of music that it does not read.
UNREAD_SUFFIXES = (".aac", ".ape", ".dsf", ".m4a", ".mp4", ".mpc", ".tta", ".wma", ".wv")

# Each larger audio archive holds the clips of the smaller ones too, byte for byte. A subset's own archive is
# looked into first. fma_full holds whole tracks; cutting the clips out of them again would give other bits.
_ARCHIVES = {
    "small": ("fma_small", "fma_medium", "fma_large"),
    "medium": ("fma_medium", "fma_large", "fma_small"),
    "large": ("fma_large", "fma_medium", "fma_small"),
    "full": ("fma_full",),
}


@dataclass(frozen=True)
class Container:
    """A folder or zip file of clips.

    Attributes:
      path: the folder (``.../fma_small``) or the zip file (``.../fma_small.zip``).
    """

    path: Path

    @property
    def whole_tracks(self) -> bool:
        """Whether the files are whole tracks, not clips."""
        return self.path.stem == "fma_full"

    @property
    def identity(self) -> str:
        """Tells this container from another."""
        return str(self.path.absolute())

    def state(self, track_id: int) -> str:
        """Text that differs if the file of a clip, or the zip file, is another than before; "" if there is none."""
        try:
            status = (self.path if self.path.suffix == ".zip" else self.path / _relative_path(track_id)).stat()
        except OSError:
            return ""
        return f"{status.st_size} {status.st_mtime_ns}"

    def holds(self, track_ids: Iterable[int]) -> bool:
        """Whether a zip file has all these clips; of a folder, where that takes long to tell, False."""
        if self.path.suffix != ".zip":
            return False
        members = _opened(self.path).NameToInfo
        return all(f"{self.path.stem}/{_relative_path(track_id)}" in members for track_id in track_ids)

    def location(self, track_id: int) -> str:
        """Names a clip for people, as ``fma_small/000/000002.mp3`` or ``fma_small.zip:fma_small/...``."""
        prefix = f"{self.path.name}:" if self.path.suffix == ".zip" else ""
        return f"{prefix}{self.path.stem}/{_relative_path(track_id)}"

    def open(self, track_id: int) -> BinaryIO:
        """Opens a clip.

        Raises:
          ClipError: if it is not here ("missing"), or cannot be read ("undecodable").
        """
        relative = _relative_path(track_id)
        try:
            if self.path.suffix == ".zip":
                archive = _opened(self.path)
                member = archive.getinfo(f"{self.path.stem}/{relative}")
                with archive.open(member) as file:
                    # `read()` would unpack all, whatever size the list declares.
                    return io.BytesIO(file.read(member.file_size))
            return _open_file(self.path / relative, size_limit(f"{self.path.name}.zip"))
        except (KeyError, FileNotFoundError) as error:
            raise ClipError("missing", "no such file") from error
        except UNREADABLE as error:
            raise ClipError("undecodable", f"cannot be read: {in_words(error)}") from error

    def read(self, track_id: int) -> bytes:
        """Returns the bytes of a clip; raises ClipError as `open` does."""
        with self.open(track_id) as file:
            try:
                return file.read()
            except OSError as error:
                raise ClipError("undecodable", f"cannot be read: {in_words(error)}") from error


def _open_file(path: Path, limit: int) -> BinaryIO:
    """Opens a file that may be a clip: not a pipe, which would block, nor one that would fill the memory."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ClipError("undecodable", "not a file")
    if status.st_size > limit:
        raise ClipError("undecodable", f"{readable_size(status.st_size)}, over the limit of {readable_size(limit)}")
    return path.open("rb", buffering=0)


@functools.cache
def _opened(path: Path) -> zipfile.ZipFile:
    """Opens a zip file once per process and keeps it open."""
    return zipfile.ZipFile(path)


def _relative_path(track_id: int) -> str:
    """FMA's layout: a folder per thousand ids, e.g. ``000/000002.mp3``."""
    return f"{track_id // 1000:03d}/{track_id:06d}.mp3"


def check_source_folder(source: Path) -> None:
    """Raises UserError unless the source is a folder."""
    if not source.is_dir():
        what = "is not a folder" if source.exists() else "does not exist"
        raise UserError(f"The source folder {source} {what}. Give the folder that holds fma_metadata and the audio.")


def find_containers(source: str | Path, subset: str) -> tuple[Container, ...]:
    """Lists the folders and zip files that may hold clips of the subset, in the order to look into them.

    Raises:
      UserError: if there is none, or a zip file is incomplete or not harmless (`tfds_fma.source.archives.check_zip`).
    """
    check_source_folder(Path(source))
    candidates = [Path(source) / (name + ending) for name in _ARCHIVES[subset] for ending in ("", ".zip")]
    found = [path for path in candidates if (path.is_file() if path.suffix == ".zip" else path.is_dir())]
    if not found:
        names = ", ".join(path.name for path in candidates)
        raise UserError(
            f"There is no audio in {source}: looked for {names}. Get fma_{subset}.zip from "
            "https://github.com/mdeff/fma and put it there, zipped or not."
        )
    for path in found:
        if path.suffix == ".zip":
            check_zip(path)
    return tuple(Container(path) for path in found)
