"""Exact evaluation: every clip of a split scored once alone and once in its bag; nothing is dropped."""

import dataclasses
from typing import Any

import numpy as np

from mgc_jax.data.bags import Bags
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.placement import ClipStore
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import Predictions, of_corpus
from mgc_jax.scoring import Scorer


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
        embeddings = self._scorer.embed(params, batch_stats, self._clips, bags.clips)
        label, subgenre = corpus.label[bags.clips], corpus.subgenre[bags.clips]
        alone = Bags(clips=bags.clips, offsets=np.arange(len(label) + 1), label=label, subgenre=subgenre)
        clip_scores, _ = self._bag_scores(params, batch_stats, embeddings, alone)
        bag_scores, attention = None, None
        if self._has_pooling:
            scores, attention = self._bag_scores(params, batch_stats, embeddings, bags)
            bag_scores = np.repeat(scores, bags.sizes, axis=0)
        return of_corpus(corpus, split, bags, clip_scores, bag_scores=bag_scores, attention=attention)

    def _bag_scores(
        self, params: Any, batch_stats: Any, embeddings: np.ndarray, bags: Bags
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns log scores [bag, genre] and attention [clip]; row i of the embeddings is clip i of the bags."""
        local = dataclasses.replace(bags, clips=np.arange(len(embeddings)))
        scored = self._scorer.score(params, batch_stats, embeddings, local)
        if not np.isfinite(scored.scores).all():
            raise UserError(
                "the model's scores are not finite: training diverged. Lower --config.optimizer.learning_rate or set "
                "--config.optimizer.clip_norm=1; checkpoints saved before this are untouched."
            )
        return scored.scores, scored.attention_for_predicted(np.repeat(np.arange(len(bags)), bags.sizes))
