"""Samples in ArrayRecord shards: one record a sample, its members in safetensors layout."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from brushjax.config import ConfigError
from brushjax.data.faults import Fault
from brushjax.data.sources.files import File, is_remote
from brushjax.data.sources.origins import Origin, origins_of, whole
from brushjax.files import whole_file

RANDOM_ACCESS = "group_size:1,uncompressed"  # pictures don't shrink, and a group is read as a whole


class Unindexed:
    """Samples in files without an index: reading one tells what it has, and each stands for itself.

    Attributes:
      files: that the samples are made from.
    """

    @functools.cached_property
    def files(self) -> list[File]:
        raise NotImplementedError

    def origins(self) -> list[Origin]:
        """Returns the files by cheap marks."""
        return origins_of(self.files)

    def content(self, n: int) -> str:
        """Returns a digest of file n."""
        return whole(self.files[n])

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        del needed
        return {}

    def lost(self, n: int) -> int:
        del n
        return 1

    def members(self) -> dict[str, tuple[int, str]]:
        return {}


class RecordCollection(Unindexed):
    """The samples of some ArrayRecord files, in the order of their names.

    Args:
      files: on this machine or mounted; ArrayRecord reads no remote ones.
    Raises: ConfigError for a remote file.
    """

    kind = "records of ArrayRecord files"

    def __init__(self, files: Sequence[File]):
        remote = [file.path for file in files if is_remote(file.path)]
        if remote:
            raise ConfigError(
                f"expected ArrayRecord files on this machine or mounted, got {remote[0]}; tars are "
                "read from anywhere"
            )
        self.files = list(files)
        self._records = _open([file.path for file in files])

    def __len__(self) -> int:
        return len(self._records)

    def name(self, n: int) -> str:
        return f"record {n} of {self.files[0].name} and the files after it"

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        try:
            members = unpack(self._records[n])
        except (SafetensorError, RuntimeError, ValueError) as error:
            raise Fault("unreadable member", str(error)) from error
        return select(members, needed, optional)


def select(
    members: Mapping[str, bytes], needed: Sequence[str], optional: Sequence[str]
) -> dict[str, bytes]:
    """Returns the needed members, and those of the optional ones that are there.

    Raises: Fault if a needed one is missing.
    """
    for name in needed:
        if name not in members:
            raise Fault("missing member", name)
    return {name: members[name] for name in (*needed, *optional) if name in members}


def pack(members: Mapping[str, bytes]) -> bytes:
    """Returns one record."""
    return save({name: np.frombuffer(data, np.uint8) for name, data in members.items()})


def unpack(record: bytes) -> dict[str, bytes]:
    """Returns the members of a record."""
    return {name: array.tobytes() for name, array in load(record).items()}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], Any]]:
    """Gives a function that adds a record to an ArrayRecord file, which appears, whole, once the
    block ends without an error."""
    from array_record.python import (
        array_record_module,  # pyright: ignore[reportAttributeAccessIssue] - compiled
    )

    with whole_file(path) as unfinished:
        writer = array_record_module.ArrayRecordWriter(str(unfinished), RANDOM_ACCESS)
        try:
            yield writer.write
        finally:
            writer.close()


def _open(paths: Sequence[str]) -> Any:
    import grain

    return grain.sources.ArrayRecordDataSource(list(paths))
