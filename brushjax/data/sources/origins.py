"""What tells whether stored samples still are those of their files, without reading all of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import Protocol, runtime_checkable

from brushjax.data.sources.files import File, is_remote, read
from brushjax.identity import digest

BLOCK = 4096  # bytes that are looked at in each place
SPACING = 1 << 24  # bytes between two places, if that makes neither too few nor too many
FEWEST, MOST = 8, 64  # places
THREADS = 16  # a network answers them at once
PIECE = 1 << 24  # bytes read at once


@dataclasses.dataclass(frozen=True)
class Origin:
    """One file that samples are made from.

    Attributes:
        name: path below the folder that holds all of them.
        size: bytes.
        version: as of `File`; differs after a copy, too.
        sampled: digest of the bytes in some places, spread over the file; empty for remote files,
            whose version stands for the content.
        content: digest of what training reads of it; empty where it was not computed.
    """

    name: str
    size: int
    version: str
    sampled: str
    content: str = ""


@runtime_checkable
class Originating(Protocol):
    """A collection that knows its files."""

    def origins(self) -> list[Origin]:
        """Returns its files, by cheap marks."""
        ...

    def content(self, n: int) -> str:
        """Returns a digest of what training reads of file n."""
        ...


def origins_of(files: Sequence[File]) -> list[Origin]:
    """Returns files by their cheap marks."""
    above = os.path.commonpath([os.path.dirname(file.path) for file in files]) if files else ""
    with ThreadPoolExecutor(THREADS) as pool:
        samples = list(pool.map(sampled, files))
    return [
        Origin(PurePosixPath(os.path.relpath(f.path, above)).as_posix(), f.size, f.version, sample)
        for f, sample in zip(files, samples)
    ]


def sampled(file: File) -> str:
    """Returns a digest of the bytes in some places of a local file.

    Raises: OSError if it can't be read.
    """
    if is_remote(file.path):
        return ""
    places = min(MOST, max(FEWEST, file.size // SPACING))
    last = max(file.size - BLOCK, 0)
    return digest(*(read(file.path, last * n // (places - 1), BLOCK) for n in range(places)))


def whole(file: File) -> str:
    """Returns a digest of all bytes of a file.

    Raises: OSError if it can't be read.
    """
    pieces = range(0, max(file.size, 1), PIECE)
    return digest(*(digest(read(file.path, start, PIECE)) for start in pieces))


def with_content(collection: Originating) -> list[Origin]:
    """Returns a collection's files with the digests of their content, to be kept."""
    found = collection.origins()
    with ThreadPoolExecutor(THREADS) as pool:
        contents = pool.map(collection.content, range(len(found)))
        return [dataclasses.replace(o, content=text) for o, text in zip(found, contents)]


def changes(kept: Sequence[Origin], collection: Originating) -> list[str]:
    """Returns a line for each file that is not what it was when `kept` was written.

    A file whose version alone has changed, as a copy's does, is read.
    """
    before = {origin.name: origin for origin in kept}
    found = collection.origins()
    lines = [f"{name}: is gone" for name in before.keys() - {origin.name for origin in found}]
    for n, now in enumerate(found):
        old = before.get(now.name)
        if old is None:
            lines.append(f"{now.name}: is new")
        elif now.size != old.size:
            lines.append(f"{now.name}: {old.size} -> {now.size} bytes")
        elif now.sampled != old.sampled or _is_other(now, old, collection, n):
            lines.append(f"{now.name}: other content")
    if not lines and [origin.name for origin in found] != list(before):
        lines.append("the files come in another order")
    return sorted(lines)


def _is_other(now: Origin, old: Origin, collection: Originating, n: int) -> bool:
    return now.version != old.version and collection.content(n) != old.content
