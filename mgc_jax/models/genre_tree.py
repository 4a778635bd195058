"""Scores that fit a tree of genres: whoever has a genre has those above it."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def check_parents(parents: Sequence[int], num_genres: int) -> None:
    """Raises `ValueError` unless there are no parents, or one for each genre: -1, or a genre before it."""
    if parents and (
        len(parents) != num_genres or not all(-1 <= parent < genre for genre, parent in enumerate(parents))
    ):
        raise ValueError(
            f"genre_parents={tuple(parents)} of {num_genres} genres is no tree, each genre after its parent"
        )


def subtrees(parents: Sequence[int]) -> np.ndarray:
    """Returns whether a genre (second axis) is another one (first axis) or lies below it: bool [genre, genre].

    Args:
        parents: the genre above each, which is before it; -1: a top genre.
    """
    below = np.eye(len(parents), dtype=bool)
    for genre in reversed(range(len(parents))):
        if parents[genre] >= 0:
            below[parents[genre]] |= below[genre]
    return below


def tree_consistent(scores: Float[Array, "*leading genre"], parents: Sequence[int]) -> Float[Array, "*leading genre"]:
    """Raises the score of each genre to the highest one of its subtree.

    A sigmoid keeps the order, so the probability of a genre is then at least that of each genre below it, and what is
    above a threshold is closed upwards (the hierarchy constraint of Giunchiglia & Lukasiewicz 2020).
    """
    if max(parents) < 0:
        return scores
    return jnp.max(jnp.where(subtrees(parents), scores[..., None, :], -jnp.inf), axis=-1)
