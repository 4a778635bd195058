"""The GRU's scan with its own gradient, for CPUs and several devices."""

import functools

import jax
import jax.numpy as jnp

from mgc_jax.models.operations import gru_gates, gru_scan


@jax.custom_vjp
def scanned_states(recurrent: jax.Array, bias: jax.Array | None, projected: jax.Array) -> jax.Array:
    """The same as `operations.gru_scan`.

    The gradient of the recurrent weights is one product over all steps, in float32, after the scan. In the scan it
    would be a sum of small products, and on several devices an exchange between them in each step.
    """
    return gru_scan(recurrent, bias, projected)


def _states_fwd(recurrent, bias, projected):
    states, pull = jax.vjp(lambda projected: gru_scan(recurrent, bias, projected), projected)
    return states, (pull, recurrent, bias, projected, states)


def _states_bwd(residuals, g):
    pull, recurrent, bias, projected, states = residuals
    (g_projected,) = pull(g)  # also that of what the weights add to them
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    _, r, _ = gru_gates(recurrent, bias, before, projected)
    product = functools.partial(jnp.einsum, "sgnh,sgnu->ghu", preferred_element_type=jnp.float32)
    g_gates, g_candidate = jnp.split(g_projected, [2 * states.shape[-1]], -1)
    if bias is None:
        return jnp.concatenate([product(before, g_gates), product(r * before, g_candidate)], -1), None, g_projected
    g_added = jnp.concatenate([g_gates, r * g_candidate], -1)
    return product(before, g_added), jnp.sum(g_added, axis=(0, 2), dtype=jnp.float32), g_projected


scanned_states.defvjp(_states_fwd, _states_bwd)
