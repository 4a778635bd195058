"""The GRU for a GPU: one kernel with the loop over the steps inside.

A `lax.scan` starts several small kernels per step, and hundreds of steps of a few microseconds each leave a GPU idle.
Here one kernel keeps the states of a block of sequences on the chip for all steps, and everything else is a few large
matrix products: the input projections before the loop, and after it, from the stored states, the gates and the
gradients of the weights. Backwards in time, a second kernel carries the gradients of the states alone.

JAX has no GRU of cuDNN (`jax.experimental.rnn` has its LSTM alone), and cuDNN's has no `reset_before`; hence Pallas.
Of its GPU forms this is the one by way of Triton: Mosaic's is for Hopper and later alone, with layouts by hand. JAX
0.11 announces that Triton's will be removed; in a version without it the scan is used.

The kernel has not been timed on a GPU yet, so the scan is the default, and `config.model.kernels="gru_kernel"` asks
for the kernel. `choose` says whether it works; the answer is kept in the model (`recurrent.use_gru_kernels`). Both
forms have the equations of `recurrent.ParallelGRU`.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jaxtyping import Array, Float

from mgc_jax.models.kernels.gru_scan import scanned_states

log = logging.getLogger(__name__)


# Blocks are powers of two, and matrix units take at least 16 rows and columns. Of 4, 8 and 16 warps, 8 is the least
# that spills (almost) no register with 64 and 128 units.
_ROWS, _MIN_UNITS, _WARPS = 16, 16, 8


_MAX_UNITS = 128  # a step of more units is work enough for a scan


@dataclasses.dataclass(frozen=True)
class KernelForm:
    """How the kernels run.

    Attributes:
        reset_after: the kind of GRU, as in `recurrent.ParallelGRU`.
        resident: whether the recurrent kernel stays in shared memory, or is read again in every step, from the cache.
        interpret: whether to run the kernels as JAX operations, on any device: slow, for tests.
    """

    reset_after: bool
    resident: bool = True
    interpret: bool = False


def choose(units: int, dtype: Any, reset_after: bool) -> KernelForm | None:
    """Returns the form of the kernels that works here, or None for the scan.

    The kernels are for a GPU and at most 128 units, and only if the device compiles them and computes the same as a
    scan, which is tried once.
    """
    if jax.default_backend() != "gpu" or units > _MAX_UNITS:
        return None
    return _tried(_padded(units), jnp.dtype(dtype), reset_after)


@functools.cache
def _tried(units: int, dtype: Any, reset_after: bool) -> KernelForm | None:
    """Returns the first form that works on this device, which is seen on few steps of random numbers.

    The limits on registers and shared memory differ between devices and versions: the compiler knows them.
    """
    problems = []
    for form in [KernelForm(reset_after, resident) for resident in (True, False) if not resident or _fits(units)]:
        try:
            # A model may be built inside a trace, a mesh or a guard, all of which are a thread's own.
            with ThreadPoolExecutor(1) as other_thread:
                error = other_thread.submit(_deviation, form, units, dtype).result()
        except Exception as exception:  # of any kind: whatever it is, the scan works
            problems.append(f"{type(exception).__name__}: {exception}".splitlines()[0])
            continue
        if error <= (1e-4 if dtype == jnp.float32 else 5e-2):
            return form
        problems.append(f"its results are off by {error:.1e}")
    log.warning(
        "the GPU kernel of the GRU (%d units, %s) does not work here, so the slower scan is used: %s",
        units, dtype, "; ".join(dict.fromkeys(problems)),
    )  # fmt: skip
    return None


def _deviation(form: KernelForm, units: int, dtype: Any) -> float:
    """Returns how far values and gradients are from a scan's, relative to it: the largest over the arrays.

    A norm of each array, as a hard sigmoid's slope jumps: with bfloat16, single gradients may well differ.
    """
    rng = np.random.default_rng(0)
    shapes = ((2, _ROWS + 1, 5, 3, units), (2, 3, units, units), (2, 3, units))
    arguments = [jnp.asarray(rng.normal(size=shape, scale=units**-0.5), jnp.float32) for shape in shapes]
    arguments[0] = (arguments[0] * units**0.5).astype(dtype)
    weights = jnp.asarray(rng.normal(size=(2, _ROWS + 1, 5, units)), jnp.float32)

    def values_and_gradients(states):
        def weighted(*arguments):
            values = states(*arguments).astype(jnp.float32)
            return jnp.sum(values * weights), values

        (_, values), gradients = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1, 2), has_aux=True))(*arguments)
        return values, *gradients[: 3 if form.reset_after else 2]

    ours = values_and_gradients(functools.partial(_states, form))
    scans = values_and_gradients(functools.partial(_scanned_states, form.reset_after))
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(ours, scans, strict=True)]
    return float(np.max([np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]))  # NaN stays one


def gru_states(
    form: KernelForm | None,
    x: Float[Array, "gru n step feature"],
    kernel: Float[Array, "gru feature units3"],
    recurrent_kernel: Float[Array, "gru units units3"],
    bias: Float[Array, "gru units3"],
    recurrent_bias: Float[Array, "gru units3"] | None,
    *,
    all_steps: bool,
) -> Float[Array, "gru n *step units"]:
    """Returns the states of `recurrent.ParallelGRU`, by the kernel of this form, or where it is None by the scan."""
    if form is not None:
        states = kernel_states(form, x, kernel, recurrent_kernel, bias, recurrent_bias)
        return states if all_steps else states[:, :, -1]
    scanned = scanned_states(x, kernel, recurrent_kernel, bias, recurrent_bias)
    return jnp.stack([jnp.swapaxes(states, 0, 1) if all_steps else states[-1] for states in scanned])


def kernel_states(
    form: KernelForm,
    x: Float[Array, "gru n step feature"],
    kernel: Float[Array, "gru feature units3"],
    recurrent_kernel: Float[Array, "gru units units3"],
    bias: Float[Array, "gru units3"],
    recurrent_bias: Float[Array, "gru units3"] | None,
) -> Float[Array, "gru n step units"]:
    """Returns the states after every step, from zero states, in the dtype of x, by the kernels."""
    units = recurrent_kernel.shape[1]

    def by_gate(array):
        """[..., 3 units] -> [..., 3, padded units]; units that are padding have weights of zero, and stay zero."""
        array = array.reshape(*array.shape[:-1], 3, units)
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, _padded(units) - units)])

    projected = jnp.einsum("gnsf,gfku->gnsku", x, by_gate(kernel).astype(x.dtype))
    projected += by_gate(bias).astype(x.dtype)[:, None, None]
    recurrent = jnp.pad(by_gate(recurrent_kernel), [(0, 0), (0, _padded(units) - units), (0, 0), (0, 0)])
    from_state = by_gate(jnp.zeros_like(bias) if recurrent_bias is None else recurrent_bias)
    return _states(form, projected, jnp.moveaxis(recurrent, 2, 1), from_state)[..., :units]


def _fits(units: int) -> bool:
    """Whether some device's shared memory holds a recurrent kernel: 104 KB of float32 with 64 units, 400 with 128."""
    return units <= 64


