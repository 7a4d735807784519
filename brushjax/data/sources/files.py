"""Files on this machine, or anywhere that fsspec reaches (gs://, s3://, hf:// ...), read in
pieces."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Any

from brushjax.config import ConfigError


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        path: local, or with its protocol.
        size: bytes.
        version: changes when the content does, as far as the place tells.
    """

    path: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]


def is_remote(path: str) -> bool:
    """Says whether a path names its protocol."""
    return "://" in path


def find(pattern: str) -> list[File]:
    """Lists the files that match a pattern with * and ?, by name; a plain path is itself.

    Raises: FileNotFoundError if nothing matches.
    """
    if is_remote(pattern):
        found = _find_remote(pattern)
    else:
        names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
        found = [local(name) for name in names if os.path.isfile(name)]
    if not found:
        raise FileNotFoundError(f"expected files at {pattern}, found none")
    return found


def local(path: str) -> File:
    """Returns a file of this machine.

    Raises: OSError if there is none.
    """
    state = os.stat(path)
    return File(path, state.st_size, str(state.st_mtime_ns))


def _find_remote(pattern: str) -> list[File]:
    system, inside = _system(pattern)
    if system.isfile(inside):
        details = {inside: system.info(inside)}
    else:
        details = system.glob(inside, detail=True)
    return [
        File(system.unstrip_protocol(name), int(info["size"]), _version(info))
        for name, info in sorted(details.items())
        if info.get("type") == "file"
    ]


def _version(info: dict[str, Any]) -> str:
    """The first mark of the content that a file system gives: a hash, or else a time."""
    marks = ("etag", "ETag", "md5Hash", "blob_id", "generation", "updated", "LastModified", "mtime")
    return str(next((info[mark] for mark in marks if info.get(mark)), "created"))


def _system(path: str) -> tuple[Any, str]:
    """Returns the file system of a path, and the path inside it.

    Raises: ConfigError if fsspec, or what it needs for this protocol, is not installed.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(path)
    except ImportError as error:
        protocol = path.split("://")[0]
        package = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}.get(protocol, "fsspec")
        raise ConfigError(
            f"reading {protocol}:// paths needs: pip install -e '.[data]' {package} ({error})"
        ) from error


def read(path: str, offset: int, length: int) -> bytes:
    """Returns `length` bytes of a file from `offset` on, or fewer where it ends.

    Local files are opened every time: collections have more files than a process may hold open.

    Raises: OSError if the file can't be read.
    """
    if is_remote(path):
        system, inside = _system(path)
        try:
            return system.cat_file(inside, start=offset, end=offset + length)
        except Exception as error:  # each file system has error classes of its own
            raise OSError(f"{path}: {type(error).__name__}: {error}") from error
    with open(path, "rb", buffering=0) as file:
        return os.pread(file.fileno(), length, offset)


def stream(path: str) -> Any:
    """Opens a file to be read here and there, mostly forwards."""
    if is_remote(path):
        system, inside = _system(path)
        return system.open(inside, "rb", block_size=1 << 18, cache_type="readahead")
    return open(path, "rb")
