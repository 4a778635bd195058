"""Exact evaluation: every clip embedded once, then pooled per bag; nothing is dropped, padding is masked."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mgc_jax.data.bags import Bags
from mgc_jax.data.batches import assign_bins, pack, split_long_bags
from mgc_jax.data.corpus import Corpus
from mgc_jax.data.feed import placed_ahead
from mgc_jax.data.inputs import Inputs
from mgc_jax.data.placement import ClipStore
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import Predictions, of_corpus
from mgc_jax.models.logit_adjustment import adjust
from mgc_jax.runtime.devices import gather, shard, undeal

# Elements (attention weights and bag vectors, float32) that pooling holds at once.
_POOLED_ELEMENTS = 2**25  # of a chunk of rows: about 128 MiB
_MOST_ELEMENTS = 2**29  # of a single row: about 2 GiB


class Evaluator:
    """Scores the splits of a corpus with one model structure and changing weights."""

    def __init__(
        self,
        graph: nnx.GraphDef,
        inputs: Inputs,
        clips: ClipStore,
        mesh: jax.sharding.Mesh,
        batch_clips: int,
        has_pooling: bool,
        adjustment: np.ndarray,
        queries: int = 1,
    ):
        """Compiles nothing yet.

        Args:
            graph: the model's structure.
            inputs: what the encoder sees.
            clips: the corpus, placed.
            mesh: the devices.
            batch_clips: clips embedded at once, rounded up to a multiple of the devices.
            has_pooling: whether bag scores differ from clip scores.
            adjustment: float32 [genre], of all log scores; see `adjust`.
            queries: bag vectors, one per query, that the pooling holds at once.
        """
        self._clips, self._mesh, self._has_pooling = clips, mesh, has_pooling
        self._queries = queries
        self._batch_clips = -(-batch_clips // mesh.size) * mesh.size

        def embed(params, batch_stats, clips):
            model = nnx.merge(graph, params, batch_stats)
            x = inputs.evaluation(clips.take())
            return model.embed(x, jnp.ones(len(x), bool)).astype(jnp.float32)

        def score(params, batch_stats, embeddings, segment):
            scores, attention = nnx.merge(graph, params, batch_stats).score_bags(embeddings, segment)
            scores = adjust(scores, adjustment)
            return scores, attention_of_clips(attention, scores)

        self._embed: Callable[..., jax.Array] = jax.jit(embed)
        self._score: Callable[..., tuple[jax.Array, jax.Array]] = jax.jit(score)

    def score_split(self, params: Any, batch_stats: Any, corpus: Corpus, split: str, bags: Bags) -> Predictions:
        """Scores every clip of the bags of a split, alone and in its bag."""
        embeddings = self._embeddings(params, batch_stats, bags.clips)
        label, subgenre = corpus.label[bags.clips], corpus.subgenre[bags.clips]
        alone = Bags(clips=bags.clips, offsets=np.arange(len(label) + 1), label=label, subgenre=subgenre)
        clip_scores, _ = self._bag_scores(params, batch_stats, embeddings, alone)
        bag_scores, attention = None, None
        if self._has_pooling:
            scores, attention = self._bag_scores(params, batch_stats, embeddings, bags)
            bag_scores = np.repeat(scores, bags.sizes, axis=0)
        return of_corpus(corpus, split, bags, clip_scores, bag_scores=bag_scores, attention=attention)

    def _embeddings(self, params: Any, batch_stats: Any, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [clip, feature] for rows of the corpus."""
        devices = self._mesh.size
        size = min(self._batch_clips, -(-len(rows) // devices) * devices)
        padded = np.concatenate([rows, np.zeros(-len(rows) % size, rows.dtype)]).astype(np.int32)
        done: list[np.ndarray] = []
        embedded = (
            self._embed(params, batch_stats, clips) for clips in placed_ahead(self._clips, padded.reshape(-1, size))
        )
        current = next(embedded)
        for ahead in embedded:  # computed while the one before is fetched; no more are held
            done.append(undeal(gather(current), devices))
            current = ahead
        return np.concatenate([*done, undeal(gather(current), devices)])[: len(rows)]

    def _bag_scores(
        self, params: Any, batch_stats: Any, embeddings: np.ndarray, bags: Bags
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns log scores [bag, genre] and attention [clip]; row i of the embeddings is clip i of the bags."""
        longest = int(bags.sizes.max())
        capacity = max(64, longest)
        elements = capacity * self._queries * (capacity + embeddings.shape[1])  # of one row
        if elements > _MOST_ELEMENTS:
            raise UserError(
                f"a bag has {longest:,} clips, more than can be pooled at once: is the artist or album column really "
                "an identifier? Without it (an empty column name) bags are smaller."
            )
        local = dataclasses.replace(bags, clips=np.arange(len(embeddings)))
        chunk = self._mesh.size * max(1, _POOLED_ELEMENTS // elements // self._mesh.size)
        part = split_long_bags(bags.offsets, capacity)
        longest_first = np.argsort(-part.size, kind="stable")
        row = np.empty(len(part.size), np.int64)
        row[longest_first], num_rows = assign_bins(part.size[longest_first], capacity, self._mesh.size)
        chunk = min(chunk, num_rows)
        num_rows = -(-num_rows // chunk) * chunk
        packed = pack(local, part, np.ones(len(row)), row, num_rows, capacity)
        scores = [
            self._score(
                params,
                batch_stats,
                shard(embeddings[packed.clip[begin : begin + chunk]], self._mesh),
                shard(packed.segment[begin : begin + chunk], self._mesh),
            )
            for begin in range(0, num_rows, chunk)
        ]
        by_slot, attention_by_slot = (np.concatenate([*map(gather, parts)]) for parts in zip(*scores, strict=True))
        order = np.argsort(row, kind="stable")  # as `pack` numbered the segments
        segment = np.arange(len(row)) - np.searchsorted(row[order], row[order])
        result = np.empty((len(bags), by_slot.shape[-1]), np.float32)
        result[order] = by_slot[row[order], segment]
        if not np.isfinite(result).all():
            raise UserError(
                "the model's scores are not finite: training diverged. Lower --config.optimizer.learning_rate or set "
                "--config.optimizer.clip_norm=1; checkpoints saved before this are untouched."
            )
        attention = np.empty(len(embeddings), np.float32)
        there = packed.segment < capacity
        attention[packed.clip[there]] = attention_by_slot[there]
        return result, attention


def attention_of_clips(attention: jax.Array, scores: jax.Array) -> jax.Array:
    """Returns each clip's weight in its bag, under the query of the bag's predicted genre.

    Args:
        attention: [row, bag, slot], or [row, bag, genre, slot] with a query per genre; 0 for the clips of
            other bags.
        scores: [row, bag, genre].

    Returns:
        [row, slot]; 0 where there is no clip.
    """
    if attention.ndim == 4:
        predicted = scores.argmax(axis=-1)[:, :, None, None]
        attention = jnp.take_along_axis(attention, predicted, axis=2)[:, :, 0]
    return attention.sum(axis=1)
