"""Rules that split the clips into training, validation and test: the registry `SPLITS`, for `config.data.split`.

A rule takes the corpus as its source splits it, and `config.data`; it returns the corpus with another split.
A new rule is one function and one line in `SPLITS`.
"""

import dataclasses
import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mgc_jax.config.keys import split_rule
from mgc_jax.data.corpus import INNER, SPLIT_NAMES, Corpus, albums_of_artists, known_or_alone
from mgc_jax.errors import UserError

log = logging.getLogger(__name__)

Rule = Callable[[Corpus, Any], Corpus]


def fma(corpus: Corpus, data: Any) -> Corpus:
    """Keeps the split that the corpus has. FMA's own is artist-filtered and stratified by genre."""
    return corpus


def folds(corpus: Corpus, data: Any) -> Corpus:
    """Splits the training and validation clips into `data.folds` folds by artist; `data.fold` is scored."""
    return cross_validation(corpus, data.folds, data.fold, data.split_seed, selection=data.fold_selection)


def eight_one_one(corpus: Corpus, data: Any) -> Corpus:
    """Splits all clips at random, 8-1-1 in every genre, as the PRCNN report's text has it.

    Artists are not kept together, so validation and test scores are optimistic; the log says how many artists are in
    several splits.
    """
    return _at_random(corpus, "8-1-1", "clips", stratified_split(corpus.label, data.split_seed))


def eight_one_one_albums(corpus: Corpus, data: Any) -> Corpus:
    """Splits all albums at random, 8-1-1 in every genre; a clip of unknown album is one of its own.

    The segments of a song, whose album is the song, stay together. Artists are not kept together, as in 8-1-1.
    """
    albums = known_or_alone(albums_of_artists(corpus.album, corpus.artist), corpus.track_id)
    _, first, album = np.unique(albums, return_index=True, return_inverse=True)
    return _at_random(corpus, "8-1-1-albums", "albums", stratified_split(corpus.label[first], data.split_seed)[album])


def _at_random(corpus: Corpus, rule: str, what: str, split: np.ndarray) -> Corpus:
    """Gives the corpus a random split, and says what it shares."""
    if missing := sorted(set(SPLIT_NAMES) - set(split)):
        raise UserError(
            f"config.data.split={rule} leaves no clip for {' and '.join(missing)}: the corpus has only {len(corpus)} "
            f"clips. It needs at least 10 {what}; leave config.data.split at fma"
        )
    corpus = dataclasses.replace(corpus, split=split)
    shared, known = artists_in_several_splits(corpus), np.unique(corpus.artist[corpus.artist != ""])
    log.warning(
        "config.data.split=%s ignores artists: %d of %d known artists have clips in more than one split, so "
        "validation and test scores are optimistic. Do not compare them with scores on an artist-filtered split",
        rule, len(shared), len(known),
    )  # fmt: skip
    return corpus


SPLITS: dict[str, Rule] = {
    "fma": fma,
    "folds": folds,
    "8-1-1": eight_one_one,
    "8-1-1-albums": eight_one_one_albums,
}
"""Name in `config.data.split` -> rule: `mgc_jax.SPLITS["8-1-1"](corpus, config.data)` resplits a corpus."""


def find_split(data: Any) -> Rule:
    """Returns the rule that `config.data` names; raises `UserError` if there is none of that name."""
    name = split_rule(data.split, data.folds)
    if name not in SPLITS:
        raise UserError(f"config.data.split={name!r} is no split rule. Choose from {', '.join(SPLITS)}")
    return SPLITS[name]


def nonempty_splits(corpus: Corpus, *, test: bool) -> list[str]:
    """The splits that have clips; the test split only if it is asked for."""
    return [split for split in SPLIT_NAMES if len(corpus.indices(split)) and (test or split != "test")]


def artists_in_several_splits(corpus: Corpus) -> np.ndarray:
    """Returns the known artists that have clips in more than one split: str [artist], sorted."""
    pairs = np.unique(np.stack([corpus.artist, corpus.split], axis=1)[corpus.artist != ""], axis=0)
    artists, splits = np.unique(pairs[:, 0], return_counts=True)
    return artists[splits > 1]