def _padded(units: int) -> int:
    return max(_MIN_UNITS, 1 << (units - 1).bit_length())


def _gates(
    reset_after: bool, x: tuple[Array, ...], h: Array, times: Callable[[Array, int], Array], bias: Any
) -> tuple[Array, Array, Array, Array]:
    """Returns z, r, the candidate c, and what of it comes from the state, before the gate r (zero: reset_before)."""
    if reset_after:
        z, r = (jax.nn.sigmoid(x[gate] + times(h, gate) + bias[gate]) for gate in (0, 1))
        from_h = times(h, 2) + bias[2]
        return z, r, jnp.tanh(x[2] + r * from_h), from_h
    z, r = (jnp.clip(0.2 * (x[gate] + times(h, gate)) + 0.5, 0, 1) for gate in (0, 1))
    return z, r, jnp.tanh(x[2] + times(r * h, 2)), jnp.zeros_like(h)


def _scanned_states(reset_after: bool, projected: Array, recurrent: Array, bias: Array) -> Array:
    """What the kernels compute, by a scan in float32."""

    def step(h, x):
        def times(h, gate):
            return jnp.einsum("gnh,ghu->gnu", h, recurrent[:, gate], precision="highest")

        z, _, c, _ = _gates(reset_after, tuple(x), h, times, jnp.moveaxis(bias, 1, 0)[:, :, None])
        h = z * h + (1 - z) * c
        return h, h

    x = jnp.moveaxis(projected.astype(jnp.float32), (2, 3), (0, 1))
    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(x[0, 0]), x)[1], 0, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _states(
    form: KernelForm,
    projected: Float[Array, "gru n step 3 units"],
    recurrent: Float[Array, "gru 3 units units"],
    bias: Float[Array, "gru 3 units"],
) -> Float[Array, "gru n step units"]:
    """Runs GRUs on their projected inputs; the gates z, r, c have an axis, and units are a power of two."""
    return _forward(form, projected, recurrent.astype(projected.dtype), bias.astype(jnp.float32))


