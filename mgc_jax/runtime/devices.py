"""The mesh of devices, of all processes, and arrays placed on it."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mgc_jax.errors import UserError

DATA = "data"  # the mesh axis that clips are dealt to


def dealt(axis: int = 0) -> PartitionSpec:
    """Splits this axis of an array over the devices, and no other."""
    return PartitionSpec(*[None] * axis, DATA)


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with one axis, `data`, over the given devices (by default all, process by process).

    Raises:
        UserError: the processes have different numbers of devices.
    """
    if devices is None:
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        counts = Counter(device.process_index for device in devices)
        if len(set(counts.values())) > 1:
            named = ", ".join(f"process {index} has {number}" for index, number in sorted(counts.items()))
            raise UserError(f"all processes need the same number of devices: {named}")
    return Mesh(np.array(list(devices)), (DATA,), axis_types=(AxisType.Auto,))


def on_cpu(mesh: Mesh) -> bool:
    """Whether the devices are those of XLA's CPU backend."""
    return bool(mesh.devices.flat[0].platform == "cpu")


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies a pytree, the same in every process, to every device."""
    return _place(tree, NamedSharding(mesh, PartitionSpec()))


def shard(tree: Any, mesh: Mesh, axis: int = 0) -> Any:
    """Splits the rows (first axis, or another) of every array over the devices; a process sends its devices' rows."""
    return _place(tree, NamedSharding(mesh, dealt(axis)))


def shard_rows(shape: tuple[int, ...], rows: Callable[[slice], np.ndarray], mesh: Mesh, axis: int = 0) -> jax.Array:
    """Returns an array whose rows (first axis, or another) are split over the devices; a process makes its devices'.

    Args:
        shape: of the whole array.
        rows: returns a slice of its rows.
        mesh: the devices.
        axis: that of the rows.
    """

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None  # only keys have none
        start, stop, _ = index[axis].indices(shape[axis])
        return rows(slice(start, stop))

    sharding = NamedSharding(mesh, dealt(axis))
    return jax.make_array_from_callback(shape, sharding, part)


def deal(values: Any, devices: int, axis: int = 0) -> Any:
    """Reorders clips [clip, ...], whose number is a multiple of the devices: device d gets d, d + devices, ...

    Sharding the result spreads padding at the end of the clips, and so the work, evenly. For NumPy and JAX arrays.

    Args:
        values: the clips.
        devices: how many there are.
        axis: that of the clips.
    """
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    return values.reshape(*before, -1, devices, *after).swapaxes(axis, axis + 1).reshape(values.shape)


def undeal(values: Any, devices: int) -> Any:
    """Restores the order before `deal`."""
    return values.reshape(devices, -1, *values.shape[1:]).swapaxes(0, 1).reshape(values.shape)


def local_rows(number: int, mesh: Mesh) -> slice:
    """Returns which rows, of `number` rows split over the devices, this process has."""
    each = number // mesh.size
    mine = [i for i, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return slice(each * mine[0], each * (mine[-1] + 1))


def gather(array: jax.Array) -> np.ndarray:
    """Returns the whole of an array, in every process."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(array, tiled=True)


def _place(tree: Any, sharding: NamedSharding) -> Any:
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(values: Any) -> jax.Array:
        if isinstance(values, jax.Array) and not values.is_fully_addressable:
            return jax.device_put(values, sharding)
        if isinstance(values, jax.Array) and jax.dtypes.issubdtype(values.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(values)), impl=jax.random.key_impl(values))
        # Not device_put, which would have the processes compare what they send, each time.
        host = np.asarray(values)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(place, tree)
