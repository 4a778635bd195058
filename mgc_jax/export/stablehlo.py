"""StableHLO: the model as one portable file for JAX on CPUs, NVIDIA GPUs and TPUs, by `jax.export`.

JAX promises that a file runs with versions up to 6 months newer, and up to 3 weeks older, than the one that wrote it
(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees).
"""

from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp

from mgc_jax.errors import UserError
from mgc_jax.export.functions import Score, Scores

PLATFORMS = ("cpu", "cuda", "tpu")


def score_specs(clip_shape: Sequence[int]) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the arguments of `functions.score_function` for clips of a shape, any bags and any slots."""
    bags, slots = jax.export.symbolic_shape("bags, slots")
    return {
        "clips": jax.ShapeDtypeStruct((bags, slots, *clip_shape), jnp.float32),
        "present": jax.ShapeDtypeStruct((bags, slots), jnp.bool_),
    }


def to_stablehlo(function: Score, clip_shape: Sequence[int]) -> bytes:
    """Exports a model's function: of `clips` and `present`, to a dict with the fields of `Scores`.

    Raises:
        UserError: it holds an operation that JAX cannot export, or not for all platforms.
    """

    def score(clips, present):
        return function(clips, present)._asdict()

    try:
        exported = jax.export.export(jax.jit(score), platforms=PLATFORMS)(*score_specs(clip_shape).values())
        return bytes(exported.serialize())
    except (ValueError, TypeError, NotImplementedError) as error:
        first, *_ = str(error).splitlines()
        raise UserError(f"JAX cannot export this model: {first}") from error


def from_stablehlo(content: bytes, what: str) -> Score:
    """Loads what `to_stablehlo` returned.

    Raises:
        UserError: it is damaged, or made by another JAX than this one reads; what names it.
    """
    try:
        call = jax.jit(jax.export.deserialize(bytearray(content)).call)
    except Exception as error:  # of the readers of flatbuffers and MLIR, of many types
        first, *_ = str(error).splitlines() or [""]
        raise UserError(f"{what} is no function that this JAX reads ({type(error).__name__}: {first})") from error
    return lambda clips, present: Scores(**call(clips, present))
