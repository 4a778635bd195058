"""Training and evaluation of one configuration in one workdir."""

import contextlib
import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mgc_jax import config as config_lib
from mgc_jax import distributed
from mgc_jax.checkpoint import Checkpoints, open_checkpoints
from mgc_jax.compilation_cache import keep_compiled_programs
from mgc_jax.data.bags import Bags, bags_of, single_clip_bags
from mgc_jax.data.batches import TrainBatches
from mgc_jax.data.corpus import Corpus, open_corpus
from mgc_jax.data.lazy import LazyClips
from mgc_jax.dispatch import Dispatcher, make_timetable, steps_per_dispatch
from mgc_jax.errors import UserError
from mgc_jax.evaluate import Evaluator
from mgc_jax.feed import Clips, Placed, place_clips, placed_dispatches
from mgc_jax.inputs import make_inputs
from mgc_jax.losses import class_weights, log_prior
from mgc_jax.models.classifier import build_model, check_names, count_parameters, describe_model
from mgc_jax.predictions import Predictions, concatenate
from mgc_jax.preemption import Preempted, notice
from mgc_jax.profiling import Profile
from mgc_jax.progress import MetricsWriter, Progress, clock
from mgc_jax.results import finish, nonempty_splits, view_metrics
from mgc_jax.sharding import data_mesh, on_cpu, replicate
from mgc_jax.state import (
    Optimizer,
    TrainState,
    make_loss,
    make_optimizer,
    make_train_step,
    split_model,
    untimed_optimizer,
)
from mgc_jax.workdir import check_same, check_same_corpus, claim, write_json

log = logging.getLogger(__name__)


