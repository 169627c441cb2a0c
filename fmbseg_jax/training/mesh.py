"""Devices as a ('data', 'model') mesh, and the one table that says where every array lies."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from labelgen.core.errors import UserError


def _spec(*axes: str | None) -> PartitionSpec:
    return PartitionSpec(*axes)  # type: ignore[no-untyped-call]  # jax leaves it untyped


RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"qkv/kernel$", _spec(None, None, "model", None)),
    (r"qkv/bias$", _spec(None, "model", None)),
    (r"out/kernel$", _spec("model", None, None)),
    (r"(up|hidden)/kernel$", _spec(None, "model")),
    (r"(up|hidden)/bias$", _spec("model")),
    (r"down/kernel$", _spec("model", None)),
)
"""(what a leaf's path ends with, its layout): the first match wins, what matches none is replicated.

Attention is split over its heads, an MLP over its hidden width; the optimiser's moments follow their parameter.
"""


def make_mesh(data: int, model: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, 'model' of them to a copy of the parameters. data -1: as many copies as there are.

    devices: others than those of this run, such as a topology's.

    Devices stand in the order of their processes, so that 'model' stays within one wherever it divides its devices.

    UserError when the two do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    data = count // model if data == -1 else data
    if data * model != count or data < 1:
        raise UserError(
            f"mesh.data={data} times mesh.model={model} is not the {count} devices there are; "
            "set mesh.data=-1 and mesh.model to a divisor of that number"
        )
    # Auto: the compiler places what lies between the shardings given here; make_mesh's default is Explicit.
    axes, kinds = ("data", "model"), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((data, model), axes, axis_types=kinds, devices=devices)


def platform(mesh: Mesh) -> str:
    """cpu, gpu or tpu: of the devices that a program is compiled for, which need not be this machine's."""
    name: str = mesh.devices.flat[0].platform
    return name


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, _spec())


def over_data(mesh: Mesh) -> NamedSharding:
    """First axis (the batch) over 'data'."""
    return NamedSharding(mesh, _spec("data"))


def batch_sharding(mesh: Mesh, batch_size: int) -> NamedSharding:
    """`over_data`; UserError when a batch cannot be divided over the devices."""
    if batch_size % mesh.shape["data"]:
        raise UserError(
            f"train.batch_size={batch_size} cannot be divided over {mesh.shape['data']} devices; "
            "set it to a multiple, or mesh.data to a divisor"
        )
    return over_data(mesh)


def own_places(sharding: NamedSharding, batch_size: int) -> NDArray[np.int64]:
    """The places of a batch that this process's devices hold, ascending."""
    parts = sharding.addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[part] for part in parts]))


class Layout(NamedTuple):
    """Where a batch lies."""

    mesh: Mesh
    over_data: NamedSharding
    places: NDArray[np.int64]
    """Of the batch, those that this process's devices hold, ascending."""


def lay_out(data: int, model: int, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Layout:
    """A batch over all devices of all processes. UserError when the mesh or the batch cannot be divided over them.

    devices: as for `make_mesh`.
    """
    mesh = make_mesh(data, model, devices)
    over = batch_sharding(mesh, batch_size)
    return Layout(mesh, over, own_places(over, batch_size))


def state_shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for each leaf (array or ShapeDtypeStruct) by RULES.

    UserError when a dimension is no multiple of the mesh axis that splits it.
    """

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = next((spec for pattern, spec in RULES if re.search(pattern, name)), _spec())
        for axis, size in zip(spec, np.shape(leaf), strict=False):
            if axis and size % mesh.shape[axis]:
                raise UserError(
                    f"mesh.model={mesh.shape[axis]} does not divide the {size} of {name} {np.shape(leaf)}; "
                    "set mesh.model to a divisor, or head.heads and head.hidden to multiples"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, tree)
