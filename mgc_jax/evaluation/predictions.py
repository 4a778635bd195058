"""The scores of every clip and every bag, as a table in memory; `predictions_file` reads and writes it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgc_jax.data.bags import Bags
from mgc_jax.data.corpus import SPLIT_NAMES, Corpus, known_or_alone
from mgc_jax.errors import UserError
from mgc_jax.evaluation.levels import LEVELS
from mgc_jax.evaluation.metrics import mean_log_odds, mean_log_scores


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Scores of clips and bags; the clips of a bag lie side by side.

    Attributes:
        genres: label names.
        track_id: int64 [clip].
        split: str [clip].
        label: int32 [clip], indexes `genres`; multi-label: bool [clip, genre], closed upwards over `parents`.
        artist: str [clip], "" where unknown.
        album: str [clip], "" where unknown.
        bag: int64 [clip]: ascending from 0; no bag has clips of two splits.
        clip_scores: float [clip, genre]: log scores of each clip alone, as a bag of one; multi-label: log odds; None:
            not given.
        bag_scores: float [clip, genre]: log scores of the bag model, copied to the bag's clips; None: no such model.
        predicted_genres: by level, int [clip]: the classifier's own predictions where they are not all those of the
            highest scores (SVM).
        attention: float32 [clip]: the clip's weight in its bag (under the query of the predicted genre, where genres
            have queries); None: not given.
        fold: int32 [clip]: of a cross-validation; None: there is none.
        train_clips: float [genre]: how many training clips each genre has; None: unknown.
        train_clips_outside_small: float [genre]: the same without the clips of FMA-small; None: unknown.
        info: what made them: model, corpus, fingerprint; and which splits the corpus has.
        parents: multi-label: the genre above each, an index into `genres`; -1: a top genre. Empty: one genre per clip.
    """

    genres: tuple[str, ...]
    track_id: np.ndarray
    split: np.ndarray
    label: np.ndarray
    artist: np.ndarray
    album: np.ndarray
    bag: np.ndarray
    clip_scores: np.ndarray | None = None
    bag_scores: np.ndarray | None = None
    predicted_genres: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    attention: np.ndarray | None = None
    fold: np.ndarray | None = None
    train_clips: np.ndarray | None = None
    train_clips_outside_small: np.ndarray | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    parents: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.track_id)

    @property
    def multi_label(self) -> bool:
        """Whether a clip may have several genres (`config.task=multi_label`)."""
        return bool(self.parents)

    @functools.cached_property
    def offsets(self) -> np.ndarray:
        """Bag b holds rows `offsets[b]` to `offsets[b + 1]`: int64 [bag + 1]."""
        return np.searchsorted(self.bag, np.arange(self.bag[-1] + 2 if len(self) else 1))

    @property
    def bag_sizes(self) -> np.ndarray:
        """Clips per bag: int64 [bag]."""
        return np.diff(self.offsets)

    @property
    def splits(self) -> list[str]:
        """The splits that have clips."""
        return [split for split in SPLIT_NAMES if np.any(self.split == split)]

    @functools.cached_property
    def artists(self) -> np.ndarray:
        """What is resampled: the artist of each clip, or the clip itself where the artist is unknown: str [clip]."""
        return known_or_alone(self.artist, self.track_id)

    @functools.cached_property
    def levels(self) -> dict[str, np.ndarray]:
        """Log scores (multi-label: log odds) [clip, genre] of each level that there is."""
        levels = {}
        if self.clip_scores is not None:
            mean_of = mean_log_odds if self.multi_label else mean_log_scores
            mean = mean_of(self.clip_scores.astype(np.float64), self.offsets)
            levels["clip"] = self.clip_scores
            levels["clip_mean"] = np.repeat(mean, self.bag_sizes, axis=0)
        if self.bag_scores is not None:
            levels["bag"] = self.bag_scores
        return levels

    def predicted(self, level: str) -> np.ndarray:
        """Predicted genres at a level: int [clip]. Multi-label, see `evaluation.multi_label.predicted_genres`."""
        own = self.predicted_genres.get(level)
        return self.levels[level].argmax(axis=1) if own is None else own

    def take(self, rows: np.ndarray) -> "Predictions":
        """Returns some rows in their order: bool or int [clip]. Clips of a bag that stay form a bag."""
        given = {
            name: value[rows]
            for name, value in vars(self).items()
            if name in _PER_CLIP and value is not None
        }  # fmt: skip
        given["bag"] = np.unique(given["bag"], return_inverse=True)[1]
        own = {level: value[rows] for level, value in self.predicted_genres.items()}
        return dataclasses.replace(self, **given, predicted_genres=own)

    def replace(self, **changes: Any) -> "Predictions":
        """Returns a copy with other values."""
        return dataclasses.replace(self, **changes)

    def of_split(self, split: str) -> "Predictions":
        """Returns the rows of one split."""
        return self.take(self.split == split)


