"""The body of a request -> audio files in a folder, within limits that hold while it is read.

A body is a line of JSON that lists the files, and then their bytes, one file after the other:

    {"bags": "tags", "files": [{"name": "album/one.mp3", "size": 960738}, ...]}

So the sizes are known before the first byte of a file. Names are only shown: a file is stored under a number.
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mgc_jax.runtime.files import writing
from mgc_jax.songs.files import BAGS
from tfds_fma.source.audio_files import AUDIO_SUFFIXES

MOST_FILES = 500
NO_ROOM = "Make room there, or set TMPDIR to another place."
_LIST_BYTES = 1 << 20
_MOST_CHARACTERS = 4096  # of a name with its folders


class RefusedError(Exception):
    """A request that is not served.

    Attributes:
        status: of HTTP.
        sentence: why, and the remedy.
    """

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(frozen=True)
class Upload:
    """A file that was sent.

    Attributes:
        name: as the browser gives it, with the folders below the one that was chosen; only to be shown.
        path: where it is stored; None: it is not, since it is no audio by its name.
    """

    name: str
    path: Path | None


@dataclass(frozen=True)
class Drop:
    """Files that were sent together.

    Attributes:
        bags: what makes an album, of `mgc_jax.songs.files.BAGS`.
        files: in the order given.
    """

    bags: str
    files: tuple[Upload, ...]


async def receive_files(body: AsyncIterator[bytes], folder: Path, max_bytes: int) -> Drop:
    """Stores the files of a request; those of one folder of the user in one folder.

    Args:
        body: the pieces of the request's body.
        folder: where to store them; it is empty.
        max_bytes: of all files together.

    Raises:
        RefusedError: the body is not as it must be, or too long.
        UserError: there is no room for it.
    """
    reader = _Reader(body)
    bags, listed = _parsed(await reader.line(_LIST_BYTES))
    if sum(size for _, size in listed) > max_bytes:
        raise too_large(max_bytes)
    folders: dict[str, Path] = {}
    files = []
    for number, (name, size) in enumerate(listed):
        inside, suffix = str(PurePosixPath(name).parent), PurePosixPath(name).suffix.lower()
        path = None
        if suffix in AUDIO_SUFFIXES:
            place = folders.setdefault(inside, folder / f"{len(folders):04}")
            path = place / f"{number:04}{suffix}"
            with writing(folder, NO_ROOM):
                place.mkdir(exist_ok=True)
                with path.open("wb") as file:
                    async for piece in reader.take(size):
                        file.write(piece)
        else:
            async for _ in reader.take(size):
                pass
        files.append(Upload(name, path))
    if await reader.more():
        raise RefusedError(400, "the request is longer than its list of files says")
    return Drop(bags, tuple(files))


def too_large(max_bytes: int) -> RefusedError:
    """Returns what is raised for files of more bytes."""
    limit = f"{max_bytes / 1e6:,.0f} MB"
    return RefusedError(
        413, f"these files have more than {limit} together: choose fewer, or start the page with a larger --max_mb"
    )


def _parsed(line: bytes) -> tuple[str, list[tuple[str, int]]]:
    """Returns what makes an album, and names and sizes of the files."""
    wrong = RefusedError(400, "the request does not begin with a list of files")
    try:
        given: Any = json.loads(line)
        bags, files = given["bags"], [(file["name"], file["size"]) for file in given["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise wrong from error
    if bags not in BAGS or not files:
        raise wrong
    for name, size in files:
        if not isinstance(name, str) or type(size) is not int or size < 0 or len(name) > _MOST_CHARACTERS:
            raise wrong
    if len(files) > MOST_FILES:
        raise RefusedError(413, f"these are {len(files):,} files, at most {MOST_FILES} can be taken: choose fewer")
    return bags, files


class _Reader:
    """Reads a body that comes in pieces of any length."""

    def __init__(self, body: AsyncIterator[bytes]):
        self._body, self._held = body, b""

    async def line(self, most: int) -> bytes:
        """Returns the bytes before the first line end, at most so many."""
        while (end := self._held.find(b"\n")) < 0:
            if len(self._held) > most or not (piece := await anext(self._body, b"")):
                break
            self._held += piece
        if not 0 <= end <= most:
            raise RefusedError(400, "the request does not begin with a list of files")
        line, self._held = self._held[:end], self._held[end + 1 :]
        return line

    async def take(self, size: int) -> AsyncIterator[bytes]:
        """Yields so many bytes in pieces."""
        while size:
            if not self._held and not await self.more():
                raise RefusedError(400, "the request ended before its last file")
            piece, self._held = self._held[:size], self._held[size:]
            size -= len(piece)
            yield piece

    async def more(self) -> bool:
        """Whether there are bytes left; waits for them."""
        while not self._held:
            piece = await anext(self._body, None)
            if piece is None:
                return False
            self._held = piece
        return True
