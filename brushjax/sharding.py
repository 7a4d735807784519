"""Where arrays live: a device mesh, and rules that turn parameter paths into shardings.

Models know no mesh axis. A config holds (path regex, tactic) rules; the first whose regex matches
the whole path decides.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
LARGE = 64 * 2**20  # bytes: a larger array that a rule could not cut is worth a line in the log

Rule = tuple[str, str]
LANGUAGE_MODEL: tuple[Rule, ...] = (
    (r".*\.stack\..*\.(q|k|v|gate|up)_proj\.kernel", "None,fsdp,tensor"),
    (r".*\.stack\..*\.(o|down)_proj\.kernel", "None,tensor,fsdp"),
    (r"(.*\.)?embed_tokens\.embedding", "fsdp,tensor"),
    (r"(.*\.)?lm_head\.kernel", "fsdp,tensor"),
)
"""Rules for stacked transformer layers: heads and inner features over the tensor axis, so that a
layer needs two sums of activations and no matrix is gathered; the other side over fsdp. The stack
itself is never cut: each layer would have to be fetched from where it is."""
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """How many devices each axis has; one axis may be -1, which takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make_mesh(shape: MeshShape | None = None, devices: Sequence[Any] | None = None) -> Mesh:
    """Builds a mesh with the axes data, fsdp and tensor over all devices (or those given).

    The axes are Auto: with Explicit ones, which jax.make_mesh makes by default, convolutions with
    cut kernels fail.

    Raises: ValueError if the shape does not use every device.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = list(dataclasses.astuple(shape or MeshShape()))
    known = math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and known and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices) or min(sizes) < 1:
        raise ValueError(
            f"expected mesh sizes {dict(zip(AXES, sizes, strict=True))} to multiply to "
            f"{len(devices)} devices; use sizes that divide this, and -1 for at most one axis"
        )
    auto = (AxisType.Auto,) * len(AXES)
    try:
        return jax.make_mesh(tuple(sizes), AXES, axis_types=auto, devices=devices)
    except NotImplementedError:  # an axis is part of the torus's: that splits on v5e alone
        split = create_device_mesh(sizes, devices, allow_split_physical_axes=True)
        return Mesh(split, AXES, axis_types=auto)


def path_name(path: Any) -> str:
    """Returns a tree path as the dotted name that rules are matched with, such as
    `unet.conv_in.kernel`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def shardings(tree: Any, mesh: Mesh, rules: Sequence[Rule]) -> Any:
    """Returns the sharding of each array of a tree of arrays or shapes.

    Args:
      tree: arrays or jax.ShapeDtypeStruct.
      mesh: of make_mesh.
      rules: (regex, tactic) pairs. Tactics: "replicate"; "cut:AXIS" cuts the largest dimension that
        the axis divides; "AXIS,None,..." is an explicit layout, one entry a dimension. Without a
        match an array is replicated.
    Raises: ValueError for an unknown tactic or axis.
    """

    def one(path: Any, leaf: Any) -> NamedSharding:
        name = path_name(path)
        tactic = next((t for regex, t in rules if re.fullmatch(regex, name)), "replicate")
        spec = _spec(tactic, leaf.shape, mesh)
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        whole = tactic != "replicate" and spec == PartitionSpec() and mesh.size > 1
        if whole and size > LARGE:
            log.warning(
                "%s %s stays whole on every device: %s found no dimension to cut",
                name,
                leaf.shape,
                tactic,
            )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(one, tree)


def bytes_per_device(tree: Any, layout: Any) -> int:
    """Returns how many bytes one device holds of a tree that is laid out by `shardings`."""
    sizes = jax.tree.map(
        lambda leaf, sharding: (
            math.prod(sharding.shard_shape(tuple(leaf.shape))) * leaf.dtype.itemsize
        ),
        tree,
        layout,
    )
    return sum(jax.tree.leaves(sizes))


def _spec(tactic: str, shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    if tactic == "replicate":
        return PartitionSpec()
    kind, _, axis = tactic.partition(":")
    names = [axis] if kind == "cut" else [name.strip() for name in tactic.split(",")]
    unknown = [name for name in names if name != "None" and name not in mesh.shape]
    if unknown:
        raise ValueError(
            f"expected a tactic 'replicate', 'cut:AXIS' or 'AXIS,None,...' with axes of {AXES}; "
            f"got {tactic!r}"
        )
    if kind != "cut":
        entries = [None if name == "None" else name for name in names]
        fits = len(entries) == len(shape) and all(
            axis is None or size % mesh.shape[axis] == 0
            for axis, size in zip(entries, shape, strict=True)
        )
        if not fits:
            raise ValueError(f"layout {tactic!r} does not fit an array of shape {tuple(shape)}")
        return PartitionSpec(*entries)
    divisible = [index for index, size in enumerate(shape) if size and size % mesh.shape[axis] == 0]
    if mesh.shape[axis] == 1 or not divisible:
        return PartitionSpec()
    cut = max(divisible, key=lambda index: shape[index])
    return PartitionSpec(*(axis if index == cut else None for index in range(len(shape))))
