"""The platform of a computation, as far as layers have kernels made for it, and the devices that share its clips."""

import contextlib
from collections.abc import Callable

import jax
from jax.sharding import Mesh, PartitionSpec, get_abstract_mesh

from mgc_jax.runtime.devices import undeal


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


def draw_per_clip(sample: Callable[[tuple[int, ...]], jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Draws for clips [clip, ...] that are dealt to the devices: for each clip the same on any number of devices.

    Args:
        sample: draws an array of a shape, as `jax.random.normal` does; its values go by their number in that array.
        shape: of the clips.
    """
    devices = data_devices()
    in_order = sample((shape[0] // devices, devices, *shape[1:]))  # so every device can draw its own alone
    return in_order.swapaxes(0, 1).reshape(shape)


def in_order(values: jax.Array) -> jax.Array:
    """Brings clips [clip, ...] that are dealt to the devices to all of them, in the order of the batch."""
    devices = data_devices()
    if devices == 1:
        return values
    return undeal(jax.lax.with_sharding_constraint(values, PartitionSpec()), devices)


def split_rows(rows: jax.Array) -> jax.Array:
    """Splits the rows (first axis) of an array over the devices that share the clips, if they can be."""
    devices = data_devices()
    if devices == 1 or len(rows) % devices:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec("data"))


def on_one_cpu_device() -> bool:
    """Whether the only device is a CPU, which the convolutions' and the front end's CPU kernels are made for."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1
