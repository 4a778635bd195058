"""The genres of the Free Music Archive and their class ids."""

import re

from tfds_fma.errors import UserError

# Class ids are positions in this tuple. The order is that of MATT's published label map, in which the eight
# genres of FMA-small come first, so that a class id means the same genre in both subsets.
GENRES: tuple[str, ...] = (
    "Rock",
    "International",
    "Folk",
    "Experimental",
    "Instrumental",
    "Pop",
    "Hip-Hop",
    "Electronic",
    "Soul-RnB",
    "Blues",
    "Old-Time / Historic",
    "Jazz",
    "Country",
    "Classical",
    "Spoken",
    "Easy Listening",
)

# FMA's own ids of the top genres, as in its genres.csv and in the `genres_all` of a track.
GENRE_IDS: dict[str, int] = dict(
    zip(GENRES, (12, 2, 17, 38, 1235, 10, 21, 15, 14, 3, 8, 4, 9, 5, 20, 13), strict=True)
)

# In FMA every subset holds the smaller ones. Large and full have the same tracks: 30 s clips in large, whole tracks in
# full. Only of small and medium has every track a top genre.
SUBSETS: tuple[str, ...] = ("small", "medium", "large", "full")

_SMALL_GENRES = 8

# A music collection of one's own takes the place of a subset, under a name that begins so.
_OWN = "own_"


def genres_of(subset: str) -> tuple[str, ...]:
    """Returns the genre names of a subset; class ids are positions in the tuple.

    Args:
      subset: ``"small"`` (8 genres), ``"medium"``, ``"large"`` or ``"full"`` (16 genres).

    Raises:
      UserError: if the subset is unknown.
    """
    if subset not in SUBSETS:
        raise UserError(f"Unknown subset {subset!r}. Choose one of: {', '.join(SUBSETS)}.")
    return GENRES[:_SMALL_GENRES] if subset == "small" else GENRES


def own_subset(name: str) -> str:
    """Returns what a music collection of one's own is called in the place of a subset, such as ``own_music``.

    Raises:
      UserError: if it cannot be called that, as TFDS makes a folder's name of it.
    """
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise UserError(f"{name!r} cannot be the name of a collection: use lower-case letters, digits and _ only.")
    return f"{_OWN}{name}"


def own_name(subset: str) -> str:
    """Returns the name of a music collection of one's own; "" if `subset` is none."""
    return subset.removeprefix(_OWN) if re.fullmatch(rf"{_OWN}[a-z0-9_]+", subset) else ""
