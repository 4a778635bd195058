"""Exact evaluation: every clip of a split scored once alone and once in its bag; nothing is dropped."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from mgc_jax.data.bags import Bags
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.placement import ClipStore
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import Predictions, of_corpus
from mgc_jax.scoring import BagScores, Scorer


class SplitOutputs(NamedTuple):
    """What a model makes of a split; row i of every array per clip is clip i of the split's bags.

    Attributes:
        embeddings: float32 [clip, feature].
        alone: of each clip as a bag of one.
        in_bags: of the bags; None for a model without pooling, whose bag scores are those of the clips.
    """

    embeddings: np.ndarray
    alone: BagScores
    in_bags: BagScores | None


class Evaluator:
    """Scores the splits of a corpus with one model structure and changing weights."""

    def __init__(self, scorer: Scorer, clips: ClipStore, has_pooling: bool):
        """Compiles nothing yet.

        Args:
            scorer: of the model.
            clips: the corpus, placed on the scorer's devices.
            has_pooling: whether bag scores differ from clip scores.
        """
        self._scorer, self._clips, self._has_pooling = scorer, clips, has_pooling

    def score_split(self, params: Any, batch_stats: Any, corpus: Corpus, split: str, bags: Bags) -> Predictions:
        """Scores every clip of the bags of a split, alone and in its bag."""
        return split_predictions(self.outputs(params, batch_stats, bags), corpus, split, bags)

    def outputs(self, params: Any, batch_stats: Any, bags: Bags) -> SplitOutputs:
        """Returns embeddings, scores and attention of every clip of the bags of a split.

        Raises:
            UserError: a score is not finite.
        """
        embeddings = self._scorer.embed(params, batch_stats, self._clips, bags.clips)
        one_each = np.zeros(len(embeddings), np.int32)  # labels are not looked at
        alone = Bags(bags.clips, np.arange(len(embeddings) + 1), label=one_each, subgenre=one_each)
        of_clips = self._bag_scores(params, batch_stats, embeddings, alone)
        of_bags = self._bag_scores(params, batch_stats, embeddings, bags) if self._has_pooling else None
        return SplitOutputs(embeddings, of_clips, of_bags)

    def _bag_scores(self, params: Any, batch_stats: Any, embeddings: np.ndarray, bags: Bags) -> BagScores:
        """Scores bags; row i of the embeddings is clip i of the bags."""
        local = dataclasses.replace(bags, clips=np.arange(len(embeddings)))
        scored = self._scorer.score(params, batch_stats, embeddings, local)
        if not np.isfinite(scored.scores).all():
            raise UserError(
                "the model's scores are not finite: training diverged. Lower --config.optimizer.learning_rate or set "
                "--config.optimizer.clip_norm=1; checkpoints saved before this are untouched."
            )
        return scored


def split_predictions(outputs: SplitOutputs, corpus: Corpus, split: str, bags: Bags) -> Predictions:
    """Returns the table of scores of a split; attention is that under the query of the bag's predicted genre."""
    bag_scores, attention = None, None
    if outputs.in_bags is not None:
        attention = outputs.in_bags.attention_for_predicted(np.repeat(np.arange(len(bags)), bags.sizes))
        bag_scores = np.repeat(outputs.in_bags.scores, bags.sizes, axis=0)
    return of_corpus(corpus, split, bags, outputs.alone.scores, bag_scores=bag_scores, attention=attention)
