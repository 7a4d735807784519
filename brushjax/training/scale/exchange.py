"""What the devices of a data axis send each other when every one has samples of its own: their
gradients to where the optimizer works on them, and the new parameters back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from brushjax.typing import Params

AXIS = "data"
TILE = (16, 128)  # a TPU's registers in bfloat16: parts that fill them are exchanged as they lie
SMALL = 64 * 2**10  # bytes: libtpu sends all of smaller parts to all devices, so they go together
TPU_GROUP = 8  # of more devices libtpu makes all-reduces of other exchanges: twice the bytes


class Exchange:
    """Exchanges over the data axis, to be called inside jax.shard_map over it.

    Every array is either whole on each device or cut over them along one dimension, as the state
    lies. On slices of more than `TPU_GROUP` TPUs arrays are packed into whole tiles, and summed and
    gathered in rounds over so many devices, which together send no more than one over all would.
    """

    def __init__(self, cuts: Any, mesh: Mesh, tiles: bool | None = None):
        """Takes the layout of the state.

        Args:
          cuts: tree of PartitionSpec.
          tiles: exchange as on those slices; None does so on them.
        """
        self._devices = mesh.size
        self._cuts, self._structure = jax.tree.flatten(
            cuts, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
        )
        if tiles is None:
            tiles = mesh.devices.flat[0].platform == "tpu" and mesh.size > TPU_GROUP
        self._tiles = tiles
        self._rounds = scatter_rounds(mesh.size, TPU_GROUP)

    def gather(self, params: Params) -> Params:
        """Returns the whole parameters, given each device's part."""
        leaves = self._structure.flatten_up_to(params)
        cut = [i for i, spec in enumerate(self._cuts) if AXIS in spec]
        if not self._tiles:
            for i in cut:
                where = self._cuts[i].index(AXIS)
                leaves[i] = jax.lax.all_gather(leaves[i], AXIS, axis=where, tiled=True)
            return self._structure.unflatten(leaves)
        groups = _groups({i: leaves[i].nbytes for i in cut})
        parts = [_packed([leaves[i].reshape(1, -1) for i in group]) for group in groups]
        last, *others = self._rounds  # the rounds of the sums, in the opposite order
        if others and parts:
            packed, ends = _together(parts)
            for round_ in reversed(others):
                packed = _gathered(packed, round_)
            parts = jnp.split(packed, ends, axis=1)
        for group, part in zip(groups, parts):
            whole = _gathered(part, last)  # [devices, rows, 128]
            for i, values in zip(group, _unpacked(whole, [leaves[i].size for i in group])):
                leaves[i] = self._joined(values.reshape(-1, *leaves[i].shape), self._cuts[i])
        return self._structure.unflatten(leaves)

    def mean(self, gradients: Params, dtype: Any) -> Params:
        """Returns each device's part of the mean over all devices, in float32.

        Args:
          dtype: in which the sums are made.
        """
        leaves = [leaf.astype(dtype) for leaf in self._structure.flatten_up_to(gradients)]
        sums = self._tiled_sums(leaves) if self._tiles else self._sums(leaves)
        means = [leaf.astype(jnp.float32) / self._devices for leaf in sums]
        return self._structure.unflatten(means)

    def _sums(self, leaves: list[Array]) -> list[Array]:
        return [
            jax.lax.psum_scatter(leaf, AXIS, scatter_dimension=spec.index(AXIS), tiled=True)
            if AXIS in spec
            else jax.lax.psum(leaf, AXIS)
            for leaf, spec in zip(leaves, self._cuts)
        ]

    def _tiled_sums(self, leaves: list[Array]) -> list[Array]:
        parts = {
            i: self._parts(leaf, spec)  # [devices, ...]
            for i, (leaf, spec) in enumerate(zip(leaves, self._cuts))
            if AXIS in spec
        }
        leaves = [x if i in parts else jax.lax.psum(x, AXIS) for i, x in enumerate(leaves)]
        groups = _groups({i: part.nbytes // self._devices for i, part in parts.items()})
        first, *others = self._rounds
        # The first round sends most. It goes array by array, each as soon as the backward pass has
        # it; what is left is small and goes together.
        left = [_scattered(_packed([parts[i] for i in group]), first) for group in groups]
        if others and left:
            packed, ends = _together(left)
            for round_ in others:
                packed = _scattered(packed, round_)
            left = jnp.split(packed, ends, axis=1)
        for group, sums in zip(groups, left):
            for i, part in zip(group, _unpacked(sums[0], [parts[i][0].size for i in group])):
                leaves[i] = part.reshape(parts[i].shape[1:])
        return leaves

    def _parts(self, array: Array, spec: PartitionSpec) -> Array:
        """Puts the devices' parts of a whole array into a leading axis."""
        where, shape = spec.index(AXIS), array.shape
        parts = array.reshape(*shape[:where], self._devices, -1, *shape[where + 1 :])
        return jnp.moveaxis(parts, where, 0)

    def _joined(self, parts: Array, spec: PartitionSpec) -> Array:
        """The inverse of `_parts`."""
        where, shape = spec.index(AXIS), parts.shape[1:]
        return jnp.moveaxis(parts, 0, where).reshape(*shape[:where], -1, *shape[where + 1 :])


def scatter_rounds(devices: int, largest: int) -> list[list[list[int]]]:
    """Returns the groups of each round of reduce-scatters that together leave every device the part
    that one over all devices would.

    Args:
      largest: devices of a group, unless a prime factor of `devices` is larger.
    """
    rounds, block = [], devices
    while block > 1:
        divisors = [size for size in range(2, block + 1) if block % size == 0]
        size = max([size for size in divisors if size <= largest], default=divisors[0])
        stride = block // size  # the largest blocks first: in the order in which devices count
        rounds.append(
            [
                [first + offset + stride * member for member in range(size)]
                for first in range(0, devices, block)
                for offset in range(stride)
            ]
        )
        block = stride
    return rounds


def _groups(sizes: Mapping[int, int]) -> list[list[int]]:
    """Returns what is exchanged at once: large arrays one by one, small ones together.

    Args:
      sizes: bytes of a device's part of every array.
    """
    small = [i for i, size in sizes.items() if size < SMALL]
    return [[i] for i in sizes if i not in small] + ([small] if small else [])


def _scattered(array: Array, groups: list[list[int]]) -> Array:
    """Adds up [n, rows, 128] over groups of g devices; each keeps n / g of the first axis."""
    array = array.reshape(len(groups[0]), -1, *array.shape[1:])
    return jax.lax.psum_scatter(array, AXIS, axis_index_groups=groups)


def _gathered(array: Array, groups: list[list[int]]) -> Array:
    """The inverse of `_scattered`, but for the sum: [n / g, rows, 128] become [n, rows, 128]."""
    gathered = jax.lax.all_gather(array, AXIS, axis_index_groups=groups)
    return gathered.reshape(-1, *array.shape[1:])


def _together(arrays: Sequence[Array]) -> tuple[Array, list[int]]:
    """Puts arrays [n, rows, 128] one behind the other; where to split them again along rows."""
    ends = list(itertools.accumulate(array.shape[1] for array in arrays))[:-1]
    return jnp.concatenate(arrays, axis=1), ends


def _packed(arrays: Sequence[Array]) -> Array:
    """Puts the values of arrays [n, ...] side by side, filled up to whole tiles: [n, rows, 128]."""
    flat = jnp.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)
    missing = -flat.shape[1] % math.prod(TILE)
    return jnp.pad(flat, ((0, 0), (0, missing))).reshape(len(flat), -1, TILE[1])


def _unpacked(packed: Array, sizes: Sequence[int]) -> list[Array]:
    """Returns arrays [..., size] of the given sizes out of `_packed` [..., rows, 128]."""
    flat = packed.reshape(*packed.shape[:-2], -1)
    return jnp.split(flat, list(itertools.accumulate(sizes)), axis=-1)[:-1]
