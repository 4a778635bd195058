"""The GRU's scan with a gradient of its own: what a step computed is kept, and weights' gradients are a few products.

In the scan those would be sums of small products, and on several devices an exchange between them in each step. XLA's
CPU backend would compute a gate again for every use of it, several times per step: barriers keep it from that.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from mgc_jax.models.operations import hard_sigmoid
from mgc_jax.runtime import platform

_product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)


def _once(values: Any) -> Any:
    """Lets a CPU store values that several operations use; a GPU had better fuse them."""
    return lax.optimization_barrier(values) if platform.on_cpu() else values


def scanned_states(
    x: Float[Array, "gru n step feature"],
    kernel: Float[Array, "gru feature units3"],
    recurrent: Float[Array, "gru units units3"],
    bias: Float[Array, "gru units3"],
    recurrent_bias: Float[Array, "gru units3"] | None,
) -> tuple[Float[Array, "step n units"], ...]:
    """Runs each GRU of `recurrent.ParallelGRU` over its sequence, from zero states, every device on its own clips.

    Returns:
        The states after every step, in the dtype of x, for each GRU.
    """
    run = platform.on_own_clips(_states, x.shape[1], (1, None, None, None, None), (1,) * len(x))
    return run(x, kernel, recurrent, bias, recurrent_bias)


class _Step(NamedTuple):
    """What a step computed, [n, ...].

    Attributes:
        gates: z and r side by side, [n, 2 units].
        candidate: c.
        from_state: what of the candidate comes from the state, before the gate r; None: `reset_after=False`.
    """

    gates: jax.Array
    candidate: jax.Array
    from_state: jax.Array | None


def _step(h: jax.Array, x: jax.Array, recurrent: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, _Step]:
    """Returns the next state [n, units] from the projected inputs [n, 3 units], by the equations of `ParallelGRU`."""
    units = h.shape[-1]
    x_gates, x_candidate = jnp.split(x, [2 * units], -1)
    if bias is None:
        gates, from_state = _once(hard_sigmoid(x_gates + h @ recurrent[:, : 2 * units])), None
        candidate = _once(jnp.tanh(x_candidate + (gates[:, units:] * h) @ recurrent[:, 2 * units :]))
    else:
        h_gates, from_state = jnp.split(h @ recurrent + bias, [2 * units], -1)
        gates = _once(_sigmoid(x_gates + h_gates))
        candidate = _once(jnp.tanh(x_candidate + gates[:, units:] * from_state))
    return candidate + gates[:, :units] * (h - candidate), _Step(gates, candidate, from_state)


def _sigmoid(x: jax.Array) -> jax.Array:
    return 0.5 * jnp.tanh(0.5 * x) + 0.5  # on a CPU faster than by the exponential


def _scan(x, kernel, recurrent, bias, recurrent_bias, keep):
    """Returns the states of each GRU, and, if they are kept, the `_Step`s; see `scanned_states` for the arguments."""
    projected = tuple(
        jnp.swapaxes(sequence, 0, 1) @ k + b
        for sequence, k, b in zip(x, kernel.astype(x.dtype), bias.astype(x.dtype), strict=True)
    )
    weights = list(recurrent.astype(x.dtype))
    biases = [None] * len(weights) if recurrent_bias is None else list(recurrent_bias.astype(x.dtype))

    def step(states, inputs):
        done = [_step(*each) for each in zip(states, inputs, weights, biases, strict=True)]
        states = tuple(state for state, _ in done)
        return states, (states, tuple(kept for _, kept in done) if keep else None)

    start = tuple(jnp.zeros((x.shape[1], recurrent.shape[1]), x.dtype) for _ in weights)
    return lax.scan(step, start, projected)[1]


@jax.custom_vjp
def _states(x, kernel, recurrent, bias, recurrent_bias):
    return _scan(x, kernel, recurrent, bias, recurrent_bias, keep=False)[0]


def _states_fwd(x, kernel, recurrent, bias, recurrent_bias):
    states, kept = _scan(x, kernel, recurrent, bias, recurrent_bias, keep=True)
    return states, (x, kernel, recurrent, recurrent_bias, states, kept)


def _step_bwd(
    g: jax.Array, h: jax.Array, kept: _Step, recurrent: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    """Takes the gradient g of the state after a step back to h before it.

    Returns:
        The gradient of h; and those of the gates' and the candidate's pre-activations, and of `from_state`.
    """
    units = h.shape[-1]
    (z, r), c = jnp.split(kept.gates, 2, -1), kept.candidate
    g_candidate = _once(g * (1 - z) * (1 - c * c))
    if kept.from_state is None:
        g_reset = g_candidate @ recurrent[:, 2 * units :].T
        slope = jnp.where((kept.gates > 0) & (kept.gates < 1), 0.2, 0.0).astype(h.dtype)
        g_gates = _once(jnp.concatenate([g * (h - c), g_reset * h], -1) * slope)
        return g * z + g_reset * r + g_gates @ recurrent[:, : 2 * units].T, (g_gates, g_candidate, None)
    g_gates = jnp.concatenate([g * (h - c) * z * (1 - z), g_candidate * kept.from_state * r * (1 - r)], -1)
    g_gates, g_from_state = _once((g_gates, g_candidate * r))
    to_state = jnp.concatenate([g_gates, g_from_state], -1) @ recurrent.T
    return g * z + to_state, (g_gates, g_candidate, g_from_state)


def _states_bwd(residuals, g):
    x, kernel, recurrent, recurrent_bias, states, kept = residuals
    units, weights = recurrent.shape[1], list(recurrent.astype(x.dtype))
    before = tuple(jnp.concatenate([jnp.zeros_like(each[:1]), each[:-1]]) for each in states)

    def step(later, inputs):
        here = [_once(each + from_later) for each, from_later in zip(inputs[0], later, strict=True)]
        done = [_step_bwd(*each) for each in zip(here, *inputs[1:], weights, strict=True)]
        return tuple(h for h, _ in done), tuple(rest for _, rest in done)

    start = tuple(jnp.zeros_like(each[0]) for each in states)
    _, steps = lax.scan(step, start, (g, before, kept), reverse=True)

    def of_one(x, kernel, h, kept, g_step):
        """Gradients of the inputs and weights of a GRU, from those of all its steps."""
        g_gates, g_candidate = (each.reshape(-1, each.shape[-1]) for each in g_step[:2])
        inputs, h = jnp.swapaxes(x, 0, 1).reshape(-1, x.shape[-1]).T, h.reshape(-1, units).T
        ones = jnp.ones(len(g_gates), x.dtype)
        g_projected = jnp.concatenate([g_gates, g_candidate], -1)
        gx = (g_projected @ kernel.T).reshape(*g_step[0].shape[:2], -1).swapaxes(0, 1)
        if recurrent_bias is None:
            reset_h, g_from_state = kept.gates[..., units:].reshape(-1, units).T * h, g_candidate
        else:
            reset_h, g_from_state = h, g_step[2].reshape(-1, units)
        g_recurrent = jnp.concatenate([_product(h, g_gates), _product(reset_h, g_from_state)], -1)
        g_added = jnp.concatenate([_product(ones, g_gates), _product(ones, g_from_state)])
        return gx, _product(inputs, g_projected), g_recurrent, _product(ones, g_projected), g_added

    each = zip(x, kernel.astype(x.dtype), before, kept, steps, strict=True)
    gx, gk, gu, gb, gd = zip(*[of_one(*one) for one in each], strict=True)
    return (jnp.stack(gx), jnp.stack(gk), jnp.stack(gu), jnp.stack(gb),
            None if recurrent_bias is None else jnp.stack(gd))  # fmt: skip


_states.defvjp(_states_fwd, _states_bwd)
