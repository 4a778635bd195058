"""Gated recurrent units with Keras's equations."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgc_jax.models.kernels import gru
from mgc_jax.runtime import platform


def hard_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Keras 2's `hard_sigmoid`, the gate of its GRU until 2.3: clip(0.2 x + 0.5, 0, 1)."""
    return jnp.clip(0.2 * x + 0.5, 0, 1)


class ParallelGRU(nnx.Module):
    """Several independent GRUs that run side by side, one input sequence each.

    Two forms, told apart by published parameter counts. Keras 2.2 (CRNN and CRNN-TF) has `reset_after=False`,
    one bias and hard-sigmoid gates:

        z = hs(W_z x + U_z h + b_z);  r = hs(W_r x + U_r h + b_r)
        c = tanh(W_c x + U_c (r h) + b_c);  h' = z h + (1 - z) c

    TensorFlow 2 has `reset_after=True`, a second bias d on the state's side, and sigmoid gates:

        z = s(W_z x + b_z + U_z h + d_z);  r = s(W_r x + b_r + U_r h + d_r)
        c = tanh(W_c x + b_c + r (U_c h + d_c));  h' = z h + (1 - z) c

    The input projections are computed for all steps at once, before the scan.

    Attributes:
        kernel: [gru, feature, 3 units], gates in the order z, r, c.
        recurrent_kernel: [gru, units, 3 units].
        bias: [gru, 3 units].
        recurrent_bias: d, [gru, 3 units], or None.
    """

    def __init__(self, num_grus: int, in_features: int, units: int, *, reset_after: bool = False, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform(batch_axis=0)
        self.units = units
        self.kernel = nnx.Param(glorot(rngs.params(), (num_grus, in_features, 3 * units)))
        keys = jax.random.split(rngs.params(), num_grus)
        orthogonal = nnx.initializers.orthogonal()
        self.recurrent_kernel = nnx.Param(jnp.stack([orthogonal(key, (units, 3 * units)) for key in keys]))
        self.bias = nnx.Param(jnp.zeros((num_grus, 3 * units)))
        self.recurrent_bias = nnx.Param(jnp.zeros((num_grus, 3 * units))) if reset_after else None

    def __call__(
        self, x: Float[Array, "gru n step feature"], all_steps: bool = False
    ) -> Float[Array, "gru n *step units"]:
        """Runs every GRU over its sequence, from a zero state.

        Args:
            x: the input sequences; their dtype is the dtype of the computation.
            all_steps: whether to return the states after every step, and not only after the last one.

        Returns:
            States, [gru, n, units], or with all steps [gru, n, step, units].
        """
        form = gru.choose(self.units, x.dtype, reset_after=self.recurrent_bias is not None)
        if form is not None and not platform.plain_wanted():  # on a GPU
            recurrent_bias = None if self.recurrent_bias is None else self.recurrent_bias[...]
            weights = (self.kernel[...], self.recurrent_kernel[...], self.bias[...], recurrent_bias)
            states = gru.gru_states(form, x, *weights)
            return states if all_steps else states[:, :, -1]

        projected = jnp.einsum("gnsf,gfu->sgnu", x, self.kernel[...].astype(x.dtype))
        projected += self.bias[...].astype(x.dtype)[:, None]
        recurrent = self.recurrent_kernel[...]

        bias = None if self.recurrent_bias is None else self.recurrent_bias[...]
        states = (_scan if platform.plain_wanted() else _states)(recurrent, bias, projected)
        return jnp.moveaxis(states, 0, 2) if all_steps else states[-1]


def _times(h: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.einsum("...gnh,ghu->...gnu", h, kernel.astype(h.dtype))


def _gates(
    recurrent: jax.Array, bias: jax.Array | None, h: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns z, r and the candidate, for states before [..., gru, n, units] and projected inputs of a step or all."""
    units = h.shape[-1]
    x_gates, x_candidate = jnp.split(x, [2 * units], -1)
    if bias is None:
        z, r = jnp.split(hard_sigmoid(x_gates + _times(h, recurrent[..., : 2 * units])), 2, -1)
        return z, r, jnp.tanh(x_candidate + _times(r * h, recurrent[..., 2 * units :]))
    h_gates, h_candidate = jnp.split(_times(h, recurrent) + bias[:, None].astype(h.dtype), [2 * units], -1)
    z, r = jnp.split(jax.nn.sigmoid(x_gates + h_gates), 2, -1)
    return z, r, jnp.tanh(x_candidate + r * h_candidate)


def _scan(recurrent: jax.Array, bias: jax.Array | None, projected: jax.Array) -> jax.Array:
    def step(h, x_t):
        z, _, candidate = _gates(recurrent, bias, h, x_t)
        h = z * h + (1 - z) * candidate
        return h, h

    start = jnp.zeros((*projected.shape[1:3], projected.shape[3] // 3), projected.dtype)
    return lax.scan(step, start, projected)[1]


@jax.custom_vjp
def _states(recurrent: jax.Array, bias: jax.Array | None, projected: jax.Array) -> jax.Array:
    """Gives the states after every step, [step, gru, n, units], for projected inputs [step, gru, n, 3 units].

    The gradient of the recurrent weights is one product over all steps, in float32, after the scan. In the scan it
    would be a sum of small products, and on several devices an exchange between them in each step.
    """
    return _scan(recurrent, bias, projected)


def _states_fwd(recurrent, bias, projected):
    states, pull = jax.vjp(lambda projected: _scan(recurrent, bias, projected), projected)
    return states, (pull, recurrent, bias, projected, states)


def _states_bwd(residuals, g):
    pull, recurrent, bias, projected, states = residuals
    (g_projected,) = pull(g)  # also that of what the weights add to them
    before = jnp.concatenate([jnp.zeros_like(states[:1]), states[:-1]])
    _, r, _ = _gates(recurrent, bias, before, projected)
    product = functools.partial(jnp.einsum, "sgnh,sgnu->ghu", preferred_element_type=jnp.float32)
    g_gates, g_candidate = jnp.split(g_projected, [2 * states.shape[-1]], -1)
    if bias is None:
        return jnp.concatenate([product(before, g_gates), product(r * before, g_candidate)], -1), None, g_projected
    g_added = jnp.concatenate([g_gates, r * g_candidate], -1)
    return product(before, g_added), jnp.sum(g_added, axis=(0, 2), dtype=jnp.float32), g_projected


_states.defvjp(_states_fwd, _states_bwd)


class BidirectionalGRU(nnx.Module):
    """Two GRUs, one of which reads the sequence from its end; their states side by side, as Keras joins them.

    Attributes:
        directions: the GRUs, forward and backward.
    """

    def __init__(self, in_features: int, units: int, *, reset_after: bool = True, rngs: nnx.Rngs):
        self.directions = ParallelGRU(2, in_features, units, reset_after=reset_after, rngs=rngs)

    def __call__(self, x: Float[Array, "n step feature"], all_steps: bool = False) -> Float[Array, "n *step units2"]:
        """Runs both GRUs, from zero states.

        Args:
            x: the input sequences.
            all_steps: whether to return the states at every step of the input.

        Returns:
            [n, 2 units], the states after all of the sequence was read (forward: after its last step, backward:
            after its first one), or [n, step, 2 units], what each has read up to and with that step.
        """
        forward, backward = self.directions(jnp.stack([x, x[:, ::-1]]), all_steps)
        return jnp.concatenate([forward, backward[:, ::-1] if all_steps else backward], -1)
