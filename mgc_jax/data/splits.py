"""The splits of a corpus: FMA's own, or folds grouped by artist."""

import dataclasses
import logging
import warnings

import numpy as np

from mgc_jax.data.corpus import SPLIT_NAMES, Corpus
from mgc_jax.errors import UserError

log = logging.getLogger(__name__)


def nonempty_splits(corpus: Corpus, *, test: bool) -> list[str]:
    """The splits that have clips; the test split only if it is asked for."""
    return [split for split in SPLIT_NAMES if len(corpus.indices(split)) and (test or split != "test")]


def cross_validation(corpus: Corpus, folds: int, fold: int) -> Corpus:
    """Deals the training and validation clips anew: one of several folds becomes the validation split.

    No artist is in two folds (a clip of unknown artist counts as an artist of its own), and the genres are spread
    over the folds as evenly as that allows (scikit-learn's `StratifiedGroupKFold`). The test split stays as it is.

    Raises:
        UserError: there are fewer artists than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    rows = np.flatnonzero(corpus.split != "test")
    alone = np.char.add("track ", corpus.track_id[rows].astype(str))
    artist = np.where(corpus.artist[rows] == "", alone, corpus.artist[rows])
    if len(np.unique(artist)) < folds:
        raise UserError(f"config.data.folds={folds}, but the clips are of {len(np.unique(artist))} artists")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a genre of fewer clips than folds
        try:
            dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=0)
            parts = list(dealt.split(rows, corpus.label[rows], artist))
        except ValueError as error:
            raise UserError(f"config.data.folds={folds} is too many for this corpus: {error}") from error
    split = corpus.split.astype(object)
    split[rows] = "train"
    split[rows[parts[fold][1]]] = "validation"
    return dataclasses.replace(corpus, split=split.astype(str))
