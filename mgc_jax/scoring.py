"""From stored clips to scores of bags, for runs and exports alike: embedded in chunks, pooled in packed rows.

Chunks have few sizes, so few programs are compiled, and the memory of the devices does not grow with the clips.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mgc_jax.data.bags import Bags
from mgc_jax.data.feed import placed_ahead
from mgc_jax.data.inputs import Inputs
from mgc_jax.data.packing import assign_bins, pack, split_long_bags
from mgc_jax.data.placement import ClipStore
from mgc_jax.errors import UserError
from mgc_jax.models.classifier import BagClassifier, split_model
from mgc_jax.models.genre_tree import tree_consistent
from mgc_jax.models.logit_adjustment import adjust
from mgc_jax.runtime import platform
from mgc_jax.runtime.devices import gather, shard, undeal

# Elements (attention weights and bag vectors, float32) that pooling holds at once.
_POOLED_ELEMENTS = 2**25  # of a chunk of rows: about 128 MiB
_MOST_ELEMENTS = 2**29  # of a single row: about 2 GiB


class BagScores(NamedTuple):
    """What pooling says of bags.

    Attributes:
        scores: float32 [bag, genre]: log scores; of a multi-label model log odds.
        attention: float32 [clip], or [clip, genre] with a query per genre: the weight of each clip in its bag.
    """

    scores: np.ndarray
    attention: np.ndarray

    def attention_for_predicted(self, bag: np.ndarray) -> np.ndarray:
        """Returns the attention [clip] under the query of the genre that its bag has the highest score for.

        Args:
            bag: int [clip]: the bag of each clip.
        """
        if self.attention.ndim == 1:
            return self.attention
        return np.take_along_axis(self.attention, self.scores.argmax(axis=1)[bag, None], axis=1)[:, 0]


class Scorer:
    """Embeds clips and scores bags with one model structure and changing weights."""

    def __init__(
        self,
        model: BagClassifier,
        inputs: Inputs,
        mesh: jax.sharding.Mesh,
        batch_clips: int,
        adjustment: np.ndarray,
        parents: Sequence[int] = (),
    ):
        """Compiles nothing yet.

        Args:
            model: its structure counts; weights are given anew with every call.
            inputs: what the encoder sees.
            mesh: the devices.
            batch_clips: clips embedded at once, rounded up to a multiple of the devices.
            adjustment: float32 [genre], of all log scores; see `adjust`.
            parents: of a multi-label model, the genre above each, -1 where there is none; see `tree_consistent`.
        """
        graph, *_ = split_model(model)
        self._mesh = mesh
        self._queries = getattr(model.pooling, "num_views", 1)
        self._batch_clips = -(-batch_clips // mesh.size) * mesh.size

        def embed(params, batch_stats, clips):
            with platform.dealt_over(mesh):
                return _embeddings(nnx.merge(graph, params, batch_stats), inputs.evaluation(clips.take()))

        def score(params, batch_stats, embeddings, segment, bags):
            scores, attention = nnx.merge(graph, params, batch_stats).score_bags(embeddings, segment, bags=bags)
            # A clip has a weight in its own bag alone: the sum over the bags is that weight.
            return final_scores(scores, adjustment, parents), jnp.moveaxis(attention.sum(axis=1), -1, 1)

        self._embed: Callable[..., jax.Array] = jax.jit(embed)
        self._score: Callable[..., tuple[jax.Array, jax.Array]] = jax.jit(score, static_argnames="bags")

    def embed(self, params: Any, batch_stats: Any, clips: ClipStore, rows: np.ndarray) -> np.ndarray:
        """Embeds clips, a chunk at a time; the last one is filled up with others.

        Args:
            params: weights.
            batch_stats: batch statistics.
            clips: the clips, placed on the scorer's devices.
            rows: int [clip]: which of them; not empty.

        Returns:
            float32 [clip, feature].
        """
        size = chunk_size(len(rows), self._batch_clips, self._mesh.size)
        padded = np.concatenate([rows, np.zeros(-len(rows) % size, rows.dtype)]).astype(np.int32)
        placed = placed_ahead(clips, padded.reshape(-1, size))
        embedded = _fetched(self._embed(params, batch_stats, chunk) for chunk in placed)
        return np.concatenate([undeal(chunk, self._mesh.size) for chunk in embedded])[: len(rows)]

    def score(self, params: Any, batch_stats: Any, embeddings: np.ndarray, bags: Bags) -> BagScores:
        """Scores bags; one with an embedding that is not finite gets NaN, and leaves the others alone.

        Args:
            params: weights.
            batch_stats: batch statistics.
            embeddings: float32 [clip, feature].
            bags: of these clips: `bags.clips` has every row of the embeddings once.

        Raises:
            UserError: a bag is too long.
        """
        bag = np.repeat(np.arange(len(bags)), bags.sizes)
        lost = np.unique(bag[~np.isfinite(embeddings[bags.clips]).all(axis=1)])
        if len(lost):  # in pooling, 0 times NaN is NaN: it would reach the bags of the same row
            embeddings = np.nan_to_num(embeddings, posinf=0, neginf=0)
        capacity, chunk = self._pooled_at_once(int(bags.sizes.max()), embeddings.shape[1])
        longest_first = np.argsort(-bags.sizes, kind="stable")
        row = np.empty(len(bags), np.int64)
        row[longest_first], num_rows = assign_bins(bags.sizes[longest_first], capacity, self._mesh.size)
        chunk = chunk_size(num_rows, chunk, self._mesh.size)
        num_rows = -(-num_rows // chunk) * chunk
        parts = split_long_bags(bags.offsets, capacity)  # none is: a part is a bag
        packed = pack(bags, parts, np.ones(len(bags)), row, num_rows, capacity)
        places = bag_places(int(np.bincount(row).max()), capacity)
        pooled = _fetched(
            self._score(
                params,
                batch_stats,
                shard(embeddings[packed.clip[begin : begin + chunk]], self._mesh),
                shard(packed.segment[begin : begin + chunk], self._mesh),
                bags=places,
            )
            for begin in range(0, num_rows, chunk)
        )
        by_segment, by_slot = (np.concatenate(chunks) for chunks in zip(*pooled, strict=True))
        order = np.argsort(row, kind="stable")  # as `pack` numbered the segments
        segment = np.arange(len(row)) - np.searchsorted(row[order], row[order])
        scores = np.empty((len(bags), by_segment.shape[-1]), np.float32)
        scores[order] = by_segment[row[order], segment]
        attention = np.empty((len(embeddings), *by_slot.shape[2:]), np.float32)
        there = packed.segment < capacity
        attention[packed.clip[there]] = by_slot[there]
        scores[lost] = np.nan
        attention[bags.clips[np.isin(bag, lost)]] = np.nan
        return BagScores(scores, attention)

    def _pooled_at_once(self, longest: int, features: int) -> tuple[int, int]:
        """Returns slots of a row and rows of a chunk, where the longest bag has so many clips."""

        def elements(slots: int) -> int:
            return slots * self._queries * (slots + features)

        if elements(longest) > _MOST_ELEMENTS:
            raise UserError(
                f"a bag has {longest:,} clips, more than can be pooled at once: make bags smaller. In a corpus, is "
                "the artist or album column really an identifier? An empty column name leaves it out."
            )
        capacity = row_slots(longest)
        devices = self._mesh.size
        return capacity, devices * max(1, _POOLED_ELEMENTS // elements(capacity) // devices)


def final_scores(
    scores: Float[Array, "*leading genre"], adjustment: np.ndarray, parents: Sequence[int]
) -> Float[Array, "*leading genre"]:
    """Returns the scores that count, of what a model's pooling gives: log probabilities with post-hoc logit
    adjustment, or (where there are `parents`) log odds that fit the tree of genres.
    """
    return tree_consistent(scores, parents) if parents else adjust(scores, adjustment)


def chunk_size(number: int, most: int, devices: int) -> int:
    """Returns how many clips, or rows, a program takes at once: a power of two per device, so that few are compiled.

    Args:
        number: of them in all.
        most: at once, a multiple of the devices; the size where there are more.
        devices: number of devices.
    """
    each = -(-number // devices)
    return min(devices * 2 ** (each - 1).bit_length(), most)


def row_slots(longest: int) -> int:
    """Returns the slots of a row for bags of at most so many clips: few sizes, as multiples of 64, or of a quarter of
    the power of two below where that is more.
    """
    step = max(64, 2 ** (longest.bit_length() - 3))
    return -(-longest // step) * step


def bag_places(most: int, slots: int) -> int:
    """Returns the places for bags in a row: half of the slots or all of them, so that few programs are compiled.

    Fewer are less work: MATT looks at every place with all its queries.

    Args:
        most: bags of a row.
        slots: its slots.
    """
    half = -(-slots // 2)
    return half if most <= half else slots


def _embeddings(model: BagClassifier, x: Float[Array, "clip ..."]) -> Float[Array, "clip feature"]:
    """Returns float32 embeddings of the encoder's inputs."""
    return model.embed(x, jnp.ones(len(x), bool)).astype(jnp.float32)


def _fetched(results: Iterator[Any]) -> Iterator[Any]:
    """Yields results in host memory; the next one is computed while one is fetched, and no more are held."""
    current = next(results)
    for ahead in results:
        yield jax.tree.map(gather, current)
        current = ahead
    yield jax.tree.map(gather, current)