def stratified_split(label: np.ndarray, seed: int) -> np.ndarray:
    """Draws a stratified random split of 8-1-1.

    The clips are sorted by genre, at random within each, and dealt in turn: 8 of 10 to training, one to validation,
    one to test. So the number of a genre's clips in a split differs by less than two from its share.

    Args:
        label: int [clip].
        seed: of the draws.

    Returns:
        str [clip], of `SPLIT_NAMES`.
    """
    order = np.lexsort((np.random.default_rng(seed).permutation(len(label)), label))
    split = np.empty(len(label), f"<U{max(map(len, SPLIT_NAMES))}")
    split[order] = np.resize(("train",) * 8 + ("validation", "test"), len(label))
    return split


def cross_validation(corpus: Corpus, folds: int, fold: int, seed: int = 0, *, selection: str = "inner") -> Corpus:
    """Splits the training and validation clips into folds; one of them becomes the validation split, which is scored.

    The clips of the other folds are dealt once more, into as many parts but at least five, or as many as there are
    artists, and the first of these selects the checkpoint (`INNER`): the fold that is scored selects nothing; with
    two or three folds as many parts would leave little to train on. No artist is in two folds or parts
    (a clip of unknown artist counts as an artist of its own), and the genres are spread over them as evenly as that
    allows (scikit-learn's `StratifiedGroupKFold`). The test split, and what is in none, stay as they are.

    Args:
        corpus: the corpus.
        folds: how many.
        fold: the one that is scored, from 0.
        seed: of the draws.
        selection: "inner", or "scored": the fold that is scored selects the checkpoint, too, which flatters it.

    Raises:
        UserError: there are too few artists to fill every fold, or to select a checkpoint in one of them, whatever
            `fold` is.
    """
    rows = np.flatnonzero(np.isin(corpus.split, ("train", INNER, "validation")))
    label, artist = corpus.label[rows], known_or_alone(corpus.artist[rows], corpus.track_id[rows])
    artists = len(np.unique(artist))
    if artists < folds:
        raise UserError(f"config.data.folds={folds}, but the clips are of {artists} artists")
    dealt = _dealt(label, artist, folds, seed)
    if empty := sorted(set(range(folds)) - set(dealt.tolist())):
        raise UserError(
            f"config.data.folds={folds} is too many for the {artists} artists of this corpus: no artist is left for "
            f"fold {empty[0]}, since no artist may be in two folds and genres are spread evenly. Give fewer folds"
        )
    # Parts of the clips outside each fold. All are checked: a cross-validation shall not stop after some training.
    others = [dealt != number for number in range(folds)]
    parts = [min(max(folds, 5), len(np.unique(artist[o])), np.bincount(label[o]).max()) for o in others]
    if selection == "inner" and min(parts) < 2:
        raise UserError(
            f"config.data.folds={folds}: the clips outside fold {np.argmin(parts)} are of one artist, or none of "
            "their genres has two, so that none can be set aside to select a checkpoint. Give another number of "
            "folds, or config.data.fold_selection=scored"
        )
    split = corpus.split.astype(object)
    split[rows] = np.where(dealt == fold, "validation", "train")
    if selection == "inner":
        inner = _dealt(label[others[fold]], artist[others[fold]], parts[fold], seed)
        split[rows[others[fold]][inner == inner.min()]] = INNER
    return dataclasses.replace(corpus, split=split.astype(str))


def _dealt(label: np.ndarray, artist: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Deals clips into parts, no artist into two, genres spread evenly; returns the part of each: int [clip]."""
    from sklearn.model_selection import StratifiedGroupKFold

    part = np.empty(len(label), int)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a genre of fewer clips than parts
        try:
            dealt = StratifiedGroupKFold(parts, shuffle=True, random_state=seed).split(label, label, artist)
            for number, (_, clips) in enumerate(dealt):
                part[clips] = number
        except ValueError as error:
            raise UserError(f"config.data.folds={parts} is too many for this corpus: {error}") from error
    return part
