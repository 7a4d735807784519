"""Weights as the Flax classes of diffusers and transformers wrote them: one msgpack file.

Both libraries have dropped these classes, so nothing of theirs reads the files any more. Parameter
paths and axes are those of our own modules, but for the numbers in lists: `resnets_1`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from brushjax.weights.checkpoints import flat
from brushjax.weights.rules import WeightsError, checkpoint_axes, checkpoint_name
from brushjax.weights.store import ArrayTensor, Tensor, transposed

# A module of a list, such as down_blocks_0; time_embedding.linear_1 is a name of its own.
NUMBERED = re.compile(r"^(?!linear_)(.+)_(\d+)$")
# What the Flax classes' config.json has beside the settings of the PyTorch classes.
OWN_SETTINGS = frozenset(
    ("dtype", "from_pt", "param_dtype", "split_head_dim", "use_memory_efficient_attention")
)


def is_flax(head: bytes) -> bool:
    """Whether a file's first bytes open a msgpack map whose first key is a string."""
    is_map, key = head[:1], head[1:2]
    if is_map in (b"\xde", b"\xdf"):
        key = head[3:4] if is_map == b"\xde" else head[5:6]
    elif not b"\x81" <= is_map <= b"\x8f":
        return False
    return b"\xa1" <= key <= b"\xbf" or key in (b"\xd9", b"\xda")


def read_flax(path: Path) -> dict[str, Tensor]:
    """Returns a file's tensors by checkpoint name, with checkpoint order of axes.

    Raises:
        WeightsError: the file is damaged.
    """
    from flax import serialization

    try:
        tree: Any = serialization.msgpack_restore(path.read_bytes())
    except (ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"{path} is no msgpack file of Flax weights, or it is cut short ({error}). Download it "
            "again."
        ) from error
    leaves = flat(tree["params"] if isinstance(tree.get("params"), dict) else tree)
    tensors: dict[str, Tensor] = {}
    for keys, value in leaves.items():
        if not hasattr(value, "shape"):
            raise WeightsError(f"{path}: {'.'.join(map(str, keys))} is no array; damaged file.")
        names = tuple(NUMBERED.sub(r"\1.\2", str(key)) for key in keys)
        axes = checkpoint_axes(names, value.ndim)
        tensors[checkpoint_name(names)] = transposed(ArrayTensor(value), axes)
    return tensors


def as_pytorch(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a Flax class's config as the PyTorch class of the same network has it."""
    named = str(config.get("_class_name", ""))
    inner = [str(name) for name in config.get("architectures") or ()]
    if not named.startswith("Flax") and not any(name.startswith("Flax") for name in inner):
        return config
    kept = {name: value for name, value in config.items() if name not in OWN_SETTINGS}
    if named:
        kept["_class_name"] = named.removeprefix("Flax")
    if inner:
        kept["architectures"] = [name.removeprefix("Flax") for name in inner]
    return kept
