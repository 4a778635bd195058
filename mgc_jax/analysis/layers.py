"""What the layers of an encoder return for clips, whatever the encoder."""

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mgc_jax.analysis.cka import gram_matrices
from mgc_jax.analysis.opening import OpenedRun
from mgc_jax.models.layers import Dropout

_HELD_BYTES = 2**30  # features of a block of clips


def layers_of(encoder: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """Yields the parts of an encoder by their dotted names: its submodules, and those in its lists (`blocks.0`).

    Dropout, which does nothing in evaluation, is left out.
    """
    for name, value in vars(encoder).items():
        if isinstance(value, nnx.Module) and not isinstance(value, nnx.List):
            parts = {name: value}
        elif isinstance(value, nnx.List | list | tuple):
            parts = {f"{name}.{i}": part for i, part in enumerate(value) if isinstance(part, nnx.Module)}
        else:
            continue
        yield from ((key, part) for key, part in parts.items() if not isinstance(part, Dropout | nnx.Dropout))


def record_calls(encoder: nnx.Module) -> dict[str, Any]:
    """Lets an encoder leave behind what each of its layers returned; returns the dict that it fills when called.

    Every layer becomes an instance of a subclass of its class whose call also records. The encoder is changed: give
    one that is thrown away, such as one merged inside a traced function. Of a layer that is called several times the
    last output counts.
    """
    outputs: dict[str, Any] = {}

    def recording(kind: type, name: str) -> type:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs[name] = kind.__call__(self, *args, **kwargs)
            return outputs[name]

        return type(kind.__name__, (kind,), {"__call__": call})

    for name, layer in layers_of(encoder):
        object.__setattr__(layer, "__class__", recording(type(layer), name))
    return outputs


def encoder_grams(run: OpenedRun, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the Gram matrix of every layer of a run's encoder.

    Args:
        run: the run.
        rows: int [clip] of its corpus.

    Returns:
        Layer -> float64 [clip, clip], in the order of the calls; maps are flattened, as Kornblith et al. do.
    """
    experiment = run.experiment
    clips, stored = experiment.corpus.clips, experiment.corpus.clips.shape[1:]
    called: list[str] = []  # JAX gives dicts back in the order of their keys

    def outputs(params: Any, batch_stats: Any, some: jax.Array) -> dict[str, list[jax.Array]]:
        encoder = nnx.merge(experiment.graph, params, batch_stats).encoder
        recorded = record_calls(encoder)
        encoder(experiment.inputs.evaluation(some), jnp.ones(len(some), bool), False, None)
        called[:] = recorded
        return {name: jax.tree.leaves(output) for name, output in recorded.items()}

    def shapes(number: int) -> dict[str, list[Any]]:
        return jax.eval_shape(outputs, *run.weights, jax.ShapeDtypeStruct((number, *stored), clips.dtype))

    # GRUs side by side, say, put another axis before that of the clips, which is the one that grows with them.
    axes = {
        name: [_differing_axis(*pair) for pair in zip(few, more, strict=True)]
        for (name, few), more in zip(shapes(2).items(), shapes(3).values(), strict=True)
    }

    @jax.jit
    def flattened(params: Any, batch_stats: Any, some: jax.Array) -> dict[str, jax.Array]:
        flat = {}
        for name, leaves in outputs(params, batch_stats, some).items():
            of_clips = [(leaf, axis) for leaf, axis in zip(leaves, axes[name], strict=True) if axis is not None]
            parts = [jnp.moveaxis(leaf, axis, 0).reshape(len(some), -1) for leaf, axis in of_clips]
            if parts:
                flat[name] = jnp.concatenate(parts, axis=1).astype(jnp.float32)
        return flat

    chunk = experiment.config.eval.batch_clips

    def features(some: np.ndarray) -> dict[str, np.ndarray]:
        padded = np.resize(some, -(-len(some) // chunk) * chunk)  # one size of a chunk, so one program
        parts = [
            jax.device_get(flattened(*run.weights, jnp.asarray(clips[part]))) for part in padded.reshape(-1, chunk)
        ]
        return {name: np.concatenate([part[name] for part in parts])[: len(some)] for name in parts[0]}

    widths = [math.prod(leaf.shape) for leaves in shapes(1).values() for leaf in leaves]
    hold = max(1, _HELD_BYTES // (4 * max(1, sum(widths))) // chunk) * chunk
    grams = gram_matrices(features, rows, hold, chunk)
    return {name: grams[name] for name in called if name in grams}


def _differing_axis(few: Any, more: Any) -> int | None:
    """Returns the axis whose size differs between two shapes; None: there is none."""
    different = [axis for axis, (a, b) in enumerate(zip(few.shape, more.shape, strict=True)) if a != b]
    return different[0] if different else None
