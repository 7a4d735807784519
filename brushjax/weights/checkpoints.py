"""Weights in Orbax checkpoints of ours: a model's nested parameter dict, in our layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.rules import checkpoint_axes, checkpoint_name
from brushjax.weights.store import Tensor, copy_cast, transposed


class Reader:
    """Reads a checkpoint's arrays all at once, and lets go of each one that it gives out.

    Orbax spends tens of milliseconds on each request, so one request a tensor would take minutes.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()
        self._values: dict[tuple, np.ndarray] = {}

    def take(self, keys: tuple[str, ...]) -> np.ndarray:
        """Returns an array by its path."""
        if keys not in self._values:  # the first, or one that was taken before
            import orbax.checkpoint as ocp

            with ocp.PyTreeCheckpointer() as checkpointer:
                tree = checkpointer.metadata(self.folder).item_metadata.tree
                numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
                request = ocp.args.PyTreeRestore(restore_args=numpy)
                self._values = flat(checkpointer.restore(self.folder, args=request))
        return self._values.pop(keys)


@dataclasses.dataclass(frozen=True)
class OrbaxTensor(Tensor):
    """One array of an Orbax checkpoint."""

    reader: Reader
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    def fill(self, out: np.ndarray) -> None:
        copy_cast(out, self.reader.take(self.keys))


def read_orbax(folder: Path) -> dict[str, Tensor]:
    """Returns a checkpoint's unread tensors by checkpoint name, with checkpoint order of axes."""
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        tree = checkpointer.metadata(folder.absolute()).item_metadata.tree
    reader = Reader(folder)
    tensors = {}
    for keys, entry in flat(tree).items():
        stored = OrbaxTensor(reader, keys, tuple(entry.shape), np.dtype(entry.dtype))
        tensors[checkpoint_name(keys)] = transposed(
            stored, checkpoint_axes(keys, len(stored.shape))
        )
    return tensors


def restore_orbax(
    folder: Path,
    wanted: Mapping[ParameterPath, jax.ShapeDtypeStruct],
    places: Mapping[ParameterPath, Any],
) -> dict[ParameterPath, jax.Array]:
    """Reads a checkpoint straight into (sharded) arrays; each process reads only its own part.

    Args:
        folder: the checkpoint.
        wanted: shape and dtype of every parameter by path.
        places: sharding by path; None is the default device.
    """
    import orbax.checkpoint as ocp

    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    arguments = {
        path: ocp.ArrayRestoreArgs(dtype=struct.dtype, sharding=places[path] or here)
        for path, struct in wanted.items()
    }
    request = ocp.args.PyTreeRestore(restore_args=nested(arguments, str))
    with ocp.PyTreeCheckpointer() as checkpointer:
        values = flat(checkpointer.restore(folder.absolute(), args=request))
    return {path: values[tuple(map(str, path))] for path in wanted}


def write_orbax(folder: Path, parameters: Mapping[ParameterPath, Any]) -> None:
    """Writes arrays (numpy's, or JAX's, sharded or not) by parameter path.

    Orbax gives the folder its name when it is complete.
    """
    import orbax.checkpoint as ocp

    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), nested(parameters, str), force=True)


def flat(tree: Any, path: tuple = ()) -> dict[tuple, Any]:
    """Flattens nested dicts to {path: leaf}."""
    if not isinstance(tree, dict):
        return {path: tree}
    items = [flat(branch, (*path, name)) for name, branch in tree.items()]
    return {key: leaf for item in items for key, leaf in item.items()}


def nested(leaves: Mapping[tuple, Any], key_type: type | None = None) -> dict[Any, Any]:
    """Nests {path: leaf} into dicts, with keys as they are or made `key_type`."""
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        keys = tuple(map(key_type, path)) if key_type else path
        branch = tree
        for key in keys[:-1]:
            branch = branch.setdefault(key, {})
        branch[keys[-1]] = leaf
    return tree
