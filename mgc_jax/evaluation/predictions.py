"""The scores of every clip and every bag, as a table in memory; `predictions_file` reads and writes it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
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


def shared_clips(first: Predictions, second: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of both that are of the same tracks: int [clip] each."""
    _, rows_first, rows_second = np.intersect1d(
        first.track_id, second.track_id, assume_unique=True, return_indices=True
    )
    return rows_first, rows_second


def same_bags(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two numberings of the bags of the same clips, int [clip] each, put the same clips together."""
    return len(np.unique(np.stack([first, second]), axis=1).T) == len(np.unique(first)) == len(np.unique(second))


def average(parts: Mapping[str, Predictions]) -> Predictions:
    """Averages the log probabilities (multi-label: the log odds) of several models for the same clips and bags.

    The result has the levels that all of them have, and no attention; what they say differently of themselves is left
    out, and so is the model.

    Args:
        parts: of each model, by its name.

    Raises:
        UserError: the parts are of other clips, bags, labels or genres, or they have no level in common.
    """
    names, models = list(parts), list(parts.values())
    first = models[0]
    orders = [_order_like(first, model, names[0], name) for name, model in parts.items()]
    means = {}
    for field in ("clip_scores", "bag_scores"):
        scores = [getattr(model, field) for model in models]
        given = [score[order] for score, order in zip(scores, orders, strict=True) if score is not None]
        means[field] = _mean_log_probabilities(given, first.multi_label) if len(given) == len(scores) else None
    if all(mean is None for mean in means.values()):
        raise UserError(
            f"{', '.join(names)} cannot be averaged: some have scores of clips alone, others of bags alone"
        )
    same = {field: getattr(first, field) for field in ("fold", "train_clips", "train_clips_outside_small")}
    for field, value in same.items():
        same[field] = value if all(np.array_equal(getattr(model, field), value) for model in models) else None
    info = {key: value for key, value in first.info.items() if all(m.info.get(key) == value for m in models)}
    info.pop("model", None)
    return first.replace(**means, **same, predicted_genres={}, attention=None, info=info)


def _order_like(first: Predictions, second: Predictions, name: str, other: str) -> np.ndarray:
    """Returns the rows of the second in the order of the first: int [clip].

    Raises:
        UserError: they are of other clips, or differ in what must be the same; it gives both names.
    """
    rows_first, rows_second = shared_clips(first, second)
    lacks = len(first) - len(rows_first), len(second) - len(rows_second)
    if any(lacks):
        raise UserError(
            f"{name} and {other} cannot be averaged: {lacks[0]:,} clips are in the first alone, {lacks[1]:,} in "
            "the second. Give models of one corpus and split"
        )
    order = rows_second[np.argsort(rows_first)]
    same = {
        "genres": (second.genres, second.parents) == (first.genres, first.parents),
        "splits": np.array_equal(second.split[order], first.split),
        "labels": np.array_equal(second.label[order], first.label),
        "bags": same_bags(second.bag[order], first.bag),
    }
    if differs := [what for what, equal in same.items() if not equal]:
        raise UserError(f"{name} and {other} cannot be averaged: they have other {' and '.join(differs)}")
    return order


def _mean_log_probabilities(scores: Sequence[np.ndarray], multi_label: bool) -> np.ndarray:
    """The mean of the models' scores, each normalized (SVM's and MATT's are no probabilities); not so multi-label."""
    exact = [score.astype(np.float64) for score in scores]
    if not multi_label:
        exact = [score - np.logaddexp.reduce(score, axis=1, keepdims=True) for score in exact]
    return np.mean(exact, axis=0)


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
