"""ONNX: the model for ONNX Runtime and what else reads the format, converted by jax2onnx.

jax2onnx wants an older Orbax than training does, so it runs in an environment of its own, which
`launch/onnx_export.sh` makes. An export is all that it reads.
"""

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mgc_jax.errors import UserError

JAX2ONNX = "0.17.1"  # whose internals `_max_pool_of_maps` uses


def to_onnx(function: Callable[..., Any], specs: dict[str, jax.ShapeDtypeStruct], results: Sequence[str]) -> bytes:
    """Converts a function of arrays.

    Args:
        function: returns a tuple of arrays.
        specs: its arguments by name; lengths may be symbols of `jax.export`.
        results: names of what it returns.

    Raises:
        UserError: jax2onnx is not there, or knows no form of an operation.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(
            "ONNX needs jax2onnx, whose Orbax is older than ours: launch/onnx_export.sh EXPORT makes an environment "
            f"for it and converts there ({error})"
        ) from error
    try:
        with _max_pool_of_maps():
            model = jax2onnx.to_onnx(
                function, list(specs.values()), model_name="mgc_jax", input_names=list(specs), output_names=results
            )
    except Exception as error:  # of many types; an operation that has no form is NotImplementedError or others
        raise UserError(f"jax2onnx cannot convert this model: {_first_line(error)}") from error
    # jax2onnx gives all loops one name for their lengths; ONNX Runtime, which takes equal names for equal lengths,
    # reuses memory of the wrong size. It finds the shapes itself.
    del model.graph.value_info[:]
    return model.SerializeToString()


def is_installed() -> bool:
    """Whether ONNX Runtime is there."""
    return importlib.util.find_spec("onnxruntime") is not None


def session(content: bytes, what: str) -> Callable[..., list[np.ndarray]]:
    """Loads an ONNX model for the CPU; returns a function of its inputs by name.

    Raises:
        UserError: ONNX Runtime does not take the model, or later cannot run it on its inputs; what names it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        loaded = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of types of its own
        raise UserError(f"ONNX Runtime does not take {what}: {_first_line(error)}") from error

    def run(**inputs: np.ndarray) -> list[np.ndarray]:
        try:
            return loaded.run(None, inputs)
        except Exception as error:
            raise UserError(f"ONNX Runtime cannot run {what} on the clips: {_first_line(error)}") from error

    return run


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


@contextlib.contextmanager
def _max_pool_of_maps() -> Iterator[None]:
    """Has jax2onnx write max pooling of maps [n, h, w, c] as ONNX has it, over the last axes of [n, c, h, w].

    Its own form pools over all four axes, with a window of 1 along two of them, which ONNX Runtime does not take.
    """
    from jax2onnx.plugins._ir_shapes import _stamp_type_and_shape
    from jax2onnx.plugins.plugin_system import PLUGIN_REGISTRY, PrimitiveLeafPlugin, import_all_plugins

    import_all_plugins()
    name = "reduce_window_max"
    others = PLUGIN_REGISTRY[name]

    class MaxPool(PrimitiveLeafPlugin):
        def lower(self, ctx: Any, eqn: Any) -> None:
            given, out = eqn.invars[0], eqn.outvars[0]
            maps = ctx.get_value_for_var(given, name_hint=ctx.fresh_name("maps"))
            _, *window, _ = eqn.params["window_dimensions"]
            before, after = zip(*eqn.params["padding"][1:3], strict=True)

            def add(operation: Callable[..., Any], x: Any, shape: Sequence[Any], **options: Any) -> Any:
                value = operation(x, _outputs=[ctx.fresh_name("max_pool")], **options)
                value.type = maps.type
                _stamp_type_and_shape(value, tuple(shape))
                return value

            (n, h, w, c), (_, h2, w2, _) = given.aval.shape, out.aval.shape
            build = ctx.builder
            x = add(build.Transpose, maps, (n, c, h, w), perm=(0, 3, 1, 2))
            x = add(build.MaxPool, x, (n, c, h2, w2), kernel_shape=window, strides=window, pads=(*before, *after))
            ctx.bind_value_for_var(out, add(build.Transpose, x, (n, h2, w2, c), perm=(0, 2, 3, 1)))

    PLUGIN_REGISTRY[name] = MaxPool()
    try:
        yield
    finally:
        PLUGIN_REGISTRY[name] = others
