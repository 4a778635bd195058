"""FMA's tree of genres: the table `genres.csv` beside this file, and what lies above a genre.

The table is the id, parent and title of FMA's own genres.csv (fma_metadata of Defferrard et al. 2017,
https://github.com/mdeff/fma, CC BY 4.0): 163 genres, of which 161 have tracks, in 16 trees of at most five levels.
"""

import csv
import functools
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

from tfds_fma.errors import UserError
from tfds_fma.labels import GENRES


class Genre(NamedTuple):
    """A node of the tree.

    Attributes:
      genre_id: FMA's id, as in the `genres_all` of a track.
      parent: id of the genre above it; 0: a top genre.
      title: its name; no two genres share one, and none holds a "|".
    """

    genre_id: int
    parent: int
    title: str


@functools.cache
def genre_tree() -> dict[int, Genre]:
    """Returns FMA's genres by id, each after its parent: top genres as in `GENRES`, and below a genre by id."""
    with resources.files("tfds_fma").joinpath("genres.csv").open(encoding="utf-8") as file:
        genres = [Genre(int(row["genre_id"]), int(row["parent"]), row["title"]) for row in csv.DictReader(file)]
    below: dict[int, list[Genre]] = {}
    for genre in genres:
        below.setdefault(genre.parent, []).append(genre)
    below[0].sort(key=lambda genre: GENRES.index(genre.title))
    tree: dict[int, Genre] = {}

    def add(parent: int) -> None:
        for genre in below.get(parent, ()):
            tree[genre.genre_id] = genre
            add(genre.genre_id)

    add(0)
    return tree


def with_ancestors(genre_ids: Iterable[int]) -> frozenset[int]:
    """Returns genres and all that lie above them.

    Raises:
      UserError: FMA has no genre of that id.
    """
    tree, closed = genre_tree(), set()
    for number in genre_ids:
        while number and number not in closed:
            if number not in tree:
                raise UserError(
                    f"genre id {number} is none of the {len(tree)} of FMA's genres.csv; correct genres_all"
                )
            closed.add(number)
            number = tree[number].parent
    return frozenset(closed)
