"""The training state, the optimizer, and the jitted train step."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from mgc_jax.data.batches import Batch
from mgc_jax.errors import UserError
from mgc_jax.feed import with_rows
from mgc_jax.inputs import Inputs
from mgc_jax.losses import bag_loss, targets
from mgc_jax.models.pooling import Target


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: int32: steps done.
        params: trainable weights, a nested dict.
        batch_stats: moving averages of batch norm, a nested dict.
        opt_state: the optimizer's state.
        ema: `average`, a moving average of the weights, which is what is evaluated (with the batch statistics of the
            weights themselves), and `count`, the steps in it; None where it is off.
        plateau: how far the learning rate has been lowered, and why; None where it does not depend on validation.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None
    plateau: Any = None

    @property
    def evaluated(self) -> Any:
        """The weights to evaluate and export."""
        return self.params if self.ema is None else self.ema["average"]


def split_model(model: nnx.Module) -> tuple[nnx.GraphDef, Any, Any]:
    """Returns the model's structure, its weights and its batch statistics, the latter two as nested dicts."""
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)  # type: ignore[misc]
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule of `config.optimizer`.

    Attributes:
        rule: the optimizer with its schedule.
        plateau: lowers the learning rate where validation stalls; None where it is off.
        ema: decay of the moving average of the weights; 0: off.
    """

    rule: optax.GradientTransformation
    plateau: optax.GradientTransformationExtraArgs | None
    ema: float

    def initial_state(self, params: Any, batch_stats: Any) -> TrainState:
        """Returns the state before the first step."""
        params = jax.tree.map(jnp.array, params)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.rule.init(params),
            # The average is a copy: the train step reuses both.
            ema={"average": jax.tree.map(jnp.array, params), "count": jnp.zeros((), jnp.int32)} if self.ema else None,
            plateau=None if self.plateau is None else self.plateau.init({}),
        )

    def after_evaluation(self, state: TrainState, metric: float) -> TrainState:
        """Returns the state after validation gave this value of the selection metric."""
        if self.plateau is None:
            return state
        plateau = self.plateau.update({}, state.plateau, value=jnp.asarray(-metric, jnp.float32))[1]
        # Where the rest of the state lives.
        plateau = jax.tree.map(lambda new, old: jax.device_put(new, old.sharding), plateau, state.plateau)
        return dataclasses.replace(state, plateau=plateau)


def make_optimizer(options: Any, epochs: int, steps_per_epoch: int) -> Optimizer:
    """Builds the optimizer of `config.optimizer`.

    `weight_decay` is decoupled for the optimizers of optax that have it (adamw, lion, lamb ...); for others it is L2
    added to the gradient, as PyTorch's optimizers have it.

    Raises:
        UserError: optax has no such optimizer, or it has no such option.
    """
    schedule = make_schedule(options, epochs, steps_per_epoch)
    function = _from_optax("optimizer.name", options.name, "learning_rate")
    arguments = options.options.to_dict()
    known = _check_options(f"the optimizer {options.name}", function, arguments, given=("learning_rate",))
    parts = []
    if options.clip_norm:
        parts.append(optax.clip_by_global_norm(options.clip_norm))
    if "weight_decay" in known:
        arguments.setdefault("weight_decay", options.weight_decay)
    elif options.weight_decay:
        parts.append(optax.add_decayed_weights(options.weight_decay))
    try:
        parts.append(function(schedule, **arguments))
        rule = optax.chain(*parts)
        rule.update({"w": jnp.ones(2)}, rule.init({"w": jnp.ones(2)}), {"w": jnp.ones(2)})
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"config.optimizer.name={options.name} cannot be used with these options: {' '.join(str(error).split())}"
        ) from error
    plateau = None
    if options.plateau_factor < 1:
        plateau = optax.contrib.reduce_on_plateau(
            factor=options.plateau_factor,
            patience=options.plateau_patience,
            rtol=0.0,
            atol=max(options.plateau_min_delta, 1e-9),  # optax wants one of both
        )
    return Optimizer(rule, plateau, options.ema)


def untimed_optimizer(options: Any) -> Optimizer:
    """Builds the optimizer where it does not matter how long training is: to check the options, or to restore a state.

    Raises:
        UserError: as `make_optimizer`.
    """
    return make_optimizer(options, epochs=1, steps_per_epoch=10**6)


def make_schedule(options: Any, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate over steps: a linear warm-up, then what `options.schedule` names.

    That is constant, cosine (to zero at the last step), or a schedule of optax that has an `init_value`
    (exponential_decay, polynomial_schedule, ...), with `options.schedule_options`; its `decay_steps` or
    `transition_steps` are those up to the last step unless given.

    Raises:
        UserError: optax has no such schedule, or it has no such option.
    """
    total = epochs * steps_per_epoch
    warmup = min(int(options.warmup_epochs * steps_per_epoch), total - 1)
    after: Any
    if options.schedule in ("constant", "cosine") and options.schedule_options:
        raise UserError(
            f"config.optimizer.schedule={options.schedule} takes no schedule_options; of optax's own schedules, "
            "cosine_decay_schedule, for one, does"
        )
    if options.schedule == "constant":
        after = optax.constant_schedule(options.learning_rate)
    elif options.schedule == "cosine":
        after = optax.cosine_decay_schedule(options.learning_rate, total - warmup)
    else:
        function = _from_optax("optimizer.schedule", options.schedule, "init_value")
        arguments = options.schedule_options.to_dict()
        known = _check_options(f"the schedule {options.schedule}", function, arguments, given=("init_value",))
        for steps in ("decay_steps", "transition_steps"):
            if steps in known:
                arguments.setdefault(steps, total - warmup)
        try:
            after = function(init_value=options.learning_rate, **arguments)
        except (TypeError, ValueError) as error:
            raise UserError(f"config.optimizer.schedule_options do not fit {options.schedule}: {error}") from error
    return optax.join_schedules([optax.linear_schedule(0.0, options.learning_rate, warmup), after], [warmup])