def _states_forward(form: KernelForm, projected: Array, recurrent: Array, bias: Array) -> tuple[Array, Any]:
    states = _states(form, projected, recurrent, bias)
    return states, (projected, recurrent, bias, states)


def _states_backward(form: KernelForm, residuals: Any, d_states: Array) -> tuple[Array, Array, Array]:
    """Solves the recursion of the states' gradients, then takes the steps as independent, in float32."""
    projected, recurrent, bias, states = residuals
    dtype = projected.dtype
    h = jnp.pad(states, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1].astype(jnp.float32)  # before each step

    def gates(projected, recurrent, bias):
        def times(h, gate):  # on a GPU the default precision is TF32, enough for bfloat16
            precision = "highest" if dtype == jnp.float32 else None
            return jnp.einsum("gnsh,ghu->gnsu", h, recurrent[:, gate], precision=precision)

        x = tuple(jnp.moveaxis(projected.astype(jnp.float32), 3, 0))
        return _gates(form.reset_after, x, h, times, jnp.moveaxis(bias, 1, 0)[:, :, None, None])

    def next_states(projected, recurrent, bias):
        z, _, c, _ = gates(projected, recurrent, bias)
        return z * h + (1 - z) * c

    factors = _factors(form.reset_after, h, *gates(projected, recurrent, bias))
    transposed = jnp.swapaxes(recurrent, 2, 3).astype(dtype)
    d_states = _backward(form, d_states, jnp.stack(factors, 3).astype(dtype), transposed)
    return jax.vjp(next_states, projected, recurrent, bias)[1](d_states.astype(jnp.float32))


_states.defvjp(_states_forward, _states_backward)


def _factors(reset_after: bool, h: Array, z: Array, r: Array, c: Array, from_h: Array) -> tuple[Array, ...]:
    """What turns the gradient d of a state into those of its gates' pre-activations, elementwise, for `_backward`."""

    def slope(gate):
        return gate * (1 - gate) if reset_after else jnp.where((gate > 0) & (gate < 1), 0.2, 0.0)

    to_z = (h - c) * slope(z)
    to_c = (1 - z) * (1 - c * c)
    if reset_after:  # the candidate's is multiplied by r on its way to the state
        return z, to_z, to_c * from_h * slope(r), to_c * r
    return z, to_z, h * slope(r), to_c, r


def _dot(form: KernelForm, dtype: Any) -> Callable[[Array, Array], Array]:
    """Products with the recurrent kernel, added up in float32.

    Float32 numbers are multiplied as three TF32 products, which is float32's accuracy on matrix units; a single one,
    the default, has 11 bits, and float32 without matrix units takes twice the time and all registers.
    """
    exact = lax.Precision.HIGHEST if form.interpret else lax.DotAlgorithmPreset.TF32_TF32_F32_X3
    precision = exact if dtype == jnp.float32 else None
    return lambda h, kernel: jnp.dot(h.astype(dtype), kernel, precision=precision, preferred_element_type=jnp.float32)


def _forward_kernel(x_ref: Any, kernel_ref: Any, bias_ref: Any, states_ref: Any, *, form: KernelForm) -> None:
    """Runs a block of rows: x [row, step, gate, units], kernel [gate, units, units], bias [gate, units]."""
    steps = x_ref.shape[1]
    dot = _dot(form, x_ref.dtype)
    kernels = [kernel_ref[gate] for gate in range(3)] if form.resident else kernel_ref
    bias = [bias_ref[gate][None] for gate in range(3)]

    def load(t):
        return tuple(x_ref[:, t, gate].astype(jnp.float32) for gate in range(3))

    def step(t, carry):
        h, x = carry
        ahead = load(jnp.minimum(t + 1, steps - 1))  # so that it arrives while this step computes
        z, _, c, _ = _gates(form.reset_after, x, h, lambda h, gate: dot(h, kernels[gate]), bias)
        h = z * h + (1 - z) * c
        states_ref[:, t] = h.astype(states_ref.dtype)
        return h, ahead

    lax.fori_loop(0, steps, step, (jnp.zeros((x_ref.shape[0], x_ref.shape[3]), jnp.float32), load(0)))


