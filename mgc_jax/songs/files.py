"""Which of the songs that a user names form a bag."""

from collections.abc import Sequence
from pathlib import Path

from mgc_jax.errors import UserError
from tfds_fma.collection.songs import Tags

BAGS = ("tags", "folder", "none")


def as_text(path: Path) -> str:
    """Returns a path as Unicode text; bytes of a name that are none are escapes."""
    return str(path).encode(errors="surrogateescape").decode(errors="backslashreplace")


def bag_numbers(paths: Sequence[Path], tags: Sequence[Tags], bags: str) -> list[int]:
    """Returns the number of each song's bag, from 0 in order of appearance.

    Args:
        paths: the songs.
        tags: of each.
        bags: "tags": songs of one album and artist; of one album and folder where the tags name no artist, of one
            folder where they name no album. "folder": songs of one folder. "none": every song alone.

    Raises:
        UserError: another word.
    """
    if bags not in BAGS:
        raise UserError(f"bags={bags!r}: choose one of {', '.join(BAGS)}")
    keys: list[tuple] = []
    for path, tag in zip(paths, tags, strict=True):
        if bags == "none":
            keys.append((path,))
        elif bags == "tags" and tag.album:
            unknown = None if tag.artist else path.absolute().parent
            keys.append((tag.album.casefold(), tag.artist.casefold(), unknown))
        else:
            keys.append((path.absolute().parent,))
    number: dict[tuple, int] = {}
    return [number.setdefault(key, len(number)) for key in keys]