class Run:
    """What training and evaluation share: corpus, model, bags and evaluator, built once.

    Attributes:
        config: the resolved configuration.
        workdir: the run's folder.
        corpus: the corpus.
        inputs: what the encoder sees of its clips.
        mesh: the devices.
        clips: the clips, placed.
        graph: the model's structure.
        params: initial weights.
        batch_stats: initial batch statistics.
        num_parameters: weights and batch-norm moments.
        evaluator: scores splits.
        bags: by split, what evaluation pools.
        train_bags: what training sees: bags, or bags of one clip for a model without pooling.
        adjustment: float32 [genre]: post-hoc logit adjustment of all scores.
        genre_count: [genre]: training bags (or clips, where the loss counts them) of each genre.
    """

    def __init__(
        self,
        config: ConfigDict,
        workdir: Path,
        *,
        corpus: Corpus | None = None,
        clips: Clips | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """Builds all of it.

        Args:
            config: the resolved configuration.
            workdir: the run's folder.
            corpus: the corpus; by default the one that the configuration names is opened.
            clips: those of the corpus, placed on these devices; by default they are placed as the configuration says.
            devices: those to use; by default all.
        """
        self.config, self.workdir = config, workdir
        keep_compiled_programs()
        untimed_optimizer(config.optimizer)  # a mistyped option shows before the corpus is read
        check_names(config.model)
        self.mesh = data_mesh(devices)
        self.corpus = open_together(config) if corpus is None else corpus
        log.info(self.corpus.summary())
        self.inputs = make_inputs(config, self.corpus)
        model = build_model(
            config.model, self.inputs.clip_shape, len(self.corpus.genres),
            subgenre_parents=self.corpus.subgenre_parents, seed=config.seed,
        )  # fmt: skip
        self.num_parameters = count_parameters(model)
        self.graph, *state = split_model(model)
        # Copies: the train step reuses what it is given.
        self.params, self.batch_stats = distributed.arrays_from_first(jax.device_get(state))
        if clips is None:
            clips = place_clips(self.corpus.clips, config.data.placement, self.mesh, config.data.workers)
        self.clips: Clips = clips
        self.bags = {split: self._bags(split) for split in nonempty_splits(self.corpus, test=True)}
        if config.optimizer.plateau_factor < 1 and "validation" not in self.bags:
            raise UserError(
                "config.optimizer.plateau_factor lowers the learning rate where validation stalls, but this corpus "
                "has no validation split. Set it to 1."
            )
        train = self.bags["train"] if self.has_pooling else single_clip_bags(self.corpus, "train")
        self.train_bags: Bags = train
        self.genre_count = np.bincount(
            train.label, weights=train.sizes if config.loss.bag_weight == "size" else None,
            minlength=len(self.corpus.genres),
        )  # fmt: skip
        self.adjustment = -config.eval.logit_adjustment * log_prior(self.genre_count)
        self.evaluator = Evaluator(
            self.graph, self.inputs, self.clips, self.mesh, config.eval.batch_clips, self.has_pooling, self.adjustment,
            views=getattr(model.pooling, "num_views", 1),
        )  # fmt: skip

    @property
    def has_pooling(self) -> bool:
        """Whether training sees bags of several clips."""
        return self.config.model.pooling.name != "none"

    def _bags(self, split: str) -> Bags:
        data = self.config.data
        return bags_of(self.corpus, split, data.bag_key, data.pseudo_album_gap)

    def train_batches(self, sampling: str) -> TrainBatches:
        """Returns the training batches."""
        batch = self.config.batch
        return TrainBatches(
            self.train_bags, batch.rows, batch.clips_per_row, self.config.seed,
            sampling=sampling, sub_bags=batch.sub_bags, bag_weight=self.config.loss.bag_weight,
            mixup=self.config.augment.mixup,
        )  # fmt: skip

    def predict(self, split: str, state: TrainState) -> Predictions:
        """Scores every clip and bag of one split."""
        return self.evaluator.score_split(state.evaluated, state.batch_stats, self.corpus, split, self.bags[split])

    def meta(self, seconds: dict[str, float]) -> dict[str, Any]:
        """Returns what a checkpoint says of itself."""
        return {
            "config": config_lib.to_json(self.config),
            "corpus": self.corpus.name,
            "fingerprint": self.corpus.fingerprint,
            "genres": list(self.corpus.genres),
            "subgenres": list(self.corpus.subgenres),
            "subgenre_parents": list(self.corpus.subgenre_parents),
            "stored_shape": list(self.corpus.clips.shape[1:]),
            "clip_shape": list(self.inputs.clip_shape),
            "adjustment": self.adjustment.tolist(),
            "standardization": {name: getattr(self.inputs.statistics, name).tolist() for name in ("mean", "std")},
            "seconds": dict(seconds),  # the save is asynchronous
        }

    def check_meta(self, meta: dict[str, Any], *, training: bool) -> None:
        """Raises `UserError` if a checkpoint was made with another configuration or on another corpus."""
        check_same(self.config, meta["config"], self.workdir, training=training)
        check_same_corpus(self.corpus, meta, self.workdir)


def open_together(config: ConfigDict) -> Corpus:
    """Opens the corpus, in all processes; raises `UserError` if it is not the same one in all."""
    demo = config.data.corpus == "demo"  # which the first process makes
    if demo and not distributed.is_first():
        distributed.wait_for_all()
    corpus = open_corpus(config.data)
    if demo and distributed.is_first():
        distributed.wait_for_all()
    lazy = isinstance(corpus.clips, LazyClips)
    found = {"corpus": corpus.name, "fingerprint": corpus.fingerprint, "config.data.placement=stream": lazy}
    distributed.require_same("corpus", found)
    return corpus


def train_and_evaluate(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Trains to the end, or on from the last checkpoint, and evaluates the best checkpoint.

    Args:
        config: a validated configuration whose corpus is not `auto`.
        workdir: the run's folder; may hold an interrupted run of the same configuration.
        test: evaluate it on the test split, too, not on training and validation split alone.

    Returns:
        What `results.json` holds.

    Raises:
        UserError: bad input, or a loss that is no longer finite.
    """
    with claim(workdir, config, create=True):
        return train_run(Run(config, workdir), test=test)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training: which batches, which update.

    Attributes:
        batches: as a function of the step.
        optimizer: the optimizer.
        train_step: the jitted step.
    """

    batches: TrainBatches
    optimizer: Optimizer
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]


def make_phase(run: Run, *, classifier_only: bool) -> Phase:
    """Builds the training of the whole model, or that of the classifier alone.

    The latter is the second stage of decoupled training (Kang et al. 2020, cRT): genres are sampled evenly, the
    encoder and the pooling stay as they are. It has no logit adjustment: its bags are balanced already.
    """
    config = run.config
    batches = run.train_batches("class_balanced" if classifier_only else config.batch.sampling)
    epochs = config.train.classifier_epochs if classifier_only else config.train.epochs
    optimizer = make_optimizer(config.optimizer, epochs, batches.steps_per_epoch)
    adjustment = 0.0 if classifier_only else config.loss.logit_adjustment
    loss = make_loss(
        run.graph, run.inputs, config.loss, batches.weight_per_step,
        class_weights("none" if classifier_only else config.loss.class_weights, run.genre_count, config.loss.beta),
        adjustment * log_prior(run.genre_count), classifier_only=classifier_only,
    )  # fmt: skip
    check_accumulation(config, run.mesh.size)
    train_step = make_train_step(
        loss, optimizer, trained=("head",) if classifier_only else None, accumulate=config.train.accumulate,
        unroll=on_cpu(run.mesh),
    )  # fmt: skip
    return Phase(batches, optimizer, train_step)


def check_accumulation(config: ConfigDict, devices: int, key: str = "config.batch.rows") -> None:
    """Raises `UserError` if the rows that a device has of a batch cannot be cut into micro-batches.

    Args:
        config: the configuration.
        devices: how many there are.
        key: what says how many rows a batch has.
    """
    rows = -(-config.batch.rows // devices)
    if rows % config.train.accumulate:
        raise UserError(
            f"config.train.accumulate={config.train.accumulate}, but each of the {devices} device(s) has {rows} "
            f"of the {config.batch.rows} rows of a batch, which cannot be cut into so many micro-batches. Give a "
            f"{key} that is a multiple of {config.train.accumulate * devices}."
        )


def start_classifier(run: Run, phase: Phase, checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """Returns the state from which the classifier is trained again: the best weights so far, with a new head."""
    best = checkpoints.best_step()
    if best is not None:
        state = dataclasses.replace(checkpoints.restore(best, state), step=state.step)
    params = {**state.evaluated, "head": run.params["head"]}
    fresh = phase.optimizer.initial_state(params, state.batch_stats)
    log.info("training the classifier again, on the weights of step %s", best)
    return replicate(dataclasses.replace(fresh, step=state.step), run.mesh)


def train_run(run: Run, *, test: bool = False) -> dict[str, Any]:
    """Trains in a workdir that this process has claimed; see `train_and_evaluate`."""
    config, workdir = run.config, run.workdir
    phase = make_phase(run, classifier_only=False)
    state = initial_state(run, phase.optimizer)
    steps_per_epoch = phase.batches.steps_per_epoch
    timetable = make_timetable(config, steps_per_epoch)
    model_steps, total_steps = timetable.model_steps, timetable.total_steps
    length = steps_per_dispatch(config, timetable, run.clips, run.mesh)

    def begin(phase: Phase, first: int, last: int) -> tuple[Dispatcher, Iterator[Placed]]:
        """Returns what runs the steps of a phase, and what it runs them on."""
        dispatcher = Dispatcher(phase.train_step, jax.random.key(config.seed), run.mesh)
        steps = timetable.dispatches(first, last, length)
        return dispatcher, placed_dispatches(phase.batches, run.clips, run.mesh, first, steps)

    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        state, seconds, lost = resume(run, checkpoints, state)
        first_step = int(state.step)
        if first_step > total_steps:
            raise UserError(
                f"{workdir} has trained {first_step} steps, more than the {total_steps} of "
                f"config.train.epochs={config.train.epochs}. Give more epochs, or a new --workdir."
            )
        if distributed.is_first():
            write_json(workdir / "config.json", config_lib.to_json(config))
        log.info(
            "%s: %s parameters; %s bags in %s steps of %s x %s clips per epoch, %s epochs; %s device(s)%s",
            describe_model(config.model), f"{run.num_parameters:,}", f"{len(run.bags['train']):,}",
            steps_per_epoch, config.batch.rows, config.batch.clips_per_row,
            config.train.epochs + config.train.classifier_epochs, run.mesh.size,
            f", up to {length} steps per dispatch" if length > 1 else "",
        )  # fmt: skip
        if config.batch.rows % run.mesh.size:
            log.warning(
                "config.batch.rows=%d is not a multiple of the %d devices: some of them get empty rows",
                config.batch.rows, run.mesh.size,
            )  # fmt: skip
        progress = Progress(total_steps, first_step, seconds)
        window = MetricWindow(lost)
        writer = MetricsWriter(workdir, first_step)
        profile = Profile(workdir, config.profile.first, config.profile.last, first_step)
        dispatcher, feed = begin(phase, first_step, model_steps)
        step = first_step  # counts finished steps

        with contextlib.closing(writer), contextlib.closing(profile), notice() as asked, asked.deferred():
            while step < total_steps:
                if step >= model_steps and step in (model_steps, first_step):
                    phase = make_phase(run, classifier_only=True)
                    if step == model_steps:
                        state = start_classifier(run, phase, checkpoints, state)
                    dispatcher, feed = begin(phase, step, total_steps)
                with progress.timed("data"):
                    placed = next(feed)
                if dispatcher.needs(placed):
                    with progress.timed("compile"), window.paused():
                        dispatcher.prepare(state, placed)
                profile.before(step + 1, state)
                with progress.timed("train"), jax.profiler.StepTraceAnnotation("train_step", step_num=step + 1):
                    state, sums = dispatcher(state, placed)
                    window.add(sums)
                step += placed.steps
                if timetable.logs(step):
                    with progress.timed("train"):
                        values = window.means(step)  # waits for the device; stops if the loss is not finite
                    writer.write(step, {"epoch": step / steps_per_epoch, **values})
                    progress.show(step, values["train/clips_per_second"], values["train/loss"])
                metrics = None
                if timetable.evaluates(step) and "validation" in run.bags:
                    with progress.timed("evaluate"):
                        scores = run.predict("validation", state)
                        result = distributed.from_first(functools.partial(view_metrics, scores))
                    metrics = flat_metrics(result)
                    writer.write(step, {f"validation/{name}": value for name, value in metrics.items()})
                    progress.clear()
                    log.info(epoch_line(step, steps_per_epoch, config, values, result))
                    state = phase.optimizer.after_evaluation(state, metrics[config.train.select])
                    metrics["phase"] = float(step > model_steps)
                if timetable.saves(step):
                    with progress.timed("checkpoint"):
                        checkpoints.save(state, run.meta(progress.seconds), metrics)
                if timetable.evaluates(step):
                    window.restart()
                profile.after(step, state)
                # With several processes, to agree takes a message, and so happens where they wait anyway.
                saved = timetable.saves(step)
                if (timetable.logs(step) or jax.process_count() == 1) and step < total_steps and asked.agreed():
                    if not saved:
                        checkpoints.save(state, run.meta(progress.seconds) | {"window": window.sums(step)}, None)
                    checkpoints.wait()
                    log.warning("SIGTERM: stopped after step %d of %d, which is saved", step, total_steps)
                    raise Preempted
        progress.clear()
        return evaluate_best(run, checkpoints, test=test)


def evaluate_workdir(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Evaluates the best checkpoint of a workdir (`--mode eval`); returns the results."""
    with claim(workdir, config, create=False):
        run = Run(config, workdir)
        with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
            return evaluate_best(run, checkpoints, test=test)


def resume(
    run: Run, checkpoints: Checkpoints, state: TrainState
) -> tuple[TrainState, dict[str, float], list[dict[str, float]]]:
    """Returns the state of the last checkpoint that is whole, the time spent so far, and what was not logged yet.

    Where there is no checkpoint, the state is the one given.
    """
    found = checkpoints.last_whole(state, lambda meta: run.check_meta(meta, training=True))
    if found is None:
        return state, {}, []
    state, meta = found
    log.info("resuming %s at step %d", run.workdir, int(state.step))
    return state, meta["seconds"], meta.get("window", [])


class MetricWindow:
    """Sums of the train steps since the last log line, left on the device until they are asked for."""

    def __init__(self, sums: Sequence[dict[str, float]] = ()) -> None:
        """Starts with the sums of steps before, of a run that was stopped between log lines."""
        self._sums: list[Any] = list(sums)
        self._start = time.perf_counter()

    def restart(self) -> None:
        """Starts the clock anew, so that evaluation does not count as training."""
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time of a block."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, sums: dict[str, jax.Array]) -> None:
        """Takes in the sums of one step, or those of several in arrays."""
        self._sums.append(sums)

    def sums(self, step: int) -> list[dict[str, float]]:
        """Returns the sums of each step since the last log line; raises `UserError` if one is not finite."""
        steps = []
        for sums in jax.device_get(self._sums):
            columns = {name: np.atleast_1d(values).tolist() for name, values in sums.items()}
            steps += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        if not all(math.isfinite(value) for s in steps for value in s.values()):
            raise UserError(
                f"training diverged: loss or weights are no longer finite at step {step}. Lower "
                "--config.optimizer.learning_rate or set --config.optimizer.clip_norm=1. The checkpoints before it "
                "are untouched."
            )
        return steps

    def means(self, step: int) -> dict[str, float]:
        """Returns means per bag and the rate since the last call; raises `UserError` if the loss is not finite."""
        steps = self.sums(step)
        total = {name: float(np.sum(np.array([s[name] for s in steps], np.float32))) for name in steps[0]}
        seconds = time.perf_counter() - self._start
        self._sums = []
        self.restart()
        return {
            "train/loss": total["loss"] / max(total["weight"], 1e-9),
            "train/accuracy": total["correct"] / max(total["weight"], 1e-9),
            "train/gradient_norm": total["gradient_norm"] / len(steps),
            "train/clips_per_second": total["clips"] / seconds,
        }


def initial_state(run: Run, optimizer: Optimizer) -> TrainState:
    """Returns the state before the first step, on all devices."""
    return replicate(optimizer.initial_state(run.params, run.batch_stats), run.mesh)


def best_state(run: Run, checkpoints: Checkpoints) -> TrainState:
    """Returns the state of the best checkpoint.

    Raises:
        UserError: there is no checkpoint, or one of another configuration.
    """
    step = checkpoints.best_step()
    if step is None:
        raise UserError(f"{run.workdir} has no complete checkpoint to evaluate; train first")
    run.check_meta(checkpoints.meta(step), training=False)
    return checkpoints.restore(step, initial_state(run, untimed_optimizer(run.config.optimizer)))


def evaluate_best(run: Run, checkpoints: Checkpoints, *, test: bool) -> dict[str, Any]:
    """Evaluates the best checkpoint on training and validation split, and on the test split if asked."""
    state = best_state(run, checkpoints)
    step, latest = int(state.step), checkpoints.latest_step()
    parts = [run.predict(split, state) for split in nonempty_splits(run.corpus, test=test)]
    about = {
        "model": describe_model(run.config.model),
        "parameters": run.num_parameters,
        "corpus": run.corpus.name,
        "fingerprint": run.corpus.fingerprint,
        "best_step": step,
        "last_step": latest,
        "logit_adjustment": run.config.eval.logit_adjustment,
        "selected_by": f"validation/{run.config.train.select}" if "validation" in run.bags else "last step",
        "seconds": checkpoints.meta(latest)["seconds"] if latest is not None else {},
    }
    headline = f"{about['model']} on {run.corpus.name}, best checkpoint at step {step} ({about['selected_by']})"
    results = distributed.from_first(lambda: finish(concatenate(parts), about, run.workdir, headline, run.corpus))
    log.info("trained for %s; results in %s", clock(sum(about["seconds"].values())), run.workdir / "results.json")
    return results


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
    epochs = config.train.epochs + config.train.classifier_epochs
    return (
        f"epoch {step / steps_per_epoch:.0f}/{epochs}: loss {values['train/loss']:.3f}, train accuracy "
        f"{values['train/accuracy']:.3f}, {values['train/clips_per_second']:,.0f} clips/s; "
        f"validation accuracy: {views}"
    )
