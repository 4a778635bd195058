"""The training loop: step, log, evaluate, save."""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.data.batches import TrainBatches
from mgc_jax.data.feed import Placed, placed_dispatches
from mgc_jax.data.splits import nonempty_splits
from mgc_jax.errors import UserError
from mgc_jax.evaluation.predictions import concatenate
from mgc_jax.evaluation.results import finish, level_metrics
from mgc_jax.experiment import Experiment
from mgc_jax.models.classifier import describe_model
from mgc_jax.models.logit_adjustment import log_prior
from mgc_jax.runtime import processes
from mgc_jax.runtime.devices import on_cpu, replicate
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.preemption import Preempted, notice
from mgc_jax.runtime.terminal import clock
from mgc_jax.runtime.workdir import claim
from mgc_jax.training.checkpoint import Checkpoints, open_checkpoints
from mgc_jax.training.dispatch import Dispatcher, steps_per_dispatch
from mgc_jax.training.losses import class_weights
from mgc_jax.training.metrics_writer import MetricsWriter
from mgc_jax.training.optimizer import Optimizer, make_optimizer, untimed_optimizer
from mgc_jax.training.profiling import Profile
from mgc_jax.training.progress import MetricWindow, Progress
from mgc_jax.training.state import TrainState
from mgc_jax.training.step import make_loss, make_train_step
from mgc_jax.training.timetable import make_timetable

log = logging.getLogger(__name__)


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
    untimed_optimizer(config.optimizer)  # a mistyped option shows before the corpus is read
    with claim(workdir, config, create=True):
        return train_run(Experiment(config, workdir), test=test)


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


