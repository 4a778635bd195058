"""Gated recurrent units with Keras's equations."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgc_jax.models.kernels import gru
from mgc_jax.models.operations import gru_projections, gru_scan


class ParallelGRU(nnx.Module):
    """Several independent GRUs that run side by side, one input sequence each.

    There are two kinds; published parameter counts show which one a paper used. Keras 2.2 (CRNN and CRNN-TF) has
    `reset_after=False`, one bias and hard-sigmoid gates:

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
        platform_kernels: whether to use the form made for the platform (`models/kernels/gru.py`).
    """

    def __init__(self, num_grus: int, in_features: int, units: int, *, reset_after: bool = False, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform(batch_axis=0)
        self.platform_kernels = True
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
        recurrent, recurrent_bias = self.recurrent_kernel[...], None
        if self.recurrent_bias is not None:
            recurrent_bias = self.recurrent_bias[...]
        if self.platform_kernels:
            return gru.gru_states(x, self.kernel[...], recurrent, self.bias[...], recurrent_bias, all_steps=all_steps)
        states = gru_scan(recurrent, recurrent_bias, gru_projections(x, self.kernel[...], self.bias[...]))
        return jnp.moveaxis(states, 0, 2) if all_steps else states[-1]


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
