"""What a stored result is known by: digests of texts, arrays and code, and the settings of JAX that
change numbers."""

from __future__ import annotations

import functools
import hashlib
import sys
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


def outside(function: Any) -> str:
    """A digest of the code that a function of another package, or of a file alone, belongs to;
    empty for one of this package."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__module__", type(function).__module__)
    return "" if name.partition(".")[0] == PACKAGE.name else _code_of(name)


@functools.cache
def _code_of(module: str) -> str:
    """A digest of a module's file or, of one in a package, of all files beside it."""
    file = getattr(sys.modules[module], "__file__", None)
    if file is None:
        return f"{module} has no file"
    files = sorted(Path(file).parent.glob("*.py")) if "." in module else [Path(file)]
    return digest(*(part for path in files for part in (path.name, path.read_bytes())))


def numerics() -> Mapping[str, Any]:
    """The settings of JAX that change numbers, as they are here and now."""
    import jax

    return {name: getattr(jax.config, name) for name in NUMERIC}
