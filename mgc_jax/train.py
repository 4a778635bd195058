"""Training and evaluation of one configuration in one workdir."""

import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mgc_jax import config as config_lib
from mgc_jax.checkpoint import Checkpoints, open_checkpoints
from mgc_jax.data.bags import Bags, bags_of, single_clip_bags
from mgc_jax.data.batches import Batch, TrainBatches, pad_rows
from mgc_jax.data.corpus import open_corpus, standardization
from mgc_jax.errors import UserError
from mgc_jax.evaluate import Evaluator, nonempty_splits, report, split_results
from mgc_jax.metrics import MetricsWriter, Progress, clock
from mgc_jax.models.classifier import build_model, count_parameters
from mgc_jax.sharding import DeviceClips, HostClips, data_mesh, place_clips, replicate, shard
from mgc_jax.state import TrainState, initial_state, make_loss, make_optimizer, make_train_step, split_model
from mgc_jax.workdir import check_same, check_same_corpus, claim, write_json

log = logging.getLogger(__name__)


class Run:
    """What training and evaluation share: corpus, model, bags and evaluator, built once.

    Attributes:
        config: the resolved configuration.
        workdir: the run's folder.
        corpus: the corpus.
        statistics: standardization of its clips.
        mesh: the devices.
        clips: the clips, placed.
        graph: the model's structure.
        params: initial weights.
        batch_stats: initial batch statistics.
        num_parameters: weights and batch-norm moments.
        evaluator: scores splits.
        bags: by split, what evaluation pools.
    """

    def __init__(self, config: ConfigDict, workdir: Path):
        self.config, self.workdir = config, workdir
        self.mesh = data_mesh()
        self.corpus = open_corpus(config.data)
        log.info(self.corpus.summary())
        self.statistics = standardization(self.corpus, config.data.standardize)
        model = build_model(config.model, self.corpus.clips.shape[1:], len(self.corpus.genres), seed=config.seed)
        self.num_parameters = count_parameters(model)
        self.graph, self.params, self.batch_stats = split_model(model)
        self.clips: DeviceClips | HostClips = place_clips(self.corpus.clips, config.data.placement, self.mesh)
        self.evaluator = Evaluator(
            self.graph, self.statistics, self.clips, self.mesh, config.eval.batch_clips, self.has_pooling
        )
        self.bags = {split: self._bags(split) for split in nonempty_splits(self.corpus)}

    @property
    def has_pooling(self) -> bool:
        """Whether training sees bags of several clips."""
        return self.config.model.pooling != "none"

    def _bags(self, split: str) -> Bags:
        data = self.config.data
        return bags_of(self.corpus, split, data.bag_key, data.pseudo_album_gap)

    def train_batches(self) -> TrainBatches:
        """Returns the training batches: bags, or bags of one clip for a model without pooling."""
        bags = self.bags["train"] if self.has_pooling else single_clip_bags(self.corpus, "train")
        batch = self.config.batch
        return TrainBatches(bags, batch.rows, batch.clips_per_row, self.config.seed)

    def evaluate(self, split: str, params: Any, batch_stats: Any) -> dict[str, Any]:
        """Returns the results of one split."""
        scores = self.evaluator.score_split(params, batch_stats, self.corpus, self.bags[split])
        return split_results(scores)

    def meta(self, seconds: dict[str, float]) -> dict[str, Any]:
        """Returns what a checkpoint says of itself."""
        return {
            "config": config_lib.to_json(self.config),
            "corpus": self.corpus.name,
            "fingerprint": self.corpus.fingerprint,
            "genres": list(self.corpus.genres),
            "clip_shape": list(self.corpus.clips.shape[1:]),
            "standardization": {name: getattr(self.statistics, name).tolist() for name in ("mean", "std")},
            "seconds": dict(seconds),  # the save is asynchronous
        }

    def check_meta(self, meta: dict[str, Any]) -> None:
        """Raises `UserError` if a checkpoint was made with another configuration or on another corpus."""
        check_same(self.config, meta["config"], self.workdir)
        check_same_corpus(self.corpus, meta, self.workdir)