def _backward_kernel(d_ref: Any, factors_ref: Any, kernel_ref: Any, total_ref: Any, *, form: KernelForm) -> None:
    """Adds to each state's gradient what comes from later steps: d and total [row, step, units].

    The factors [row, step, factor, units] are those of `_factors`, the kernel [gate, units, units] is transposed.
    """
    steps = d_ref.shape[1]
    dot = _dot(form, d_ref.dtype)
    kernels = [kernel_ref[gate] for gate in range(3)] if form.resident else kernel_ref

    def load(t):
        factors = (factors_ref[:, t, k].astype(jnp.float32) for k in range(factors_ref.shape[2]))
        return d_ref[:, t].astype(jnp.float32), *factors

    def step(i, carry):
        from_later, (d, z, to_z, to_r, to_c, *r) = carry
        t = steps - 1 - i
        ahead = load(jnp.maximum(t - 1, 0))
        total = d + from_later
        total_ref[:, t] = total.astype(total_ref.dtype)
        from_c = dot(total * to_c, kernels[2])
        if form.reset_after:
            from_c += dot(total * to_r, kernels[1])
        else:
            from_c = from_c * r[0] + dot(from_c * to_r, kernels[1])
        return total * z + dot(total * to_z, kernels[0]) + from_c, ahead

    lax.fori_loop(0, steps, step, (jnp.zeros((d_ref.shape[0], d_ref.shape[2]), jnp.float32), load(steps - 1)))


def _on_blocks(
    kernel: Callable[..., None], form: KernelForm, rows: tuple[Array, ...], weights: tuple[Array, ...]
) -> Array:
    """Runs a kernel on blocks of rows: rows [gru, n, step, ...], weights [gru, ...] -> [gru, n, step, units]."""
    from jax.experimental import pallas as pl  # here, as loading them takes a second that a CPU need not wait
    from jax.experimental.pallas import triton

    n = rows[0].shape[1]
    rows = tuple(jnp.pad(array, [(0, 0), (0, -n % _ROWS)] + [(0, 0)] * (array.ndim - 2)) for array in rows)
    grus, padded, steps, *_, units = rows[0].shape
    out = jax.ShapeDtypeStruct((grus, padded, steps, units), rows[0].dtype)

    def of_rows(array):
        return pl.BlockSpec((None, _ROWS, *array.shape[2:]), lambda g, i: (g, i, *[0] * (len(array.shape) - 2)))

    def of_weights(array):
        return pl.BlockSpec((None, *array.shape[1:]), lambda g, i: (g, *[0] * (len(array.shape) - 1)))

    states = pl.pallas_call(
        functools.partial(kernel, form=form),
        out,
        grid=(grus, padded // _ROWS),
        in_specs=[*map(of_rows, rows), *map(of_weights, weights)],
        out_specs=of_rows(out),
        compiler_params=triton.CompilerParams(num_warps=_WARPS, num_stages=1),
        interpret=form.interpret,
    )(*rows, *weights)
    return states[:, :n]


def _over_devices(function: Callable[..., Array], rule: str, replicated: tuple[str, ...]) -> Callable[..., Array]:
    """Lets every device run the kernels on its own rows.

    Without it, a partitioned program would gather all rows on every device, as it cannot look into a kernel. It
    also works outside of `platform.dealt_over`, where `on_own_clips` knows no mesh.
    """
    partitioned = custom_partitioning(function, static_argnums=(0,))

    def shardings(tree):
        return jax.tree.map(lambda array: array.sharding, tree)

    def partition(form, mesh, arguments, result):
        return mesh, functools.partial(function, form), result.sharding, shardings(arguments)

    partitioned.def_partition(partition, sharding_rule=rule, need_replication_factors=replicated)
    return partitioned


def _run_forward(form: KernelForm, projected: Array, recurrent: Array, bias: Array) -> Array:
    return _on_blocks(_forward_kernel, form, (projected,), (recurrent, bias))


def _run_backward(form: KernelForm, d_states: Array, factors: Array, recurrent: Array) -> Array:
    return _on_blocks(_backward_kernel, form, (d_states, factors), (recurrent,))


_forward = _over_devices(_run_forward, "g n s k u, g k v w, g k x -> g n s u", ("s", "k", "u", "v", "w", "x"))


_backward = _over_devices(_run_backward, "g n s u, g n s f u, g k v w -> g n s u", ("s", "u", "f", "k", "v", "w"))
