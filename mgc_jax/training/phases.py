"""The phases of a run: the whole model, then, if asked for, its classifier alone."""

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import jax

from mgc_jax.data.batches import TrainBatches
from mgc_jax.experiment import Experiment
from mgc_jax.models.logit_adjustment import log_prior
from mgc_jax.runtime.devices import on_cpu, replicate
from mgc_jax.training.averaged_statistics import make_recompute
from mgc_jax.training.checkpoint import Checkpoints
from mgc_jax.training.losses import class_weights
from mgc_jax.training.optimizer import Optimizer, make_optimizer
from mgc_jax.training.state import TrainState
from mgc_jax.training.step import make_loss, make_train_step

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one kind of batches and one update.

    Attributes:
        first: steps done before it.
        last: steps done after it.
        classifier_only: whether only the head is trained.
        batches: as a function of the step.
        optimizer: the optimizer.
        train_step: the jitted step.
        recompute: gives averaged weights batch statistics of their own; see `averaged_statistics`.
    """

    first: int
    last: int
    classifier_only: bool
    batches: TrainBatches
    optimizer: Optimizer
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    recompute: Callable[[TrainState], TrainState]


def make_phases(experiment: Experiment) -> list[Phase]:
    """Returns the phases of a run in order; nothing is compiled yet."""
    phases = [make_phase(experiment, classifier_only=False)]
    if experiment.config.train.classifier_epochs:
        phases.append(make_phase(experiment, classifier_only=True))
    return phases


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
        adjustment * log_prior(experiment.genre_count), shares=experiment.shares, classifier_only=classifier_only,
    )  # fmt: skip
    train_step = make_train_step(
        loss, optimizer, experiment.mesh, trained=("head",) if classifier_only else None,
        accumulate=config.train.accumulate, unroll=on_cpu(experiment.mesh),
    )  # fmt: skip
    recompute = _unchanged if classifier_only else make_recompute(
        loss, batches, experiment.clips, experiment.mesh, jax.random.key(config.seed),
        accumulate=config.train.accumulate,
    )  # fmt: skip
    first = config.train.epochs * batches.steps_per_epoch if classifier_only else 0
    last = first + epochs * batches.steps_per_epoch
    return Phase(first, last, classifier_only, batches, optimizer, train_step, recompute)


def _unchanged(state: TrainState) -> TrainState:
    """Stands for `recompute` where the encoder stays as it is, and so do its batch statistics."""
    return state


def initial_state(experiment: Experiment, optimizer: Optimizer, weights: tuple[Any, Any] | None = None) -> TrainState:
    """Returns the state before the first step, on all devices.

    Args:
        experiment: the experiment.
        optimizer: its optimizer.
        weights: parameters and batch statistics to start from; by default those drawn at random.
    """
    params, batch_stats = weights or (experiment.params, experiment.batch_stats)
    return replicate(optimizer.initial_state(params, batch_stats), experiment.mesh)


def begin(phase: Phase, experiment: Experiment, checkpoints: Checkpoints, state: TrainState) -> TrainState:
    """Returns the state that the first step of a phase takes, given the one after the step before it.

    The classifier is trained on the best weights so far, with a new head and a new state of the optimizer. A run that
    was resumed inside a phase goes on as it is.
    """
    if not phase.classifier_only or int(state.step) != phase.first:
        return state
    step, best = state.step, checkpoints.best_step()
    if best is not None:
        state = checkpoints.restore(best, state)
    params, batch_stats = state.evaluated
    log.info("training the classifier again, on the weights of step %s", best)
    fresh = initial_state(experiment, phase.optimizer, ({**params, "head": experiment.params["head"]}, batch_stats))
    return dataclasses.replace(fresh, step=step)
