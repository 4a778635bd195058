"""Gated recurrent units with Keras's equations."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mgc_jax.models.kernels import gru
from mgc_jax.models.operations import gru_projections, gru_scan
from mgc_jax.runtime import processes


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
        platform_kernels: whether to use a form made for the platform (`models/kernels`).
        kernel_form: of the GPU's kernel, as `use_gru_kernels` found it; None: the scan.
    """

    def __init__(self, num_grus: int, in_features: int, units: int, *, reset_after: bool = False, rngs: nnx.Rngs):
        glorot = nnx.initializers.glorot_uniform(batch_axis=0)
        self.platform_kernels = True
        self.kernel_form: gru.KernelForm | None = None
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
            return gru.gru_states(
                self.kernel_form, x, self.kernel[...], recurrent, self.bias[...], recurrent_bias, all_steps=all_steps
            )
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


def use_gru_kernels(model: nnx.Module, dtype: Any) -> None:
    """Has the GRUs of a model run in the GPU's kernel (`models/kernels/gru.py`) where it works; the others stay scans.

    Args:
        model: the model; all processes call this for the same one.
        dtype: of the GRUs' computation.

    Raises:
        UserError: the kernel works in some processes and not in others, which must compute the same program.
    """
    forms = {}
    for number, module in enumerate(_grus_of(model), 1):
        form = gru.choose(module.recurrent_kernel.shape[1], dtype, module.recurrent_bias is not None)
        module.kernel_form = form
        forms[f"GRU {number}"] = "scan" if form is None else "resident kernel" if form.resident else "kernel"
    processes.require_same("form of the GRUs (config.model.kernels=auto takes the scan everywhere)", forms)


def gru_form(model: nnx.Module) -> str:
    """Returns how the GRUs of a model are computed: "kernel", "scan" or "plain scan"; empty if there is none."""
    forms = set()
    for module in _grus_of(model):
        scan = "scan" if module.platform_kernels else "plain scan"
        forms.add("kernel" if module.platform_kernels and module.kernel_form else scan)
    return " and ".join(sorted(forms))


def _grus_of(model: nnx.Module) -> Iterator[ParallelGRU]:
    return (module for _, module in nnx.iter_modules(model) if isinstance(module, ParallelGRU))
