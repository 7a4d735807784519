"""What a stored result is known by: digests of texts, arrays and code, and the settings of JAX that
change numbers."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = Path(__file__).parent
NUMERIC = (
    "jax_default_matmul_precision",
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
)
"""Settings of jax.config with which the same code gives other numbers."""


def digest(*parts: str | bytes) -> str:
    """Twenty hexadecimal digits of SHA-256 over parts, each with its length."""
    hashed = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        hashed.update(f"{len(data)}:".encode())
        hashed.update(data)
    return hashed.hexdigest()[:20]


def arrays(tree: Any) -> str:
    """A digest of a tree of arrays: their paths, types, shapes and values."""
    import jax  # here: many that need a digest need no JAX

    hashed = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        hashed.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).view(np.uint8).data)
    return hashed.hexdigest()[:20]


@functools.cache
def code(without: tuple[str, ...] = ()) -> str:
    """A digest of this package's Python files, without those of some of its folders."""
    hashed = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(tuple(f"{folder}/" for folder in without)):
            hashed.update(name.encode() + path.read_bytes())
    return hashed.hexdigest()[:20]


def numerics() -> Mapping[str, Any]:
    """The settings of JAX that change numbers, as they are here and now."""
    import jax

    return {name: getattr(jax.config, name) for name in NUMERIC}
