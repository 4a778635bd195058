"""The platform of a computation, as far as layers have kernels made for it, and the devices that share its clips."""

import contextlib

import jax
from jax.sharding import Mesh, get_abstract_mesh


def on_cpu() -> bool:
    """Whether XLA's CPU backend computes."""
    return jax.default_backend() == "cpu"


def dealt_over(mesh: Mesh) -> contextlib.AbstractContextManager[object]:
    """Inside a traced function: the clips of a batch are dealt to the devices of this mesh.

    Layers see it as `data_devices()`.
    """
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def data_devices() -> int:
    """Number of devices that the clips are dealt to, from `dealt_over`; 1 outside of it."""
    mesh = get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("data", 1)


def on_one_cpu_device() -> bool:
    """Whether the only device is a CPU, which the convolutions' and the front end's CPU kernels are made for."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1
