"""Placement of state, batches and clips on the devices of this machine."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`, over the given devices (all of them by default)."""
    devices = list(devices or jax.devices())
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a pytree to every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: Any, mesh: Mesh) -> Any:
    """Deals the rows (first axis) of every array to the devices."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("data")))


class DeviceClips:
    """The whole corpus in the memory of every device; a batch is an index into it."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = replicate(clips, mesh)
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        return self._clips, shard(index, self._mesh)


class HostClips:
    """The corpus in host memory; the clips of a batch are gathered there and sent."""

    def __init__(self, clips: np.ndarray, mesh: Mesh):
        self._clips = clips
        self._mesh = mesh

    def __call__(self, index: np.ndarray) -> tuple[jax.Array, ...]:
        """Returns the arguments that `take_clips` needs for clips `index` [row, slot]."""
        return (shard(self._clips[index], self._mesh),)


def take_clips(arguments: tuple[jax.Array, ...]) -> jax.Array:
    """Gives, inside a jitted function, the clips that a `DeviceClips` or `HostClips` was asked for."""
    return arguments[0][arguments[1]] if len(arguments) == 2 else arguments[0]


def place_clips(clips: np.ndarray, placement: str, mesh: Mesh) -> DeviceClips | HostClips:
    """Chooses where the corpus lives.

    Args:
        clips: [clip, ...], as stored.
        placement: device, host, or auto: on the devices if it takes at most half of their memory. A CPU backend
            holds a copy per device in host memory, so there auto means at most 2 GiB of copies.
        mesh: the devices.
    """
    stats = mesh.devices.flat[0].memory_stats() or {}
    room = stats.get("bytes_limit", 2**32 // mesh.size) // 2
    on_device = placement == "device" or (placement == "auto" and clips.nbytes <= room)
    return DeviceClips(clips, mesh) if on_device else HostClips(clips, mesh)
