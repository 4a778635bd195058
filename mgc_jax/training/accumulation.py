"""Gradient accumulation over micro-batches."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def accumulated(loss: Callable[..., Any], number: int, *, unroll: bool) -> Callable[..., Any]:
    """Returns `jax.value_and_grad(loss, has_aux=True)` computed over micro-batches, of which one is held at a time.

    The loss is a sum over bags divided by a constant, so that the gradients of the micro-batches add up to those of
    the batch. What differs between micro-batches and the batch: the draws (dropout, augmentation), and the statistics
    of batch norm, whose moving averages move once per micro-batch.

    Args:
        loss: as from `make_loss`.
        number: of micro-batches; the arrays of batch, clips and partners begin with an axis for them, but not the
            corpus.
        unroll: write them out one after the other, as XLA's CPU backend needs it (its convolutions are many times
            slower inside loops); else they are a loop, which compiles once and surely holds one at a time.
    """
    gradient = jax.value_and_grad(loss, has_aux=True)

    def compute(params, batch_stats, batch, clips, partners, key):
        def one(batch_stats, micro):
            part, per_clip, per_partner, key = micro
            mixed_with = None if partners is None else partners.with_per_clip(per_partner)
            (value, (new_stats, sums)), gradients = gradient(
                params, batch_stats, part, clips.with_per_clip(per_clip), mixed_with, key
            )
            # One without clips has no statistics.
            new_stats = jax.tree.map(lambda new, old: jnp.where(sums["clips"] > 0, new, old), new_stats, batch_stats)
            return new_stats, (value, sums, gradients)

        def step(carry, micro):
            batch_stats, part = one(carry[0], micro)
            return (batch_stats, jax.tree.map(jnp.add, carry[1], part)), None

        per_partner = None if partners is None else partners.per_clip
        micros = (batch, clips.per_clip, per_partner, jax.random.split(key, number))
        micro_of = [jax.tree.map(lambda values, i=i: values[i], micros) for i in range(number if unroll else 1)]
        nothing = jax.tree.map(jnp.zeros_like, jax.eval_shape(one, batch_stats, micro_of[0])[1])
        carry = batch_stats, nothing
        if unroll:
            for part, per_clip, per_partner, draw in micro_of:
                per_clip = _after(carry[1][2], per_clip)
                per_partner = None if partners is None else _after(carry[1][2], per_partner)
                carry, _ = step(carry, (part, per_clip, per_partner, draw))
        else:
            carry, _ = jax.lax.scan(step, carry, micros)
        batch_stats, totals = carry
        value, sums, gradients = totals
        return (value, (batch_stats, sums)), gradients

    return compute


def _after(gradients: Any, rows: jax.Array) -> jax.Array:
    """Returns `rows` with a data dependency on the gradients: 0 * g is added.

    XLA's CPU backend ignores `optimization_barrier` when it schedules operations, and would begin all micro-batches
    at once. It cannot drop the term: 0 * g is not 0 where g is infinite or NaN.
    """
    some = sum(leaf.ravel()[0] for leaf in jax.tree.leaves(gradients))
    return rows + (0 * some).astype(jnp.int32).astype(rows.dtype)