def make_phase(experiment: Experiment, *, classifier_only: bool) -> Phase:
    """Builds the training of the whole model, or that of the classifier alone.

    The latter is the second stage of decoupled training (Kang et al. 2020, cRT): genres are sampled evenly, the
    encoder and the pooling stay as they are. It has no logit adjustment: its bags are balanced already.
    """
    config = experiment.config
    batches = experiment.train_batches("class_balanced" if classifier_only else config.batch.sampling)
    epochs = config.train.classifier_epochs if classifier_only else config.train.epochs
    optimizer = make_optimizer(config.optimizer, epochs, batches.steps_per_epoch)
    adjustment = 0.0 if classifier_only else config.loss.logit_adjustment
    loss = make_loss(
        experiment.graph, experiment.inputs, config.loss, batches.weight_per_step,
        class_weights(
            "none" if classifier_only else config.loss.class_weights, experiment.genre_count, config.loss.beta
        ),
        adjustment * log_prior(experiment.genre_count), classifier_only=classifier_only,
    )  # fmt: skip
    check_accumulation(config, experiment.mesh.size)
    train_step = make_train_step(
        loss, optimizer, trained=("head",) if classifier_only else None, accumulate=config.train.accumulate,
        unroll=on_cpu(experiment.mesh),
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


def start_classifier(experiment: Experiment, phase: Phase, checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """Returns the state from which the classifier is trained again: the best weights so far, with a new head."""
    best = checkpoints.best_step()
    if best is not None:
        state = dataclasses.replace(checkpoints.restore(best, state), step=state.step)
    params = {**state.evaluated, "head": experiment.params["head"]}
    fresh = phase.optimizer.initial_state(params, state.batch_stats)
    log.info("training the classifier again, on the weights of step %s", best)
    return replicate(dataclasses.replace(fresh, step=state.step), experiment.mesh)


def train_run(experiment: Experiment, *, test: bool = False) -> dict[str, Any]:
    """Trains in a workdir that this process has claimed; see `train_and_evaluate`."""
    config, workdir = experiment.config, experiment.workdir
    phase = make_phase(experiment, classifier_only=False)
    state = initial_state(experiment, phase.optimizer)
    steps_per_epoch = phase.batches.steps_per_epoch
    timetable = make_timetable(config, steps_per_epoch)
    model_steps, total_steps = timetable.model_steps, timetable.total_steps
    length = steps_per_dispatch(config, timetable, experiment.clips, experiment.mesh)

    def begin(phase: Phase, first: int, last: int) -> tuple[Dispatcher, Iterator[Placed]]:
        """Returns what runs the steps of a phase, and what it runs them on."""
        dispatcher = Dispatcher(phase.train_step, jax.random.key(config.seed), experiment.mesh)
        steps = timetable.dispatches(first, last, length)
        return dispatcher, placed_dispatches(phase.batches, experiment.clips, experiment.mesh, first, steps)

    with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
        state, seconds, lost = resume(experiment, checkpoints, state)
        first_step = int(state.step)
        if first_step > total_steps:
            raise UserError(
                f"{workdir} has trained {first_step} steps, more than the {total_steps} of "
                f"config.train.epochs={config.train.epochs}. Give more epochs, or a new --workdir."
            )
        if processes.is_first():
            write_json(workdir / "config.json", keys.to_json(config))
        log.info(
            "%s: %s parameters; %s bags in %s steps of %s x %s clips per epoch, %s epochs; %s device(s)%s",
            describe_model(config.model), f"{experiment.num_parameters:,}", f"{len(experiment.bags['train']):,}",
            steps_per_epoch, config.batch.rows, config.batch.clips_per_row,
            config.train.epochs + config.train.classifier_epochs, experiment.mesh.size,
            f", up to {length} steps per dispatch" if length > 1 else "",
        )  # fmt: skip
        if config.batch.rows % experiment.mesh.size:
            log.warning(
                "config.batch.rows=%d is not a multiple of the %d devices: some of them get empty rows",
                config.batch.rows, experiment.mesh.size,
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
                    phase = make_phase(experiment, classifier_only=True)
                    if step == model_steps:
                        state = start_classifier(experiment, phase, checkpoints, state)
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
                if timetable.evaluates(step) and "validation" in experiment.bags:
                    with progress.timed("evaluate"):
                        scores = experiment.predict("validation", state.evaluated, state.batch_stats)
                        result = processes.from_first(functools.partial(level_metrics, scores))
                    metrics = flat_metrics(result)
                    writer.write(step, {f"validation/{name}": value for name, value in metrics.items()})
                    progress.clear()
                    log.info(epoch_line(step, steps_per_epoch, config, values, result))
                    state = phase.optimizer.after_evaluation(state, metrics[config.train.select])
                    metrics["phase"] = float(step > model_steps)
                if timetable.saves(step):
                    with progress.timed("checkpoint"):
                        checkpoints.save(state, experiment.meta(progress.seconds), metrics)
                if timetable.evaluates(step):
                    window.restart()
                profile.after(step, state)
                # With several processes, to agree takes a message, and so happens where they wait anyway.
                saved = timetable.saves(step)
                if (timetable.logs(step) or jax.process_count() == 1) and step < total_steps and asked.agreed():
                    if not saved:
                        checkpoints.save(
                            state, experiment.meta(progress.seconds) | {"window": window.sums(step)}, None
                        )
                    checkpoints.wait()
                    log.warning("SIGTERM: stopped after step %d of %d, which is saved", step, total_steps)
                    raise Preempted
        progress.clear()
        return evaluate_best(experiment, checkpoints, test=test)


def evaluate_workdir(config: ConfigDict, workdir: Path, *, test: bool = False) -> dict[str, Any]:
    """Evaluates the best checkpoint of a workdir (`--mode eval`); returns the results."""
    with claim(workdir, config, create=False):
        experiment = Experiment(config, workdir)
        with open_checkpoints(workdir, config.train.select, config.train.keep_checkpoints) as checkpoints:
            return evaluate_best(experiment, checkpoints, test=test)


def resume(
    experiment: Experiment, checkpoints: Checkpoints, state: TrainState
) -> tuple[TrainState, dict[str, float], list[dict[str, float]]]:
    """Returns the state of the last checkpoint that is whole, the time spent so far, and what was not logged yet.

    Where there is no checkpoint, the state is the one given.
    """
    found = checkpoints.last_whole(state, lambda meta: experiment.check_meta(meta, training=True))
    if found is None:
        return state, {}, []
    state, meta = found
    log.info("resuming %s at step %d", experiment.workdir, int(state.step))
    return state, meta["seconds"], meta.get("window", [])


def initial_state(experiment: Experiment, optimizer: Optimizer) -> TrainState:
    """Returns the state before the first step, on all devices."""
    return replicate(optimizer.initial_state(experiment.params, experiment.batch_stats), experiment.mesh)


def best_state(experiment: Experiment, checkpoints: Checkpoints) -> TrainState:
    """Returns the state of the best checkpoint.

    Raises:
        UserError: there is no checkpoint, or one of another configuration.
    """
    step = checkpoints.best_step()
    if step is None:
        raise UserError(f"{experiment.workdir} has no complete checkpoint to evaluate; train first")
    experiment.check_meta(checkpoints.meta(step), training=False)
    return checkpoints.restore(step, initial_state(experiment, untimed_optimizer(experiment.config.optimizer)))


def evaluate_best(experiment: Experiment, checkpoints: Checkpoints, *, test: bool) -> dict[str, Any]:
    """Evaluates the best checkpoint on training and validation split, and on the test split if asked."""
    state = best_state(experiment, checkpoints)
    step, latest = int(state.step), checkpoints.latest_step()
    parts = [
        experiment.predict(split, state.evaluated, state.batch_stats)
        for split in nonempty_splits(experiment.corpus, test=test)
    ]
    about = {
        "model": describe_model(experiment.config.model),
        "parameters": experiment.num_parameters,
        "corpus": experiment.corpus.name,
        "fingerprint": experiment.corpus.fingerprint,
        "best_step": step,
        "last_step": latest,
        "logit_adjustment": experiment.config.eval.logit_adjustment,
        "selected_by": f"validation/{experiment.config.train.select}"
        if "validation" in experiment.bags
        else "last step",
        "seconds": checkpoints.meta(latest)["seconds"] if latest is not None else {},
    }
    headline = f"{about['model']} on {experiment.corpus.name}, best checkpoint at step {step} ({about['selected_by']})"
    results = processes.from_first(
        lambda: finish(concatenate(parts), about, experiment.workdir, headline, experiment.corpus)
    )
    log.info(
        "trained for %s; results in %s", clock(sum(about["seconds"].values())), experiment.workdir / "results.json"
    )
    return results


def flat_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Flattens a split's results to <level>/<metric>."""
    return {
        f"{level}/{name}": value
        for level, metrics in result.items()
        if isinstance(metrics, dict)
        for name, value in metrics.items()
    }


def epoch_line(
    step: int, steps_per_epoch: int, config: ConfigDict, values: dict[str, float], result: dict[str, Any]
) -> str:
    """Formats the log line of an evaluation."""
    levels = "; ".join(
        f"{level} {metrics['accuracy']:.3f} (AP {metrics['micro_ap']:.3f})"
        for level, metrics in result.items()
        if isinstance(metrics, dict)
    )
    epochs = config.train.epochs + config.train.classifier_epochs
    return (
        f"epoch {step / steps_per_epoch:.0f}/{epochs}: loss {values['train/loss']:.3f}, train accuracy "
        f"{values['train/accuracy']:.3f}, {values['train/clips_per_second']:,.0f} clips/s; "
        f"validation accuracy: {levels}"
    )