_PER_CLIP = (
    "track_id", "split", "label", "artist", "album", "bag", "clip_scores", "bag_scores", "attention", "fold"
)  # fmt: skip


def of_corpus(
    corpus: Corpus,
    split: str,
    bags: Bags,
    clip_scores: np.ndarray,
    *,
    bag_scores: np.ndarray | None = None,
    predicted_genres: dict[str, np.ndarray] | None = None,
    attention: np.ndarray | None = None,
) -> Predictions:
    """Puts the scores of one split of a corpus together.

    Args:
        corpus: the corpus.
        split: train, validation or test.
        bags: the bags of the split; row i of every array is clip i of them.
        clip_scores: log scores [clip, genre].
        bag_scores: log scores [clip, genre], copied to the clips of a bag.
        predicted_genres: as in `Predictions`.
        attention: [clip].
    """
    rows = bags.clips
    train_clips, outside_small = training_clips(corpus)
    return Predictions(
        genres=corpus.genres,
        parents=corpus.parents,
        track_id=corpus.track_id[rows],
        split=np.full(len(rows), split),
        label=corpus.label[rows],
        artist=corpus.artist[rows],
        album=corpus.album[rows],
        bag=np.repeat(np.arange(len(bags)), bags.sizes),
        clip_scores=clip_scores,
        bag_scores=bag_scores,
        predicted_genres=predicted_genres or {},
        attention=attention,
        train_clips=train_clips,
        train_clips_outside_small=outside_small,
        info={
            "corpus": corpus.name,
            "fingerprint": corpus.fingerprint,
            "corpus_splits": [name for name in SPLIT_NAMES if np.any(corpus.split == name)],
        },
    )


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Joins predictions of one model: those of its splits, or those of the folds of a cross-validation."""
    per_clip: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _PER_CLIP
        if all(getattr(part, name) is not None for part in parts)
    }
    per_clip |= {name: None for name in _PER_CLIP if name not in per_clip}
    bags = np.cumsum([0] + [len(part.bag_sizes) for part in parts])
    per_clip["bag"] = np.concatenate([part.bag + begin for part, begin in zip(parts, bags, strict=False)])
    # A part whose predictions all are those of the highest scores does not list them.
    own = {
        level: np.concatenate([part.predicted(level) for part in parts])
        for level in LEVELS
        if any(level in part.predicted_genres for part in parts)
    }
    return dataclasses.replace(parts[0], **per_clip, predicted_genres=own)


def average(parts: Sequence[Predictions]) -> Predictions:
    """Averages the log probabilities (multi-label: the log odds) of several models for the same clips and bags.

    The result is of all of them alike; it has no attention, and the scores of bags only if all parts have them.

    Raises:
        UserError: the parts are of other clips, bags, labels or genres.
    """
    first = parts[0]
    for number, part in enumerate(parts[1:], 2):
        for name in ("genres", "track_id", "split", "label", "bag", "parents"):
            if not np.array_equal(getattr(first, name), getattr(part, name)):
                raise UserError(
                    f"predictions 1 and {number} cannot be averaged: they differ in {name}. Give those of models of "
                    "one corpus, split, set of genres and kind of bags"
                )

    def mean(scores: list[np.ndarray | None]) -> np.ndarray | None:
        given = [np.asarray(score, np.float64) for score in scores if score is not None]
        if len(given) < len(scores):
            return None
        if not first.multi_label:  # SVM's are no probabilities before
            given = [score - np.logaddexp.reduce(score, axis=1, keepdims=True) for score in given]
        return np.mean(given, axis=0)

    return first.replace(
        clip_scores=mean([part.clip_scores for part in parts]),
        bag_scores=mean([part.bag_scores for part in parts]),
        predicted_genres={},
        attention=None,
        info={key: value for key, value in first.info.items() if key in ("corpus", "fingerprint", "corpus_splits")},
    )


def training_clips(corpus: Corpus) -> tuple[np.ndarray, np.ndarray | None]:
    """Counts the training clips of each genre: all, and those of FMA-medium outside FMA-small.

    In a fold those that select the checkpoint are among them: a genre is as rare for a model as for a baseline.
    The latter is None where the subset of clips is unknown, and in a corpus without clips of both.
    """
    train = corpus.with_inner_in_training().split == "train"

    def count(clips: np.ndarray) -> np.ndarray:
        return genre_counts(corpus.label[clips], len(corpus.genres))

    both = all(np.any(train & (corpus.subset == subset)) for subset in ("small", "medium"))
    return count(train), count(train & (corpus.subset == "medium")) if both else None


def genre_counts(label: np.ndarray, num_genres: int) -> np.ndarray:
    """Counts the clips of each genre, float64 [genre]; `label` as in `Predictions`."""
    if label.ndim == 2:
        return label.sum(axis=0).astype(float)
    return np.bincount(label, minlength=num_genres).astype(float)
