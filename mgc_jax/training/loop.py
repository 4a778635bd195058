"""The training loop: step, log, evaluate, save."""

import dataclasses
import functools
import logging

import jax
from ml_collections import ConfigDict

from mgc_jax.config import keys
from mgc_jax.data.feed import placed_dispatches
from mgc_jax.errors import UserError
from mgc_jax.evaluation.results import level_metrics
from mgc_jax.experiment import Experiment
from mgc_jax.inference import CheckpointMeta
from mgc_jax.models.classifier import describe_model
from mgc_jax.runtime import processes
from mgc_jax.runtime.devices import on_cpu
from mgc_jax.runtime.files import write_json
from mgc_jax.runtime.preemption import notice
from mgc_jax.training.checkpoint import Checkpoints
from mgc_jax.training.dispatch import Dispatcher, steps_per_dispatch
from mgc_jax.training.initialization import initial_weights
from mgc_jax.training.monitor import Monitor
from mgc_jax.training.optimizer import Optimizer, make_schedule
from mgc_jax.training.phases import Phase, begin, initial_state, make_phases
from mgc_jax.training.profiling import Profile
from mgc_jax.training.state import TrainState
from mgc_jax.training.timetable import Timetable, make_timetable
from tfds_fma.paths import local_path

log = logging.getLogger(__name__)


def train(experiment: Experiment, checkpoints: Checkpoints) -> None:
    """Trains to the last step of the configuration, from the start or from the last checkpoint.

    Steps run in dispatches: one train step, or several that the devices do alone. A dispatch ends where the timetable
    has something to do. Everything that a step changes is in the `TrainState`, and batches and draws are functions of
    the step: training that was interrupted gives the same weights, bit for bit
    where the devices compute the same bits every time (CPUs do; GPUs: `runtime.xla_flags`).

    Args:
        experiment: corpus, model, inputs, evaluator; its workdir is claimed by this process.
        checkpoints: those of the workdir.

    Raises:
        UserError: the checkpoints belong to another run, or the loss is no longer finite.
        Preempted, KeyboardInterrupt: SIGTERM or Ctrl-C came; the step in progress is saved.
    """
    config, workdir = experiment.config, experiment.workdir
    phases = make_phases(experiment)
    timetable = make_timetable(config, phases[0].batches.steps_per_epoch)
    state, meta = start(experiment, checkpoints, phases[0].optimizer, timetable)
    step = int(state.step)  # counts finished steps
    length = steps_per_dispatch(config, timetable, experiment.clips, experiment.mesh)
    _describe(experiment, timetable, length)
    if processes.is_first():
        write_json(workdir / "config.json", keys.to_json(config))

    with (
        Monitor(workdir, timetable, meta, step, told_genre=experiment.told_genre) as monitor,
        Profile(workdir, config.profile.first, config.profile.last, step) as profile,
        notice() as asked, asked.deferred(),
    ):  # fmt: skip
        for phase in phases:
            state = begin(phase, experiment, checkpoints, state)
            dispatcher = Dispatcher(phase.train_step, jax.random.key(config.seed), experiment.mesh)
            dispatches = timetable.dispatches(step, phase.last, length)
            feed = placed_dispatches(phase.batches, experiment.clips, experiment.mesh, step, dispatches)
            for placed in monitor.waits_for(feed):
                if not dispatcher.is_compiled(placed.steps):
                    with monitor.timed("compile"):
                        dispatcher.compile(state, placed)
                profile.before(step + 1, state)
                with monitor.timed("train"), jax.profiler.StepTraceAnnotation("train_step", step_num=step + 1):
                    state, sums = dispatcher(state, placed)
                    step = monitor.trained(placed.steps, sums)
                if timetable.logs(step):
                    monitor.log()
                metrics = None
                if timetable.evaluates(step) and experiment.selects_on:
                    with monitor.timed("evaluate"):
                        state = phase.recompute(state)
                    metrics = validate(experiment, experiment.selects_on, state, phase, monitor)
                    state = phase.optimizer.after_evaluation(state, metrics[config.train.select])
                # With several processes, to agree takes a message, and so happens where they wait anyway.
                agrees = step < timetable.total_steps and (timetable.logs(step) or jax.process_count() == 1)
                stops = agrees and asked.agreed()
                if timetable.saves(step) or stops:
                    with monitor.timed("checkpoint"):
                        state = state if metrics else phase.recompute(state)
                        meta = dataclasses.replace(monitor.meta(), probe=tuple(experiment.probe(*state.evaluated)))
                        checkpoints.save(state, meta, metrics)
                profile.after(step, state)
                if stops:
                    checkpoints.wait()
                    log.warning("%s: stopped after step %d of %d, which is saved",
                                asked.requested or "another process", step, timetable.total_steps)  # fmt: skip
                    asked.stop()