# They need more than gradients: the value of the loss, or a line search.
_UNUSABLE = ("lbfgs", "polyak_sgd")


def _from_optax(key: str, name: str, parameter: str) -> Callable[..., Any]:
    """Looks a public function of optax up that has the given parameter."""
    found = {
        public: function
        for public, function in vars(optax).items()
        if not public.startswith(("_", "scale_by_")) and public not in _UNUSABLE
        if inspect.isfunction(function) or isinstance(function, functools.partial)
        if parameter in inspect.signature(function).parameters
    }
    if name not in found:
        choices = sorted({*found, "constant", "cosine"}) if parameter == "init_value" else sorted(found)
        raise UserError(f"config.{key}={name!r}: choose one of {', '.join(choices)}")
    return found[name]


def _check_options(
    what: str, function: Callable[..., Any], arguments: dict[str, Any], *, given: Sequence[str]
) -> list[str]:
    """Returns the options of a function; raises `UserError` if an argument is none of them."""
    known = [name for name in inspect.signature(function).parameters if name not in given]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise UserError(f"{what} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return known


def make_loss(
    graph: nnx.GraphDef,
    inputs: Inputs,
    options: Any,
    weight_per_step: float,
    genre_weight: np.ndarray,
    adjustment: np.ndarray,
    *,
    classifier_only: bool = False,
) -> Callable[..., Any]:
    """Returns loss(params, batch_stats, batch, clips, partners, key) -> (loss, (batch_stats, sums)).

    The loss is the weighted sum of the bags' losses over `weight_per_step`, a constant: over an epoch every bag
    counts as its weight says, however the bags fell into batches.

    Args:
        graph: the model's structure.
        inputs: what the encoder sees.
        options: `config.loss`.
        weight_per_step: mean total weight of a batch.
        genre_weight: float32 [genre]: see `losses.class_weights`.
        adjustment: float32 [genre]: added to the log scores in the loss.
        classifier_only: the encoder runs as in evaluation and gets no gradient.
    """

    weight, adjust = jnp.asarray(genre_weight), jnp.asarray(adjustment)

    def loss(params, batch_stats, batch, clips, partners, key):
        model = nnx.merge(graph, params, batch_stats)
        input_key, dropout_key = jax.random.split(key)
        x = inputs.training(batch, clips, partners, input_key)
        target = Target(batch.label, batch.subgenre)
        rngs = nnx.Rngs(dropout=dropout_key)
        if classifier_only:
            embeddings = jax.lax.stop_gradient(model.embed(x, batch.segment))
            scores, _ = model.score_bags(embeddings, batch.segment, target, train=True, rngs=rngs)
        else:
            scores, _ = model(x, batch.segment, target, train=True, rngs=rngs)
        mixed = (None, None) if batch.mix is None else (batch.mix.label, batch.mix.share)
        losses = bag_loss(scores, targets(batch.label, scores.shape[-1], *mixed), options, weight, adjust)
        correct = jnp.argmax(scores, axis=-1) == batch.label
        sums = {
            "loss": jnp.sum(jnp.where(batch.weight > 0, losses, 0) * batch.weight),
            "correct": jnp.sum(correct * batch.weight),
            "weight": jnp.sum(batch.weight),
            "clips": jnp.sum(batch.segment < batch.segment.shape[1]),
        }
        new_stats = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        return sums["loss"] / weight_per_step, (new_stats, sums)

    return loss


def make_train_step(
    loss: Callable[..., Any],
    optimizer: Optimizer,
    *,
    trained: Sequence[str] | None = None,
    accumulate: int = 1,
    unroll: bool = True,
) -> Callable[..., tuple[TrainState, dict[str, jax.Array]]]:
    """Returns the jitted train_step(state, batch, clips, partners, key) -> (state, sums).

    The draws of a step are a function of (key, step). The old state's memory is reused.

    Args:
        loss: as from `make_loss`.
        optimizer: as from `make_optimizer`.
        trained: the parts of the model whose weights change ("head"); None: all.
        accumulate: micro-batches that the rows of a batch are cut into; see `accumulated`.
        unroll: write them out one after the other; else they are a loop.
    """
    if accumulate > 1:
        differentiated = accumulated(loss, accumulate, unroll=unroll)
    else:
        differentiated = jax.value_and_grad(loss, has_aux=True)

    def only_of(tree):
        if trained is None:
            return tree
        return {part: leaf if part in trained else jax.tree.map(jnp.zeros_like, leaf) for part, leaf in tree.items()}

    def train_step(state: TrainState, batch: Batch, clips, partners, key):
        key = jax.random.fold_in(key, state.step)
        (_, (batch_stats, sums)), gradients = differentiated(
            state.params, state.batch_stats, batch, clips, partners, key
        )
        gradients = only_of(gradients)
        updates, opt_state = optimizer.rule.update(gradients, state.opt_state, state.params)
        updates = only_of(updates)  # weight decay would change the others too
        if state.plateau is not None:
            updates = jax.tree.map(lambda update: update * state.plateau.scale, updates)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            # Young averages follow faster, so that the random start is forgotten.
            decay = jnp.minimum(optimizer.ema, (1.0 + ema["count"]) / (10.0 + ema["count"]))
            average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, ema["average"], params)
            ema = {"average": average, "count": ema["count"] + 1}
        sums |= {"gradient_norm": optax.tree.norm(gradients), "weight_norm": optax.tree.norm(params)}
        return TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.plateau), sums

    return jax.jit(train_step, donate_argnums=0)


