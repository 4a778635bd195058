"""Exact evaluation: every clip embedded once, then pooled per bag; nothing is dropped, padding is masked."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mgc_jax.data.bags import Bags
from mgc_jax.data.batches import assign_rows, pack, split_long_bags
from mgc_jax.data.corpus import SPLITS, Corpus
from mgc_jax.errors import UserError
from mgc_jax.inputs import Inputs
from mgc_jax.metrics import genre_metrics, mean_log_scores
from mgc_jax.sharding import DeviceClips, HostClips, shard
from mgc_jax.workdir import write_json

_POOLED_ELEMENTS = 2**25  # weights and vectors of all views held at once: some hundred MiB;
_MOST_ELEMENTS = 2**29  # for a single row, up to some GiB


@dataclasses.dataclass(frozen=True)
class SplitScores:
    """Log scores of one split; clip i is row i of `rows`, in the bags' order.

    Attributes:
        rows: int64 [clip]: rows of the corpus.
        label: int32 [clip].
        clip: float [clip, genre]: each clip scored alone, as a bag of one.
        clip_mean: float [clip, genre]: the clips' log scores averaged over the bag, copied to its clips.
        bag: float32 [clip, genre]: the bag model's scores, copied to the bag's clips; None without pooling.
        bags: the bags.
        predicted: int [clip]: the genres that the model itself names for clips alone; None: those of the highest
            scores.
    """

    rows: np.ndarray
    label: np.ndarray
    clip: np.ndarray
    clip_mean: np.ndarray
    bag: np.ndarray | None
    bags: Bags
    predicted: np.ndarray | None = None

    def metrics(self) -> dict[str, dict[str, float]]:
        """Returns accuracy, macro F1 and micro average precision over clips, for each view that there is.

        The view `bag` also has `paper_accuracy`: a bag counts as right, with all its clips, if its score agrees
        with its first clip's genre (as MATT's notebooks count); and `bag_micro_ap`, over bags instead of clips.
        """
        views = {"clip": self.clip, "clip_mean": self.clip_mean}
        if self.bag is not None:
            views["bag"] = self.bag
        results = {view: genre_metrics(self.label, scores) for view, scores in views.items()}
        if self.predicted is not None:
            results["clip"] = genre_metrics(self.label, self.clip, self.predicted)
        if self.bag is not None:
            first = self.bag[self.bags.offsets[:-1]]
            right = first.argmax(axis=1) == self.bags.label
            results["bag"]["paper_accuracy"] = float(np.average(right, weights=self.bags.sizes))
            results["bag"]["bag_micro_ap"] = genre_metrics(self.bags.label, first)["micro_ap"]
        return results


class Evaluator:
    """Scores the splits of a corpus with one model structure and changing weights."""

    def __init__(
        self,
        graph: nnx.GraphDef,
        inputs: Inputs,
        clips: DeviceClips | HostClips,
        mesh: jax.sharding.Mesh,
        batch_clips: int,
        has_pooling: bool,
        adjustment: np.ndarray,
        views: int = 1,
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
            views: how many views of a bag the pooling holds at once.
        """
        self._clips, self._mesh, self._has_pooling = clips, mesh, has_pooling
        self._views = views
        self._batch_clips = -(-batch_clips // mesh.size) * mesh.size

        def embed(params, batch_stats, clips):
            model = nnx.merge(graph, params, batch_stats)
            x = inputs.evaluation(clips)[:, None]
            return model.embed(x, jnp.zeros(x.shape[:2], int))[:, 0].astype(jnp.float32)

        def score(params, batch_stats, embeddings, segment):
            scores, _ = nnx.merge(graph, params, batch_stats).score_bags(embeddings, segment)
            return adjust(scores, adjustment)

        self._embed: Callable[..., jax.Array] = jax.jit(embed)
        self._score: Callable[..., jax.Array] = jax.jit(score)

    def score_split(self, params: Any, batch_stats: Any, corpus: Corpus, bags: Bags) -> SplitScores:
        """Scores every clip of the bags, alone and in its bag."""
        embeddings = self._embeddings(params, batch_stats, bags.clips)
        label = corpus.label[bags.clips]
        subgenre = corpus.subgenre[bags.clips]
        alone = Bags(clips=bags.clips, offsets=np.arange(len(label) + 1), label=label, subgenre=subgenre)
        clip = self._bag_scores(params, batch_stats, embeddings, alone)
        bag_of_clip = np.repeat(np.arange(len(bags)), bags.sizes)
        bag = None
        if self._has_pooling:
            bag = self._bag_scores(params, batch_stats, embeddings, bags)[bag_of_clip]
        clip_mean = mean_log_scores(clip, bags.offsets)[bag_of_clip]
        return SplitScores(rows=bags.clips, label=label, clip=clip, clip_mean=clip_mean, bag=bag, bags=bags)

    def _embeddings(self, params: Any, batch_stats: Any, rows: np.ndarray) -> np.ndarray:
        """Returns float32 [clip, feature] for rows of the corpus."""
        devices = self._mesh.size
        size = min(self._batch_clips, -(-len(rows) // devices) * devices)
        padded = np.concatenate([rows, np.zeros(-len(rows) % size, rows.dtype)]).astype(np.int32)
        batches = padded.reshape(-1, size)
        done: list[np.ndarray] = []
        ahead = self._embed(params, batch_stats, self._clips(batches[0]))
        for batch in batches[1:]:  # one batch is computed while the next is gathered; no more are held
            current, ahead = ahead, self._embed(params, batch_stats, self._clips(batch))
            done.append(np.asarray(current))
        return np.concatenate([*done, np.asarray(ahead)])[: len(rows)]

    def _bag_scores(self, params: Any, batch_stats: Any, embeddings: np.ndarray, bags: Bags) -> np.ndarray:
        """Returns log scores [bag, genre]; row i of the embeddings is clip i in the bags' order."""
        longest = int(bags.sizes.max())
        capacity = max(64, longest)
        elements = capacity * self._views * (capacity + embeddings.shape[1])  # of one row
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
        row[longest_first], num_rows = assign_rows(part.size[longest_first], capacity, self._mesh.size)
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
        by_slot = np.concatenate(jax.device_get(scores))
        order = np.argsort(row, kind="stable")  # as `pack` numbered the segments
        segment = np.arange(len(row)) - np.searchsorted(row[order], row[order])
        result = np.empty((len(bags), by_slot.shape[-1]), np.float32)
        result[order] = by_slot[row[order], segment]
        if not np.isfinite(result).all():
            raise UserError(
                "the model's scores are not finite: training diverged. Lower --config.optimizer.learning_rate or set "
                "--config.optimizer.clip_norm=1; checkpoints saved before this are untouched."
            )
        return result


def adjust(log_scores: jax.Array, adjustment: np.ndarray) -> jax.Array:
    """Post-hoc logit adjustment (Menon et al. 2020): adds to the log scores [..., genre] and normalizes them again."""
    return jax.nn.log_softmax(log_scores + adjustment, axis=-1) if np.any(adjustment) else log_scores


def split_results(scores: SplitScores) -> dict[str, Any]:
    """Returns what `results.json` holds for one split."""
    return {"clips": len(scores.label), "bags": len(scores.bags), **scores.metrics()}


def report(results: dict[str, Any], corpus: Corpus, workdir: Path, headline: str) -> None:
    """Writes `results.json` and prints the table.

    Args:
        results: what the file is to hold; `splits` has a value of `split_results` for each split, and is completed
            with the accuracy of the majority class.
        corpus: the corpus.
        workdir: the run's folder.
        headline: what stands above the table.
    """
    splits = results["splits"]
    for split, result in splits.items():
        result["majority_accuracy"] = majority_accuracy(corpus, split)
    write_json(workdir / "results.json", results)
    print(f"\n{headline}")
    print(format_table(splits))
    if "validation" in splits:
        print(f"(majority class on validation: {splits['validation']['majority_accuracy']:.3f})")


def format_table(splits: dict[str, dict[str, Any]]) -> str:
    """Formats the results of the splits for the terminal.

    Args:
        splits: as from `split_results`, by split.
    """
    names = {"clip": "clip", "clip_mean": "clip, bag average", "bag": "bag model"}
    lines = [f"{'split':<11}{'scores':<19}{'accuracy':>9}{'macro F1':>10}{'micro AP':>10}{'clips':>9}{'bags':>8}"]
    lines.append("-" * len(lines[0]))
    for split, result in splits.items():
        for view, name in names.items():
            if view not in result:
                continue
            values = "".join(
                f"{result[view][metric]:>{width}.3f}"
                for metric, width in (("accuracy", 9), ("macro_f1", 10), ("micro_ap", 10))
            )
            lines.append(f"{split:<11}{name:<19}{values}{result['clips']:>9,}{result['bags']:>8,}")
    return "\n".join(lines)


def majority_accuracy(corpus: Corpus, split: str) -> float:
    """Accuracy of always naming the commonest training genre."""
    train = corpus.label[corpus.indices("train")]
    return float(np.mean(corpus.label[corpus.indices(split)] == np.bincount(train).argmax()))


def nonempty_splits(corpus: Corpus) -> list[str]:
    """The splits that have clips."""
    return [split for split in SPLITS if len(corpus.indices(split))]
