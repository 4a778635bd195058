"""The platform of a computation, as far as layers have kernels made for it, and the devices that share its clips."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec, get_abstract_mesh

from mgc_jax.runtime.devices import DATA, dealt, undeal


def on_cpu() -> bool:
    """Whether XLA's CPU backend computes."""
    return jax.default_backend() == "cpu"


def dealt_over(mesh: Mesh) -> contextlib.AbstractContextManager[object]:
    """Inside a traced function: the clips of a batch are dealt to the devices of this mesh.

    Layers see it as `data_devices()`.
    """
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def data_devices() -> int:
    """Number of devices that the clips are dealt to, from `dealt_over`; 1 outside of it, and in `on_own_clips`."""
    mesh = get_abstract_mesh()
    return 1 if mesh.empty or DATA in mesh.manual_axes else mesh.shape.get(DATA, 1)


def on_own_clips(
    function: Callable[..., Any], clips: int, in_axes: Sequence[int | None], out_axes: Any
) -> Callable[..., Any]:
    """Lets every device run a function on its own clips; inside it, `jax.lax.psum` over `DATA` adds up.

    XLA would otherwise partition the function's loops over clips, and gather all of them everywhere. Without
    `dealt_over`, or where the clips cannot be divided evenly, one device runs the function, and nothing is added up.

    Args:
        function: of arrays.
        clips: number of clips.
        in_axes: for each argument the axis of the clips; None: every device gets all of it.
        out_axes: the same for the results, as a pytree like them.
    """
    if shared_by(clips) == 1:
        return function

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else dealt(axis)

    outs = jax.tree.map(spec, out_axes, is_leaf=lambda axis: axis is None)
    return jax.shard_map(function, in_specs=tuple(map(spec, in_axes)), out_specs=outs, check_vma=False)


def shared_by(clips: int) -> int:
    """Number of devices that divide this many clips among them in `on_own_clips`."""
    devices = data_devices()
    return devices if devices > 1 and clips % devices == 0 else 1  # clips may be a symbol, in jax.export


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
    return jax.lax.with_sharding_constraint(rows, dealt())
