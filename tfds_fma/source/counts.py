"""How many clips FMA has, as published: what a prepared dataset is held against.

M. Defferrard, K. Benzi, P. Vandergheynst, X. Bresson: FMA: A Dataset for Music Analysis, ISMIR 2017
(arXiv:1612.01840); the counts per genre are those of the notebook ``analysis.ipynb`` of mdeff/fma.
"""

from tfds_fma.labels import GENRES
from tfds_fma.source.tracks import SPLITS

# Genre -> clips in training, validation and test of FMA-medium.
_MEDIUM = {
    "Rock": (5681, 711, 711),
    "International": (814, 102, 102),
    "Folk": (1215, 152, 152),
    "Experimental": (1801, 225, 225),
    "Instrumental": (1045, 131, 174),
    "Pop": (945, 122, 119),
    "Hip-Hop": (1761, 220, 220),
    "Electronic": (5050, 632, 632),
    "Soul-RnB": (94, 18, 42),
    "Blues": (58, 8, 8),
    "Old-Time / Historic": (408, 51, 51),
    "Jazz": (306, 39, 39),
    "Country": (142, 18, 18),
    "Classical": (495, 62, 62),
    "Spoken": (94, 12, 12),
    "Easy Listening": (13, 2, 6),
}


# FMA-small is balanced: the eight genres that come first in GENRES.
_SMALL = dict.fromkeys(GENRES[:8], (800, 100, 100))


# Large and full have the same tracks. Per genre nothing was published: half of the tracks have no top genre.
_LARGE = (84_353, 10_958, 11_263)


_COUNTS = {"small": _SMALL, "medium": _MEDIUM}


def clips_per_genre(subset: str) -> dict[str, dict[str, int]] | None:
    """Returns split -> genre -> number of clips, or None if that was not published for the subset."""
    counts = _COUNTS.get(subset)
    if counts is None:
        return None
    return {
        split: {genre: numbers[position] for genre, numbers in counts.items()}
        for position, split in enumerate(SPLITS.values())
    }


def clips_per_split(subset: str) -> dict[str, int] | None:
    """Returns split -> number of clips, or None if that was not published for the subset."""
    per_genre = clips_per_genre(subset)
    if per_genre is not None:
        return {split: sum(numbers.values()) for split, numbers in per_genre.items()}
    return dict(zip(SPLITS.values(), _LARGE, strict=True)) if subset in ("large", "full") else None