def validate(
    experiment: Experiment, split: str, state: TrainState, phase: Phase, monitor: Monitor
) -> dict[str, float]:
    """Evaluates the split that selects; returns its metrics as <level>/<metric>, and `phase`: 1 in the second one."""
    with monitor.timed("evaluate"):
        scores = experiment.predict(split, *state.evaluated)
        result = processes.from_first(functools.partial(level_metrics, scores))
    return {**monitor.validated(result), "phase": float(phase.classifier_only)}


def start(
    experiment: Experiment, checkpoints: Checkpoints, optimizer: Optimizer, timetable: Timetable
) -> tuple[TrainState, CheckpointMeta]:
    """Returns the state to train from and what is known of the run so far.

    That is the last checkpoint that is whole; where there is none, the initial state, with the weights that
    `config.train.init_from` names.

    A run that has begun may be given another number of epochs. The learning rate is a function of the step and the
    length of training: a schedule that depends on the length is rescaled from here on, and a warning says so.

    Raises:
        UserError: the checkpoint is that of another run, of one that is longer already, or of other code.
    """
    train = experiment.config.train
    state = initial_state(experiment, optimizer)
    found = checkpoints.last_whole(state, lambda meta: experiment.accept(meta, training=True))
    if found is None:
        if not train.init_from:
            return state, experiment.meta({})
        weights, origin = initial_weights(experiment, local_path(train.init_from))
        return initial_state(experiment, optimizer, weights), experiment.meta({}, init_from=origin)
    state, saved = found
    experiment.check_state(saved, state)
    step, epochs = int(state.step), saved.config["train"]["epochs"]
    if step > timetable.total_steps:
        raise UserError(
            f"{experiment.workdir} has trained {step} steps, more than the {timetable.total_steps} of "
            f"config.train.epochs={train.epochs}. Give more epochs, or a new --workdir."
        )
    log.info("resuming %s at step %d", experiment.workdir, step)
    if epochs != train.epochs:
        _report_length(experiment.config, epochs, step, timetable)
    if saved.devices and saved.devices != experiment.devices:
        remedy = (
            " (to go on as before: --cpu_devices=DEVICES, and NPROC=THREADS in the environment)"
            if on_cpu(experiment.mesh)
            else ""
        )
        log.warning(
            "trained on %s up to step %d and on %s from there on, which differs in rounding%s",
            saved.devices, step, experiment.devices, remedy,
        )  # fmt: skip
    if saved.gru_form and saved.gru_form != experiment.gru_form:
        log.warning(
            "the GRUs ran as a %s up to step %d and run as a %s from there on, which differs in rounding",
            saved.gru_form, step, experiment.gru_form,
        )  # fmt: skip
    return state, experiment.meta(saved.seconds, init_from=saved.init_from, window=saved.window)


def _report_length(config: ConfigDict, before: int, step: int, timetable: Timetable) -> None:
    """Logs what another number of epochs means for a run that has begun."""
    now = config.train.epochs
    rates = [float(make_schedule(config.optimizer, n, timetable.steps_per_epoch)(step)) for n in (before, now)]
    if rates[0] == rates[1]:
        log.info("config.train.epochs was %d and is now %d", before, now)
        return
    log.warning(
        "config.train.epochs was %d and is now %d: the schedule %s is rescaled, the learning rate at step %d is %.4g "
        "instead of %.4g. A run of %d epochs from the start would have trained with other rates so far.",
        before, now, config.optimizer.schedule, step, rates[1], rates[0], now,
    )  # fmt: skip


def _describe(experiment: Experiment, timetable: Timetable, length: int) -> None:
    """Logs what is trained."""
    config = experiment.config
    log.info(
        "%s: %s parameters; %s bags in %s batches of at most %s clips per epoch, %s epochs; on %s%s",
        describe_model(config.model), f"{experiment.num_parameters:,}", f"{len(experiment.train_bags):,}",
        timetable.steps_per_epoch, config.batch.clips,
        config.train.epochs + config.train.classifier_epochs, experiment.devices,
        f", up to {length} steps per dispatch" if length > 1 else "",
    )  # fmt: skip
