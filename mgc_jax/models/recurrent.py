"""Gated recurrent units with Keras's equations."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float


def hard_sigmoid(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Keras 2's `hard_sigmoid`, the gate of its GRU until 2.3: clip(0.2 x + 0.5, 0, 1)."""
    return jnp.clip(0.2 * x + 0.5, 0, 1)


class ParallelGRU(nnx.Module):
    """Several independent GRUs that run side by side, one input sequence each; gives their last states.

    Keras's GRU with `reset_after=False` (one bias: the published parameter counts of CRNN and CRNN-TF
    prove it) and hard-sigmoid gates, as Keras 2.2 had them:

        z = hs(W_z x + U_z h + b_z);  r = hs(W_r x + U_r h + b_r)
        c = tanh(W_c x + U_c (r h) + b_c);  h' = z h + (1 - z) c

    The input projections are computed for all steps at once, before the scan.

    Attributes:
        kernel: [gru, feature, 3 units], gates in the order z, r, c.
        recurrent_kernel: [gru, units, 3 units].
        bias: [gru, 3 units].
    """

    def __init__(self, num_grus: int, in_features: int, units: int, *, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform(batch_axis=0)
        self.units = units
        self.kernel = nnx.Param(glorot(rngs.params(), (num_grus, in_features, 3 * units)))
        keys = jax.random.split(rngs.params(), num_grus)
        orthogonal = nnx.initializers.orthogonal()
        self.recurrent_kernel = nnx.Param(jnp.stack([orthogonal(key, (units, 3 * units)) for key in keys]))
        self.bias = nnx.Param(jnp.zeros((num_grus, 3 * units)))

    def __call__(self, x: Float[Array, "gru n step feature"]) -> Float[Array, "gru n units"]:
        """Runs every GRU over its sequence, from a zero state; returns the states after the last step."""
        units = self.units
        projected = jnp.einsum("gnsf,gfu->sgnu", x, self.kernel[...].astype(x.dtype))
        projected += self.bias[...].astype(x.dtype)[:, None]
        recurrent = self.recurrent_kernel[...].astype(x.dtype)
        gates_kernel, candidate_kernel = recurrent[..., : 2 * units], recurrent[..., 2 * units :]

        def step(h, x_t):
            gates = hard_sigmoid(x_t[..., : 2 * units] + jnp.einsum("gnh,ghu->gnu", h, gates_kernel))
            z, r = gates[..., :units], gates[..., units:]
            candidate = jnp.tanh(x_t[..., 2 * units :] + jnp.einsum("gnh,ghu->gnu", r * h, candidate_kernel))
            return z * h + (1 - z) * candidate, None

        h0 = jnp.zeros((*x.shape[:2], units), x.dtype)
        return lax.scan(step, h0, projected)[0]
