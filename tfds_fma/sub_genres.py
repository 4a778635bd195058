"""Sub-genres: the second level of FMA's genre tree."""

import collections
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def find_subgenres(
    genres_all: Sequence[Sequence[int]],
    label: "np.ndarray",
    train: "np.ndarray",
    genres: Sequence[str],
    top_ids: Collection[int],
    min_clips: int = 10,
) -> tuple[tuple[str, ...], tuple[int, ...], "np.ndarray"]:
    """Finds the second level of the genre tree.

    FMA's `genres_all` lists a clip's genres and their ancestors in the tree of `genres.csv`. So the commonest of
    them below the top is the sub-genre nearest to it.

    Args:
        genres_all: for each clip, FMA's ids of its genres.
        label: int [clip].
        train: bool [clip]: training clips, which are counted.
        genres: label names.
        top_ids: FMA's ids of the top genres.
        min_clips: a sub-genre with fewer training clips of its top genre does not count.

    Returns:
        `subgenres`, `subgenre_parents` and `subgenre` of a `Corpus`.
    """
    import numpy as np

    below = [[i for i in ids if i not in top_ids] for ids in genres_all]
    count = collections.Counter(
        (parent, i) for parent, ids, counted in zip(label.tolist(), below, train, strict=True) if counted for i in ids
    )
    kept = sorted(pair for pair, clips in count.items() if clips >= min_clips)
    number = {pair: len(genres) + i for i, pair in enumerate(kept)}
    subgenre = np.array(label, np.int32)
    for row, (parent, ids) in enumerate(zip(label.tolist(), below, strict=True)):
        pairs = [(parent, i) for i in ids if (parent, i) in number]
        if pairs:
            subgenre[row] = number[max(pairs, key=lambda pair: (count[pair], -pair[1]))]
    names = (*genres, *(f"{genres[parent]}/{i}" for parent, i in kept))
    return names, (*range(len(genres)), *(parent for parent, _ in kept)), subgenre
