"""Where the MP3 files of FMA lie: extracted folders or the official zip files, read in place."""

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tfds_fma.errors import UNREADABLE, ClipError, FmaError, in_words

# Each larger audio archive holds the clips of the smaller ones too, byte for byte. A subset's own archive is
# looked into first. (fma_full holds untrimmed tracks, in which "the first 29 s" are another excerpt.)
_ARCHIVES = {
    "small": ("fma_small", "fma_medium", "fma_large"),
    "medium": ("fma_medium", "fma_large", "fma_small"),
}


@dataclass(frozen=True)
class Container:
    """A folder or zip file of clips.

    Attributes:
      path: the folder (``.../fma_small``) or the zip file (``.../fma_small.zip``).
    """

    path: Path

    def location(self, track_id: int) -> str:
        """Names a clip for people, as ``fma_small/000/000002.mp3`` or ``fma_small.zip:fma_small/...``."""
        prefix = f"{self.path.name}:" if self.path.suffix == ".zip" else ""
        return f"{prefix}{self.path.stem}/{_relative_path(track_id)}"

    def read(self, track_id: int) -> bytes:
        """Returns the bytes of a clip.

        Raises:
          ClipError: if it is not here ("missing"), or cannot be read ("undecodable").
        """
        relative = _relative_path(track_id)
        try:
            if self.path.suffix == ".zip":
                return _opened(self.path).read(f"{self.path.stem}/{relative}")
            return (self.path / relative).read_bytes()
        except (KeyError, FileNotFoundError) as error:
            raise ClipError("missing", "no such file") from error
        except UNREADABLE as error:
            raise ClipError("undecodable", f"cannot be read: {in_words(error)}") from error


@functools.cache
def _opened(path: Path) -> zipfile.ZipFile:
    """Opens a zip file once per process and keeps it open."""
    return zipfile.ZipFile(path)


def _relative_path(track_id: int) -> str:
    """FMA's layout: a folder per thousand ids, e.g. ``000/000002.mp3``."""
    return f"{track_id // 1000:03d}/{track_id:06d}.mp3"


def find_containers(source: str | Path, subset: str) -> tuple[Container, ...]:
    """Lists the folders and zip files that may hold clips of the subset, in the order to look into them.

    Raises:
      FmaError: if there is none, or a zip file is incomplete.
    """
    if not Path(source).is_dir():
        raise FmaError(f"The source folder {source} does not exist. Give the folder that holds fma_metadata.")
    candidates = [Path(source) / (name + ending) for name in _ARCHIVES[subset] for ending in ("", ".zip")]
    found = [path for path in candidates if (path.is_file() if path.suffix == ".zip" else path.is_dir())]
    if not found:
        names = ", ".join(path.name for path in candidates)
        raise FmaError(
            f"There is no audio in {source}: looked for {names}. Get fma_{subset}.zip from "
            "https://github.com/mdeff/fma and put it there, zipped or not."
        )
    for path in found:
        if path.suffix == ".zip":
            _check_zip(path)
    return tuple(Container(path) for path in found)


def _check_zip(path: Path) -> None:
    """Raises FmaError unless the list of files in a zip file, which is at its end, can be read."""
    try:
        zipfile.ZipFile(path).close()
    except UNREADABLE as error:
        raise FmaError(
            f"{path} is not a complete zip file ({in_words(error)}): download it again, or move it away."
        ) from error
