"""Optimizer, learning-rate schedule, moving average of the weights, and reduction on a plateau."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mgc_jax.errors import UserError
from mgc_jax.training.state import TrainState


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
        ema = None
        if self.ema:  # of copies: the train step reuses what it is given
            average, statistics = jax.tree.map(jnp.array, (params, batch_stats))
            ema = {"average": average, "batch_stats": statistics, "count": jnp.zeros((), jnp.int32)}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            opt_state=self.rule.init(params),
            ema=ema,
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


def make_optimizer(options: Any, epochs: int = 1, steps_per_epoch: int = 10**6) -> Optimizer:
    """Builds the optimizer of `config.optimizer`.

    The length of training shapes the schedule alone. The default is a placeholder, to check options or to restore a
    state.

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


def make_schedule(options: Any, epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """Learning rate over steps: a linear warm-up, then what `options.schedule` names.

    That is one of `SCHEDULES`, or a schedule of optax that has an `init_value` (exponential_decay,
    polynomial_schedule, ...), with `options.schedule_options`; its `decay_steps` or `transition_steps` are those up
    to the last step unless given.

    Raises:
        UserError: optax has no such schedule, or it has no such option.
    """
    total = epochs * steps_per_epoch
    warmup = min(int(options.warmup_epochs * steps_per_epoch), total - 1)
    after: Any
    if options.schedule in SCHEDULES and options.schedule_options:
        raise UserError(
            f"config.optimizer.schedule={options.schedule} takes no schedule_options; of optax's own schedules, "
            "cosine_decay_schedule, for one, does"
        )
    if options.schedule in SCHEDULES:
        after = SCHEDULES[options.schedule](options.learning_rate, total - warmup)
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


# Schedules beside those of optax, after the warm-up: (learning rate, steps to the last one) -> schedule.
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda learning_rate, steps: optax.constant_schedule(learning_rate),
    "cosine": optax.cosine_decay_schedule,  # to zero at the last step
}


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
        choices = sorted({*found, *SCHEDULES}) if parameter == "init_value" else sorted(found)
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