def accumulated(loss: Callable[..., Any], number: int, *, unroll: bool) -> Callable[..., Any]:
    """Returns `jax.value_and_grad(loss, has_aux=True)` computed over micro-batches, of which one is held at a time.

    The loss is a sum over bags divided by a constant, so that the gradients of the micro-batches add up to those of
    the batch. Only what a micro-batch has of its own differs: its draws (dropout, augmentation), and the statistics
    of batch norm, whose moving averages move once per micro-batch.

    Args:
        loss: as from `make_loss`.
        number: of micro-batches; the rows of a batch must be a multiple. Micro-batch i has the rows i, i + number,
            i + 2 number and so on: with a multiple on each device, a device keeps its rows.
        unroll: write them out one after the other, as XLA's CPU backend needs it (its convolutions are many times
            slower inside loops); else they are a loop, which compiles once and surely holds one at a time.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def cut(values: jax.Array) -> jax.Array:
        """[row, ...] -> [micro-batch, row, ...]."""
        return jnp.moveaxis(values.reshape(-1, number, *values.shape[1:]), 1, 0)

    def compute(params, batch_stats, batch, clips, partners, key):
        def one(batch_stats, micro):
            rows, index, partner_index, key = micro
            placed = None if partners is None else with_rows(partners, partner_index)
            (value, (new_stats, sums)), gradients = gradient(
                params, batch_stats, rows, with_rows(clips, index), placed, key
            )
            # One without clips has no statistics.
            new_stats = jax.tree.map(lambda new, old: jnp.where(sums["clips"] > 0, new, old), new_stats, batch_stats)
            return new_stats, (value, sums, gradients)

        def step(carry, micro):
            batch_stats, part = one(carry[0], micro)
            return (batch_stats, jax.tree.map(jnp.add, carry[1], part)), None

        partner_rows = None if partners is None else cut(partners[-1])
        micros = (jax.tree.map(cut, batch), cut(clips[-1]), partner_rows, jax.random.split(key, number))
        micro_of = [jax.tree.map(lambda values, i=i: values[i], micros) for i in range(number if unroll else 1)]
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(one, batch_stats, micro_of[0])[1])
        carry = batch_stats, nothing
        if unroll:
            for batch_part, index, partner_index, draw in micro_of:
                index = _once_there(carry[1][2], index)
                partner_index = None if partners is None else _once_there(carry[1][2], partner_index)
                carry, _ = step(carry, (batch_part, index, partner_index, draw))
        else:
            carry, _ = jax.lax.scan(step, carry, micros)
        batch_stats, totals = carry
        value, sums, gradients = totals
        return (value, (batch_stats, sums)), gradients

    return compute


def _once_there(gradients: Any, rows: jax.Array) -> jax.Array:
    """Returns `rows` in a way that XLA has them only once the gradients are computed.

    Its CPU backend ignores `optimization_barrier` where it puts operations in order, and would begin all
    micro-batches at once. That a float times zero is zero, it does not assume: it might not be a number.
    """
    some = sum(leaf.ravel()[0] for leaf in jax.tree.leaves(gradients))
    return rows + (0 * some).astype(jnp.int32).astype(rows.dtype)
