"""Floating-point operations of a function, counted from its jaxpr.

XLA's own count (`compiled.cost_analysis()`) counts the body of a loop once, however often it runs, so a recurrent
layer nearly vanishes in it. Here matrix products, convolutions and Fourier transforms are counted, times the length of
the scans that they are in. The rest (activations, norms, the optimizer) is proportional to the memory traffic and far
below the others in every model here.

Count a model whose layers use XLA's own operations (`config.model.kernels = "plain"`): the kernels made for a platform
compute some things twice to save memory.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import partial_eval

_RUNS_UNKNOWN = ("while", "pallas_call", "shard_map")  # how often their body runs is not in sight


@dataclasses.dataclass(frozen=True)
class Count:
    """What a function does.

    Attributes:
        flops: operations; a multiplication and an addition are two.
        bytes: read and written by those same operations if each reads its operands and writes its result once, and
            all that lies between them costs no traffic: less than any real program has.
        unknown: operations that run their body an unknown number of times, and are counted as once.
    """

    flops: float = 0.0
    bytes: float = 0.0
    unknown: frozenset[str] = frozenset()

    def __add__(self, other: "Count") -> "Count":
        return Count(self.flops + other.flops, self.bytes + other.bytes, self.unknown | other.unknown)

    def times(self, number: float) -> "Count":
        """Returns the count of so many runs."""
        return Count(self.flops * number, self.bytes * number, self.unknown)


def count(function: Callable[..., Any], *arguments: Any) -> Count:
    """Counts a function of arguments that may be `jax.ShapeDtypeStruct`s.

    What no result depends on, such as the gradient of the input, is not counted.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _of_jaxpr(used)


def _of_jaxpr(jaxpr: Any) -> Count:
    return sum((_of_equation(equation) for equation in jaxpr.eqns), Count())


def _of_equation(equation: Any) -> Count:
    name, params = equation.primitive.name, equation.params
    if name in _COUNTED:
        touched = [v.aval for v in (*equation.invars, *equation.outvars)]
        return Count(_COUNTED[name](equation), sum(aval.size * aval.dtype.itemsize for aval in touched))
    inner = [_of_jaxpr(getattr(jaxpr, "jaxpr", jaxpr)) for jaxpr in core.jaxprs_in_params(params)]
    if name == "scan":
        return sum(inner, Count()).times(params["length"])
    if name == "cond":
        return max(inner, key=lambda branch: branch.flops)
    if name in _RUNS_UNKNOWN and any(part.flops for part in inner):
        inner.append(Count(unknown=frozenset({name})))
    return sum(inner, Count())


def _dot_general(equation: Any) -> float:
    ((contracting, _), _), left = equation.params["dimension_numbers"], equation.invars[0].aval
    return 2.0 * equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracting)


def _conv_general_dilated(equation: Any) -> float:
    # Also of zeros that pad the borders, as papers count; not of zeros between the inputs (a stride's gradient).
    kernel, numbers = equation.invars[1].aval, equation.params["dimension_numbers"]
    per_output = kernel.size / kernel.shape[numbers.rhs_spec[0]]
    return 2.0 * equation.outvars[0].aval.size * per_output / math.prod(equation.params["lhs_dilation"])


def _fft(equation: Any) -> float:
    # 5 n log2 n for n complex values, the usual convention; half of it for real ones.
    lengths = equation.params["fft_lengths"]
    complex_values, real = equation.invars[0].aval, "RFFT" in str(equation.params["fft_type"])
    larger = max(complex_values.size, equation.outvars[0].aval.size)
    return 5.0 * larger * math.log2(max(2, math.prod(lengths))) * (0.5 if real else 1.0)


_COUNTED: dict[str, Callable[[Any], float]] = {
    "dot_general": _dot_general,
    "conv_general_dilated": _conv_general_dilated,
    "fft": _fft,
}
