"""Batch statistics of averaged weights (`optimizer.ema`), recomputed on training clips.

The moving averages of training belong to the weights of its last steps, and neither they nor an average of them
to averaged weights: layers see other maps. So the weights' own are recomputed, as stochastic weight averaging does it
(Izmailov et al. 2018) and as Wu & Johnson (2021, "precise BN") advise.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mgc_jax.data.batches import TrainBatches
from mgc_jax.data.feed import placed_dispatches
from mgc_jax.data.placement import ClipStore
from mgc_jax.runtime.platform import dealt_over
from mgc_jax.training.state import TrainState

MOST_BATCHES = 32


def make_recompute(
    loss: Callable[..., Any], batches: TrainBatches, clips: ClipStore, mesh: Mesh, key: jax.Array, *, accumulate: int
) -> Callable[[TrainState], TrainState]:
    """Returns recompute(state) -> state, whose averaged weights have batch statistics of their own.

    They are the moving averages over the first batches of training, with the draws of these steps; at most
    `MOST_BATCHES`, and not more than an epoch has. So they are a function of the weights alone. Of a batch of several
    micro-batches, the first counts. A state without averaged weights, or without batch norm, stays as it is.

    Args:
        loss: as from `make_loss`, of the whole model.
        batches: the training batches.
        clips: the clips, placed.
        mesh: the devices.
        key: of the draws in training.
        accumulate: micro-batches of a batch.
    """

    @jax.jit
    def record(params, batch_stats, batch, placed, partners, key):
        if accumulate > 1:
            batch = jax.tree.map(lambda values: values[0], batch)
            placed, partners = (c and c.with_per_clip(c.per_clip[0]) for c in (placed, partners))
        with dealt_over(mesh):
            _, (new, _) = loss(params, batch_stats, batch, placed, partners, key)
        return new

    def recompute(state: TrainState) -> TrainState:
        leaves = jax.tree_util.tree_leaves_with_path(state.batch_stats)
        if state.ema is None or not any(_is_count(path) for path, _ in leaves):
            return state
        batch_stats, steps = _begun_anew(state.batch_stats), min(MOST_BATCHES, batches.steps_per_epoch)
        for step, placed in enumerate(placed_dispatches(batches, clips, mesh, 0, [1] * steps)):
            _, *rest = placed
            batch_stats = record(state.ema["average"], batch_stats, *rest, jax.random.fold_in(key, step))
        return dataclasses.replace(state, ema={**state.ema, "batch_stats": batch_stats})

    return recompute


def _is_count(path: Any) -> bool:
    return path[-1].key == "count"


@jax.jit
def _begun_anew(batch_stats: Any) -> Any:
    """Returns batch statistics of no batch so far."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if _is_count(path) else leaf, batch_stats
    )
