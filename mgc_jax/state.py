"""The training state, the optimizer, and the jitted train step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mgc_jax.data.batches import Batch
from mgc_jax.data.corpus import Standardization
from mgc_jax.models.pooling import Target
from mgc_jax.sharding import take_clips


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: int32: steps done.
        params: trainable weights, a nested dict.
        batch_stats: moving averages of batch norm, a nested dict.
        opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """Returns the model's structure, its weights and its batch statistics, the latter two as nested dicts."""
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def initial_state(params: Any, batch_stats: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params))


def make_optimizer(options: Any, epochs: int, steps_per_epoch: int) -> optax.GradientTransformation:
    """Builds the optimizer of `config.optimizer`.

    `weight_decay` is L2 added to the gradient, as PyTorch's optimizers have it, except for adamw, where it is
    decoupled.
    """
    schedule = make_schedule(options, epochs, steps_per_epoch)
    parts = []
    if options.clip_norm:
        parts.append(optax.clip_by_global_norm(options.clip_norm))
    if options.name == "adamw":
        parts.append(optax.adamw(schedule, weight_decay=options.weight_decay))
    else:
        if options.weight_decay:
            parts.append(optax.add_decayed_weights(options.weight_decay))
        parts.append({"sgd": optax.sgd, "adam": optax.adam, "rmsprop": optax.rmsprop}[options.name](schedule))
    return optax.chain(*parts)


def make_schedule(options: Any, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate over steps: linear warm-up, then constant or cosine to zero at the last step."""
    total = epochs * steps_per_epoch
    warmup = min(int(options.warmup_epochs * steps_per_epoch), total - 1)
    if options.schedule == "cosine":
        after = optax.cosine_decay_schedule(options.learning_rate, total - warmup)
    else:
        after = optax.constant_schedule(options.learning_rate)
    return optax.join_schedules([optax.linear_schedule(0.0, options.learning_rate, warmup), after], [warmup])


def standardize(clips: jax.Array, statistics: Standardization) -> jax.Array:
    """Casts stored clips to float32 and standardizes them per mel band or feature."""
    return (clips.astype(jnp.float32) - statistics.mean) * (1 / statistics.std)


def make_loss(graph: nnx.GraphDef, statistics: Standardization, bags_per_step: float) -> Callable[..., Any]:
    """Returns loss(params, batch_stats, batch, clips, key) -> (loss, (batch_stats, sums)).

    The loss is the weighted sum of the bags' negative log likelihoods over `bags_per_step`, a constant: over an
    epoch every bag counts the same, however the bags fell into batches.
    """

    def loss(params, batch_stats, batch: Batch, clips, key):
        model = nnx.merge(graph, params, batch_stats)
        inputs = standardize(take_clips(clips), statistics)
        label = jnp.asarray(batch.label)
        scores, _ = model(inputs, batch.segment, Target(label, subgenre=label), train=True, rngs=nnx.Rngs(dropout=key))
        nll = -jnp.take_along_axis(scores, batch.label[..., None], axis=-1)[..., 0]
        correct = jnp.argmax(scores, axis=-1) == batch.label
        sums = {
            "loss": jnp.sum(nll * batch.weight),
            "correct": jnp.sum(correct * batch.weight),
            "bags": jnp.sum(batch.weight),
            "clips": jnp.sum(batch.segment < batch.segment.shape[1]),
        }
        new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return sums["loss"] / bags_per_step, (new_stats, sums)

    return loss


def make_train_step(
    loss: Callable[..., Any], optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, Batch, tuple[jax.Array, ...]], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted train_step(state, batch, clips) -> (state, sums).

    The dropout key is a function of (seed, step). The old state's memory is reused.
    """

    def train_step(state: TrainState, batch: Batch, clips):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, (batch_stats, sums)), gradients = jax.value_and_grad(loss, has_aux=True)(
            state.params, state.batch_stats, batch, clips, key
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums |= {"gradient_norm": optax.tree.norm(gradients), "weight_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), sums

    return jax.jit(train_step, donate_argnums=0)
