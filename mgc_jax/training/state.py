"""The training state: everything that a step changes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mgc_jax.models.layers import ENDLESS


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: int32: steps done.
        params: trainable weights, a nested dict.
        batch_stats: moving averages of batch norm, and how many batches they are of, a nested dict.
        opt_state: the optimizer's state.
        ema: `average`, a moving average of the weights, which is what is evaluated; `batch_stats`, its batch
            statistics, as of the last time that they were recomputed (`averaged_statistics`); and `count`, the steps
            in the average; None where it is off.
        plateau: state of `optax.contrib.reduce_on_plateau`; None where it is off.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = None
    plateau: Any = None

    @property
    def evaluated(self) -> tuple[Any, Any]:
        """The weights to evaluate and export, and the batch statistics that belong to them."""
        if self.ema is None:
            return self.params, self.batch_stats
        return self.ema["average"], self.ema["batch_stats"]


def as_version_1(state: TrainState) -> TrainState:
    """Returns a state in its first form: moving averages without counts, and averaged weights without their own."""
    ema = None if state.ema is None else {name: state.ema[name] for name in ("average", "count")}
    return dataclasses.replace(state, batch_stats=_without_counts(state.batch_stats), ema=ema)


def from_version_1(saved: TrainState, like: TrainState) -> TrainState:
    """Completes a state of the first form, as it was trained and evaluated then.

    Its moving averages count as old ones, and the averaged weights get the statistics of the weights themselves.
    """
    batch_stats = _with_counts(saved.batch_stats, like.batch_stats)
    ema = None if saved.ema is None else {**saved.ema, "batch_stats": jax.tree.map(jnp.array, batch_stats)}
    return dataclasses.replace(saved, batch_stats=batch_stats, ema=ema)


def _without_counts(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        return tree
    return {name: _without_counts(part) for name, part in tree.items() if name != "count"}


def _with_counts(tree: Any, like: Any) -> Any:
    if not isinstance(like, Mapping):
        return tree
    return {
        name: jax.device_put(jnp.full_like(part, ENDLESS), part.sharding) if name == "count"
        else _with_counts(tree[name], part)
        for name, part in like.items()
    }  # fmt: skip
