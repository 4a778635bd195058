"""Gated recurrent units with Keras's equations."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from mgc_jax.models import gru_kernel


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
        form = gru_kernel.choose(self.units, x.dtype, reset_after=self.recurrent_bias is not None)
        if form is not None:  # on a GPU
            recurrent_bias = None if self.recurrent_bias is None else self.recurrent_bias[...]
            weights = (self.kernel[...], self.recurrent_kernel[...], self.bias[...], recurrent_bias)
            states = gru_kernel.gru_states(form, x, *weights)
            return states if all_steps else states[:, :, -1]

        projected = jnp.einsum("gnsf,gfu->sgnu", x, self.kernel[...].astype(x.dtype))
        projected += self.bias[...].astype(x.dtype)[:, None]
        recurrent = self.recurrent_kernel[...]

        # Recurrent weights are cast in the step, so that their gradients add up over the steps in float32.
        def times(h, kernel):
            return jnp.einsum("gnh,ghu->gnu", h, kernel.astype(h.dtype))

        def reset_before(h, x_t):
            x_gates, x_candidate = jnp.split(x_t, [2 * self.units], -1)
            z, r = jnp.split(hard_sigmoid(x_gates + times(h, recurrent[..., : 2 * self.units])), 2, -1)
            return z, jnp.tanh(x_candidate + times(r * h, recurrent[..., 2 * self.units :]))

        def reset_after(bias, h, x_t):
            from_h = times(h, recurrent) + bias[:, None].astype(h.dtype)
            x_gates, x_candidate = jnp.split(x_t, [2 * self.units], -1)
            h_gates, h_candidate = jnp.split(from_h, [2 * self.units], -1)
            z, r = jnp.split(jax.nn.sigmoid(x_gates + h_gates), 2, -1)
            return z, jnp.tanh(x_candidate + r * h_candidate)

        bias = self.recurrent_bias
        gates = reset_before if bias is None else functools.partial(reset_after, bias[...])

        def step(h, x_t):
            z, candidate = gates(h, x_t)
            h = z * h + (1 - z) * candidate
            return h, h if all_steps else None

        last, states = lax.scan(step, jnp.zeros((*x.shape[:2], self.units), x.dtype), projected)
        return jnp.moveaxis(states, 0, 2) if all_steps else last


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
