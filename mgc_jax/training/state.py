"""The training state: everything that a step changes."""

import dataclasses
from typing import Any

import jax


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
        plateau: state of `optax.contrib.reduce_on_plateau`; None where it is off.
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
