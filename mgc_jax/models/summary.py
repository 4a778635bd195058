"""A model layer by layer: output shapes and parameters, found by tracing it; nothing is computed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mgc_jax.models.classifier import build_model, count_parameters


class Layer(NamedTuple):
    """A part of a model that was called.

    Attributes:
        name: its place in the model, such as `encoder.cnn.blocks.0`.
        kind: its class.
        shape: of its output without the clips' axis. That of a GRU begins with its sequences or directions, that of
            pooling and head with the clips or bags of a row, of which there is one.
        parameters: its own, without those of the layers inside it that have lines of their own.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def layers_of(model: Any, clip_shape: Sequence[int], num_genres: int) -> list[Layer]:
    """Lists the parts of a model that have parameters, in the order in which their outputs are ready.

    The parameters add up to those of the model; a layer that is called several times has them once.

    Args:
        model: `config.model`.
        clip_shape: (time, mel) or (feature,).
        num_genres: number of labels.
    """
    found: list[Layer] = []

    def trace(clips: jax.Array) -> Any:
        built = build_model(model, clip_shape, num_genres, seed=0)
        modules = {".".join(map(str, path)): module for path, module in nnx.iter_modules(built) if path}
        counts = {name: count_parameters(module) for name, module in modules.items()}
        for name, module in modules.items():
            if counts[name]:
                _record(module, name, found)
        scores, _ = built(clips, jnp.ones(1, bool), *jnp.zeros((2, 1, 1), jnp.int32))
        listed: dict[str, int] = {}  # what has a line already, deepest first
        for number, layer in enumerate(found):
            inside = sum(n for name, n in listed.items() if name.startswith(f"{layer.name}."))
            own = 0 if layer.name in listed else counts[layer.name] - inside
            listed[layer.name] = own
            found[number] = layer._replace(parameters=own)
        return scores

    jax.eval_shape(trace, jax.ShapeDtypeStruct((1, *clip_shape), jnp.float32))
    return found


def _record(module: Any, name: str, found: list[Layer]) -> None:
    """Lets a module note its calls."""
    kind = type(module)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = kind.__call__(self, *args, **kwargs)
        shape = list(jax.tree.leaves(output)[0].shape)
        shape.remove(1)  # the first axis of that size is that of the clip
        found.append(Layer(name, kind.__name__, tuple(shape), 0))
        return output

    module.__class__ = type(kind.__name__, (kind,), {"__call__": call})
