"""The measured roofline of the devices: a large matrix product, a large copy (Williams et al. 2009)."""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mgc_jax.runtime.devices import on_cpu, shard

_LARGEST = 8192  # side of a matrix
_COPIED = {"cpu": 2**28, "gpu": 2**30, "tpu": 2**30}  # bytes on all devices, on each: far above any cache
_REPEATS = 5
_ENOUGH = 0.03  # seconds of one product after which the matrices grow no more


def matmul_rate(dtype: str, mesh: Mesh) -> float:
    """Returns the highest rate of large products of matrices, in operations per second of all devices together.

    Every device multiplies its own two matrices, of growing size, at once with the others (fake devices of a CPU
    share its cores); the precision is the default one, as in the models.
    """
    product: Any = jax.jit(lambda a, b: a @ b)
    best, side = 0.0, 512
    while True:
        matrices = shard(jnp.full((mesh.size, side, side), 1 / side, dtype), mesh)
        seconds = _fastest(functools.partial(product, matrices, matrices))
        best = max(best, 2 * side**3 * mesh.size / seconds)
        if seconds > _ENOUGH or side >= _LARGEST:
            return best
        side *= 2


def copy_rate(mesh: Mesh) -> float:
    """Returns the rate of adding one to a large array in place: bytes read and written per second, of all devices."""
    size = _COPIED.get(mesh.devices.flat[0].platform, 2**28) // (mesh.size if on_cpu(mesh) else 1)
    array = shard(jnp.zeros((mesh.size, size // 4), jnp.float32), mesh)
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def step() -> jax.Array:
        nonlocal array
        array = add(array)
        return array

    return 2 * array.nbytes / _fastest(step)


def _fastest(function: Callable[[], jax.Array]) -> float:
    """Returns the seconds of the fastest of a few calls, after one that compiles."""
    function().block_until_ready()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        function().block_until_ready()
        times.append(time.perf_counter() - start)
    return min(times)
