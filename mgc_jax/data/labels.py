"""Several genres per clip: multi-hot labels, closed upwards over a tree of genres (`config.task=multi_label`)."""

import logging
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from mgc_jax.errors import UserError
from tfds_fma.genre_tree import genre_tree, with_ancestors
from tfds_fma.source.arrays import genre_names

log = logging.getLogger(__name__)

SEPARATOR = "|"  # between the genres of a cell in a table of one's own


class GenreSets(NamedTuple):
    """The genres of clips.

    Attributes:
        genres: label names, every genre after its parent.
        parents: the genre above each, an index into `genres`; -1: a top genre.
        label: bool [clip, genre]; whoever has a genre has its parent.
    """

    genres: tuple[str, ...]
    parents: tuple[int, ...]
    label: np.ndarray

    def trainable(self, train: np.ndarray) -> "GenreSets":
        """Leaves out the genres that no training clip has, and logs how many: nothing can be learned about them.

        What is left is closed upwards, too: a training clip that has a genre has its parent.

        Args:
            train: bool [clip].
        """
        seen = self.label[train].any(axis=0)
        if not seen.all():
            absent = [genre for genre, there in zip(self.genres, seen, strict=True) if not there]
            log.info(
                "%d of %d genres have no training clip and are left out: %s%s",
                len(absent), len(seen), ", ".join(absent[:5]), ", ..." if len(absent) > 5 else "",
            )  # fmt: skip
        kept = np.flatnonzero(seen).tolist()
        number = {-1: -1} | {genre: i for i, genre in enumerate(kept)}
        return GenreSets(
            tuple(self.genres[genre] for genre in kept),
            tuple(number[self.parents[genre]] for genre in kept),
            self.label[:, kept],
        )


def of_fma(genres_all: Sequence[Collection[int]], where: str) -> GenreSets:
    """Returns the genres of clips of FMA, in the order of `genre_tree`.

    Args:
        genres_all: FMA's ids of the genres of each clip.
        where: names the dataset in messages.

    Raises:
        UserError: no clip has any, as in a dataset that was not made from FMA's own table; or one has an unknown id.
    """
    tree = genre_tree()
    number = {genre_id: i for i, genre_id in enumerate(tree)}
    label = np.zeros((len(genres_all), len(tree)), bool)
    for row, ids in enumerate(genres_all):
        label[row, [number[genre_id] for genre_id in with_ancestors(map(int, ids))]] = True
    if not label.any():
        raise UserError(
            f"config.task=multi_label: no clip of {where} has genres beside its top genre (genres_all), so it was not "
            "made from FMA's own tracks.csv. Prepare FMA from that table, or set config.task=single_label."
        )
    parents = tuple(number.get(genre.parent, -1) for genre in tree.values())
    return GenreSets(tuple(genre.title for genre in tree.values()), parents, label)


def of_names(cells: Sequence[str], genres: Sequence[str]) -> GenreSets:
    """Returns the genres of clips from cells such as `Rock|Punk`; none lies above another one.

    Args:
        cells: names joined by `SEPARATOR`, of each clip.
        genres: label names, among which all of them are.
    """
    number = {genre: i for i, genre in enumerate(genres)}
    label = np.zeros((len(cells), len(genres)), bool)
    for row, cell in enumerate(cells):
        label[row, [number[name] for name in genre_names(cell, SEPARATOR)]] = True
    return GenreSets(tuple(genres), (-1,) * len(genres), label)
