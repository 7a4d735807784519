"""Compiled programs that outlive the process: XLA's cache on disk, and traced programs in files."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
from jax.experimental.compilation_cache import compilation_cache

from brushjax import identity
from brushjax.files import write_bytes

MINIMUM = "jax_persistent_cache_min_compile_time_secs"


def use_compilation_cache(folder: str | Path | None = None) -> Path | None:
    """Has XLA keep what it compiles on disk, so that the next process need not compile it again.

    A folder that JAX was told already (JAX_COMPILATION_CACHE_DIR, jax.config) stays, unless one is
    given here; JAX_ENABLE_COMPILATION_CACHE=false turns all of it off.

    Args:
        folder: None takes one for this kind of processor below brushjax/xla in the user's cache
            folder (XDG_CACHE_HOME or ~/.cache).

    Returns:
        The folder in use; None if the cache is off.
    """
    settings: Any = jax.config
    if not settings.jax_enable_compilation_cache:
        return None
    if folder is None and settings.jax_compilation_cache_dir:
        return Path(settings.jax_compilation_cache_dir)
    if folder is None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(home) / "brushjax/xla" / _processor()
    folder = Path(folder).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if MINIMUM.upper() not in os.environ:
        jax.config.update(MINIMUM, 0.05)  # JAX's is a second: a start compiles many below it
    if settings.jax_compilation_cache_dir != str(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        compilation_cache.reset_cache()  # what has compiled already has opened the folder before
    return folder


def kept_programs() -> Path | None:
    """Returns where commands keep their programs between two calls: in XLA's cache.

    None where that is off, and on accelerators, some of whose kernels can't be kept this way.
    """
    cache = use_compilation_cache()
    return None if cache is None or jax.default_backend() != "cpu" else cache / "programs"


class SavedPrograms:
    """Programs traced and lowered once, kept as files, found again by what they were made for.

    A file holds StableHLO, nothing that is run while it is read; XLA's cache beside it holds the
    machine code. Together they spare a new process tracing, lowering and compiling.
    """

    def __init__(self, folder: str | Path):
        """Opens the folder; it is made if need be.

        Args:
            folder: also becomes the folder of XLA's cache, so that copying it moves everything;
                that of `kept_programs` lies in the cache already.
        """
        self._folder = Path(folder)
        if self._folder != kept_programs():
            use_compilation_cache(self._folder / "xla")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._loaded: dict[str, Callable[..., Any]] = {}

    def __call__(
        self, key: Any, function: Callable[..., Any], arguments: Sequence[Any], devices: int = 1
    ) -> Any:
        """Calls `function` on arrays, through its saved program.

        Args:
            key: what the function depends on beside its arguments' shapes; its repr must tell two
                different ones apart.
            function: of arrays, to a tree of arrays, whose own classes are `savable`.
            arguments: placed on the devices already, if those are several.
        """
        name = _name(key, arguments, devices)
        if name not in self._loaded:
            path = self._folder / f"{name}.program"
            if not path.exists():
                exported = jax.export.export(jax.jit(function))(*arguments)
                write_bytes(path, bytes(exported.serialize()))
            # Also the first time through the file: the program that is compiled is the same then.
            exported = _read(path)
            self._loaded[name] = jax.jit(exported.call)
        return self._loaded[name](*arguments)


def savable(*kinds: type) -> None:
    """Lets programs that take or give these dataclasses, of arrays alone, be saved."""
    for kind in kinds:
        jax.export.register_pytree_node_serialization(
            kind,
            serialized_name=f"brushjax.{kind.__name__}",
            serialize_auxdata=lambda _: b"",
            deserialize_auxdata=lambda _: (),
        )


def _read(path: Path) -> jax.export.Exported:
    try:
        return jax.export.deserialize(bytearray(path.read_bytes()))
    except Exception as error:  # damaged bytes fail in flatbuffers, in the compiler or in between
        raise ValueError(f"{path} is damaged ({error}); delete it to have it made again") from error


def _name(key: Any, arguments: Sequence[Any], devices: int) -> str:
    shapes = [(jax.numpy.shape(x), str(jax.numpy.result_type(x))) for x in arguments]
    where = [str(getattr(x, "sharding", None)) for x in arguments] if devices > 1 else []
    versions = (jax.__version__, importlib.metadata.version("jaxlib"), jax.default_backend())
    made = (versions, identity.code(), dict(identity.numerics()))
    text = repr((made, key, shapes, devices, where))
    text = re.sub(r"0x[0-9a-f]+", "", text)  # addresses of functions that a network holds
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _processor() -> str:
    """Tells kinds of processor apart: machine code for one may not run on another."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    kind = next((line for line in lines if line.startswith(("flags", "Features"))), lines[0])
    return f"{platform.machine()}-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
