"""What a model makes of every clip: embedding, scores, attention, beside what the clip is called."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from mgc_jax.analysis.opening import OpenedRun
from mgc_jax.data.names import TrackNames, track_names
from mgc_jax.data.splits import nonempty_splits
from mgc_jax.errors import UserError
from mgc_jax.evaluation.evaluator import split_predictions
from mgc_jax.evaluation.predictions import Predictions, concatenate
from mgc_jax.report.attention import bag_weights

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class AnalysedClips:
    """Clips of some splits; the clips of a bag lie side by side, as in `Predictions`.

    Attributes:
        predictions: scores and labels.
        names: titles and artists' names.
        embeddings: float32 [clip, feature].
        attention: float32 [clip, genre]: the clip's weight in its bag under each genre's query; None: the pooling has
            no such queries.
        about: the checkpoint and the corpus, as `opening.about` has them.
    """

    predictions: Predictions
    names: TrackNames
    embeddings: np.ndarray
    attention: np.ndarray | None
    about: dict[str, Any]

    @property
    def level(self) -> str:
        """The level whose predicted genre counts: bag where there is a bag model, else clip."""
        return "bag" if self.predictions.bag_scores is not None else "clip"

    @property
    def predicted(self) -> np.ndarray:
        """Predicted genre of each clip at `level`: int [clip]."""
        return self.predictions.predicted(self.level)

    @property
    def shown_artist(self) -> np.ndarray:
        """The artist's name, or else what identifies the artist: str [clip], "" where unknown."""
        name = self.names.artist_name
        return np.where(name == "", self.predictions.artist, name)

    def bag_embeddings(self) -> np.ndarray:
        """Returns the mean of each bag's embeddings, weighted by attention: float32 [bag, feature].

        Attention is that under the query of the predicted genre. Without attention all clips count alike. Not every
        pooling has a vector of the bag; where it is such a sum, as MATT's before its activation, this is that vector.
        """
        scored = self.predictions
        if scored.attention is None:
            weights = 1 / np.repeat(scored.bag_sizes, scored.bag_sizes)
        else:
            weights = bag_weights(scored)
        return np.add.reduceat(weights.astype(np.float32)[:, None] * self.embeddings, scored.offsets[:-1])


def analyse_clips(run: OpenedRun, splits: Sequence[str] | None = None) -> AnalysedClips:
    """Embeds and scores every clip of some splits.

    Clips are read and embedded in chunks; what grows with their number is what is returned.

    Args:
        run: the run.
        splits: by default train and validation, as far as they have clips.

    Raises:
        UserError: a split has no clips, or scores are not finite.
    """
    experiment, corpus = run.experiment, run.experiment.corpus
    there = nonempty_splits(corpus, test=True)
    if splits is None:
        splits = [split for split in there if split != "test"]
    if missing := [split for split in splits if split not in there]:
        raise UserError(f"the corpus {corpus.name} has no clips in the split {missing[0]}; it has {', '.join(there)}")
    if "test" in splits:
        log.warning("the test split is looked at here too; results.json does not count it")
    splits = [split for split in there if split in splits]  # each once, train first
    parts, embeddings, attention = [], [], []
    for split in splits:
        bags = experiment.bags[split]
        log.info("embedding the %s %s clips ...", f"{len(bags.clips):,}", split)
        outputs = experiment.evaluator.outputs(*run.weights, bags)
        parts.append(split_predictions(outputs, corpus, split, bags))
        embeddings.append(outputs.embeddings)
        if outputs.in_bags is not None and outputs.in_bags.attention.ndim == 2:
            attention.append(outputs.in_bags.attention)
    predictions = concatenate(parts)
    return AnalysedClips(
        predictions=predictions,
        names=track_names(experiment.config.data, predictions.track_id),
        embeddings=np.concatenate(embeddings),
        attention=np.concatenate(attention) if attention else None,
        about=run.about | {"splits": list(splits), "level": "bag" if experiment.has_pooling else "clip"},
    )
