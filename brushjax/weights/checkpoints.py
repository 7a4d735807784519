"""Weights in Orbax checkpoints of ours: a model's nested parameter dict, in our layout."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.weights.rules import checkpoint_axes, checkpoint_name
from brushjax.weights.rules import Path as ParameterPath
from brushjax.weights.store import Tensor, copy_cast, transposed


@dataclasses.dataclass(frozen=True)
class OrbaxTensor(Tensor):
    """One array of an Orbax checkpoint."""

    folder: Path
    keys: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype

    def fill(self, out: np.ndarray) -> None:
        import orbax.checkpoint as ocp

        request = ocp.args.PyTreeRestore(
            item=_nested(self.keys, 0),
            restore_args=_nested(self.keys, ocp.RestoreArgs(restore_type=np.ndarray)),
            partial_restore=True,
        )
        value = ocp.PyTreeCheckpointer().restore(self.folder.absolute(), args=request)
        for key in self.keys:
            value = value[key]
        copy_cast(out, value)


def read_orbax(folder: Path) -> dict[str, Tensor]:
    """Returns the unread tensors of a checkpoint, by checkpoint name and in checkpoint order of axes."""
    import orbax.checkpoint as ocp

    tree = ocp.PyTreeCheckpointer().metadata(folder.absolute()).item_metadata.tree
    tensors = {}
    for keys, entry in flat(tree).items():
        stored = OrbaxTensor(
            folder, tuple(map(str, keys)), tuple(entry.shape), np.dtype(entry.dtype)
        )
        tensors[checkpoint_name(keys)] = transposed(stored, checkpoint_axes(keys, len(entry.shape)))
    return tensors


def write_orbax(folder: Path, parameters: dict[ParameterPath, Any]) -> None:
    """Writes arrays (numpy's or JAX's, sharded or not) by parameter path. Orbax renames the folder when it is complete."""
    import orbax.checkpoint as ocp

    tree: dict[str, Any] = {}
    for path, value in parameters.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(str(key), {})
        branch[str(path[-1])] = value
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree, force=True)


def flat(tree: Any, path: tuple = ()) -> dict[tuple, Any]:
    """Flattens nested dicts to {path: leaf}."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        key: leaf
        for name, branch in tree.items()
        for key, leaf in flat(branch, (*path, name)).items()
    }


def _nested(keys: tuple[str, ...], leaf: Any) -> Any:
    for key in reversed(keys):
        leaf = {key: leaf}
    return leaf
