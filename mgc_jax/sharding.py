"""The mesh of devices, and arrays placed on it."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`, over the given devices (all of them by default)."""
    devices = list(devices or jax.devices())
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a pytree to every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Deals the rows (first axis, or another) of every array to the devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*[None] * axis, "data")))
