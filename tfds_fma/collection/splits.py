"""Splits a collection by artist: no artist is in two splits, and the genres are spread as evenly as that allows."""

import itertools
import warnings
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

# One for validation and one for test, as in FMA's own split of 8-1-1. With few artists, fewer and larger ones.
_PARTS = 10

_Genre = TypeVar("_Genre")


def split_by_artist(genre: Sequence[str], artist: Sequence[str], seed: int) -> np.ndarray:
    """Deals songs into training, validation and test.

    A genre of a single artist is trained on: what is not learned cannot be scored. The other artists are dealt into
    ten parts, one of them for validation and one for test. Where these would lack genres, other parts are taken, or
    fewer and larger ones: what leaves most genres in training, then in validation, then in test.

    Args:
      genre: of each song.
      artist: of each song; a song of unknown artist has a name of its own.
      seed: of the draws.

    Returns:
      str [song]: ``train``, ``validation`` or ``test``. With too few artists there is no test, and no validation.
    """
    label = np.unique(np.asarray(genre), return_inverse=True)[1]
    group = np.unique(np.asarray(artist), return_inverse=True)[1]
    single = [genre for genre, artists in artists_of_genres(label.tolist(), group.tolist()).items() if artists == 1]
    free = np.flatnonzero(~np.isin(group, group[np.isin(label, single)]))
    split = np.full(len(label), "train", "<U10")
    if not len(free):
        return split
    genres = len(np.unique(label))
    best = (0, 0, 0)
    for parts in range(min(_PARTS, len(np.unique(group[free])), np.bincount(label[free]).max()), 1, -1):
        part = np.full(len(label), -1)
        part[free] = _dealt(label[free], group[free], parts, seed)
        held = [set(label[part == number].tolist()) for number in range(parts)]
        kept = set(label[part == -1].tolist())
        for validation, test in itertools.permutations([*range(parts), None], 2):
            if validation is None:
                continue
            trained = kept.union(*(held[number] for number in range(parts) if number not in (validation, test)))
            score = (len(trained), len(held[validation]), 0 if test is None else len(held[test]))
            if score > best:
                best = score
                split[:] = "train"
                split[part == validation] = "validation"
                split[part == (parts if test is None else test)] = "test"
        if best == (genres, genres, genres):
            break
    return split


def artists_of_genres(genre: Sequence[_Genre], artist: Sequence) -> dict[_Genre, int]:
    """Returns how many artists each genre has, from the genre and the artist of each song."""
    artists: dict[_Genre, set] = {}
    for name, by in zip(genre, artist, strict=True):
        artists.setdefault(name, set()).add(by)
    return {name: len(found) for name, found in artists.items()}


def _dealt(label: np.ndarray, group: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Deals songs into parts, no group into two; returns the part of each, int [song]."""
    from sklearn.model_selection import StratifiedGroupKFold

    part = np.empty(len(label), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a genre of fewer songs than parts
        dealt = StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(label, label, group)
        for number, (_, songs) in enumerate(dealt):
            part[songs] = number
    return part