def train_and_evaluate(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains to the end, or on from the last checkpoint, and evaluates the best checkpoint on every split.

    Args:
        config: a validated configuration whose corpus is not `auto`.
        workdir: the run's folder; may hold an interrupted run of the same configuration.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: bad input, or a loss that is no longer finite.
    """
    with claim(workdir, config, create=True):
        return _train_and_evaluate(Run(config, workdir))


def _train_and_evaluate(run: Run) -> dict[str, Any]:
    config, workdir = run.config, run.workdir
    batches = run.train_batches()
    optimizer = make_optimizer(config.optimizer, config.train.epochs, batches.steps_per_epoch)
    loss = make_loss(run.graph, run.statistics, batches.bags_per_step)
    train_step = make_train_step(loss, optimizer, config.seed)
    state = replicate(initial_state(run.params, run.batch_stats, optimizer), run.mesh)

    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        state, seconds = resume(run, checkpoints, state)
        first_step, total_steps = int(state.step), config.train.epochs * batches.steps_per_epoch
        if first_step > total_steps:
            raise UserError(
                f"{workdir} has trained {first_step} steps, more than the {total_steps} of "
                f"config.train.epochs={config.train.epochs}. Give more epochs, or a new --workdir."
            )
        write_json(workdir / "config.json", config_lib.to_json(config))
        log.info(
            "%s: %s parameters; %s bags in %s steps of %s x %s clips per epoch, %s epochs; %s device(s)",
            describe_model(config), f"{run.num_parameters:,}", f"{len(run.bags['train']):,}",
            batches.steps_per_epoch, config.batch.rows, config.batch.clips_per_row, config.train.epochs,
            run.mesh.size,
        )  # fmt: skip
        if config.batch.rows % run.mesh.size:
            log.warning(
                "config.batch.rows=%d is not a multiple of the %d devices: some of them get empty rows",
                config.batch.rows, run.mesh.size,
            )  # fmt: skip
        progress = Progress(total_steps, first_step, seconds)
        window = MetricWindow()
        eval_every = config.train.eval_every_epochs * batches.steps_per_epoch
        save_every = config.train.checkpoint_every_steps
        placed = placed_batches(run, batches, first_step, total_steps)

        with contextlib.closing(MetricsWriter(workdir, first_step)) as writer:
            for step in range(first_step + 1, total_steps + 1):  # counts finished steps
                with progress.timed("data"):
                    batch, clips = next(placed)
                with progress.timed("train"):
                    state, sums = train_step(state, batch, clips)
                    window.add(sums)
                last = step == total_steps
                evaluating = last or step % eval_every == 0
                saving = evaluating or (save_every and step % save_every == 0)
                if saving or step % config.train.log_every_steps == 0:
                    with progress.timed("train"):
                        values = window.means(step)  # waits for the device; stops if the loss is not finite
                    writer.write(step, {"epoch": step / batches.steps_per_epoch, **values})
                    progress.show(step, values["train/clips_per_second"], values["train/loss"])
                metrics = None
                if evaluating and "validation" in run.bags:
                    with progress.timed("evaluate"):
                        result = run.evaluate("validation", state.params, state.batch_stats)
                    metrics = flat_metrics(result)
                    writer.write(step, {f"validation/{name}": value for name, value in metrics.items()})
                    progress.clear()
                    log.info(epoch_line(step, batches.steps_per_epoch, config, values, result))
                if saving:
                    with progress.timed("checkpoint"):
                        checkpoints.save(state, run.meta(progress.seconds), metrics)
                if evaluating:
                    window.restart()
        progress.clear()
        return finish(run, checkpoints, state)


def evaluate_workdir(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Evaluates the best checkpoint of a workdir on every split (`--mode eval`); returns the results."""
    with claim(workdir, config, create=False):
        run = Run(config, workdir)
        optimizer = make_optimizer(config.optimizer, config.train.epochs, run.train_batches().steps_per_epoch)
        state = replicate(initial_state(run.params, run.batch_stats, optimizer), run.mesh)
        with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
            return finish(run, checkpoints, state)


def resume(run: Run, checkpoints: Checkpoints, state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """Returns the state of the last checkpoint, or the one given if there is none, and the time spent so far."""
    step = checkpoints.latest_step()
    if step is None:
        return state, {}
    meta = checkpoints.meta(step)
    run.check_meta(meta)
    log.info("resuming %s at step %d", run.workdir, step)
    return checkpoints.restore(step, state), meta["seconds"]


def placed_batches(
    run: Run, batches: TrainBatches, first_step: int, total_steps: int
) -> Iterator[tuple[Batch, tuple[jax.Array, ...]]]:
    """Yields batches on the devices, prepared two steps ahead in a thread."""

    def place(step: int) -> tuple[Batch, tuple[jax.Array, ...]]:
        batch = pad_rows(batches(step), run.mesh.size)
        return shard(batch, run.mesh), run.clips(batch.clip)

    with ThreadPoolExecutor(1) as pool:
        ahead = deque(pool.submit(place, s) for s in range(first_step, min(first_step + 2, total_steps)))
        for step in range(first_step, total_steps):
            if step + 2 < total_steps:
                ahead.append(pool.submit(place, step + 2))
            yield ahead.popleft().result()


class MetricWindow:
    """Sums of the train steps since the last log line, left on the device until they are asked for."""

    def __init__(self) -> None:
        self._sums: list[dict[str, jax.Array]] = []
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Starts the clock anew, so that evaluation does not count as training."""
        self._start = time.perf_counter()

    def add(self, sums: dict[str, jax.Array]) -> None:
        """Takes in the sums of one step."""
        self._sums.append(sums)

    def means(self, step: int) -> dict[str, float]:
        """Returns means per bag and the rate since the last call; raises `UserError` if the loss is not finite."""
        steps = jax.device_get(self._sums)
        total = {name: float(np.sum([s[name] for s in steps])) for name in steps[0]}
        seconds = time.perf_counter() - self._start
        self._sums = []
        self.restart()
        if not all(map(math.isfinite, total.values())):
            raise UserError(
                f"training diverged: loss or weights are no longer finite at step {step}. Lower "
                "--config.optimizer.learning_rate or set --config.optimizer.clip_norm=1. The checkpoints before it "
                "are untouched."
            )
        return {
            "train/loss": total["loss"] / total["bags"],
            "train/accuracy": total["correct"] / total["bags"],
            "train/gradient_norm": total["gradient_norm"] / len(steps),
            "train/clips_per_second": total["clips"] / seconds,
        }


def finish(run: Run, checkpoints: Checkpoints, like: TrainState) -> dict[str, Any]:
    """Evaluates the best checkpoint on every split; writes `results.json` and prints the table."""
    step = checkpoints.best_step()
    if step is None:
        raise UserError(f"{run.workdir} has no complete checkpoint to evaluate; train first")
    meta = checkpoints.meta(step)
    run.check_meta(meta)
    state = checkpoints.restore(step, like)
    splits = {split: run.evaluate(split, state.params, state.batch_stats) for split in run.bags}
    latest = checkpoints.latest_step()
    results = {
        "model": describe_model(run.config),
        "parameters": run.num_parameters,
        "corpus": run.corpus.name,
        "fingerprint": run.corpus.fingerprint,
        "best_step": step,
        "last_step": latest,
        "selected_by": f"validation/{run.config.train.select}" if "validation" in splits else "last step",
        "seconds": checkpoints.meta(latest)["seconds"] if latest is not None else {},
        "splits": splits,
    }
    headline = f"{results['model']} on {run.corpus.name}, best checkpoint at step {step} ({results['selected_by']})"
    report(results, run.corpus, run.workdir, headline)
    log.info("trained for %s; results in %s", clock(sum(results["seconds"].values())), run.workdir / "results.json")
    return results


def describe_model(config: ConfigDict) -> str:
    """Names the system as the papers do: encoder + pooling."""
    pooling = {"none": "", "mean": " + MIL (mean)", "matt": " + MATT"}[config.model.pooling]
    return config.model.encoder.name.upper().replace("_", "-") + pooling


def flat_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Flattens a split's results to <view>/<metric>."""
    return {
        f"{view}/{name}": value
        for view, metrics in result.items()
        if isinstance(metrics, dict)
        for name, value in metrics.items()
    }


def epoch_line(
    step: int, steps_per_epoch: int, config: ConfigDict, values: dict[str, float], result: dict[str, Any]
) -> str:
    """Formats the log line of an evaluation."""
    views = "; ".join(
        f"{view} {metrics['accuracy']:.3f} (AP {metrics['micro_ap']:.3f})"
        for view, metrics in result.items()
        if isinstance(metrics, dict)
    )
    return (
        f"epoch {step / steps_per_epoch:.0f}/{config.train.epochs}: loss {values['train/loss']:.3f}, train accuracy "
        f"{values['train/accuracy']:.3f}, {values['train/clips_per_second']:,.0f} clips/s; "
        f"validation accuracy: {views}"
    )
