"""Uncompressed WebDataset tars, read in place: any sample, in any order, without unpacking.

A tar's index (which member lies where) is made once and kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from brushjax.data.faults import Fault
from brushjax.data.sources import files as storage
from brushjax.data.sources.files import File
from brushjax.files import whole_file

MEMBERS = ("image", "caption", "height", "width", "segmentation")
ABSENT, CUT, UNREADABLE = -1, -2, -3  # in place of a size
FORMAT = 1  # of the index files; another number makes them anew
HEADERS_AT_ONCE = 8  # tars: their headers are small and, over a network, slow
GAPS = 1 << 16  # bytes between members that are read along rather than asked for apart
KEY = 96  # bytes of a sample's name that the index keeps

Row = list[tuple[int, int]]


def default_cache() -> Path:
    """Returns the folder that keeps indices where a config names none."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "brushjax" / "tars"


class TarCollection:
    """The samples of some tars, numbered in the order of the tars' names and of their members.

    Args:
      files: the tars.
      cache: folder of the indices.
    Raises: OSError if the cache folder can't be written.
    """

    def __init__(self, files: Sequence[File], cache: Path):
        self.files = list(files)
        self._paths = _make_indices(self.files, cache)
        self._load()

    def _load(self) -> None:
        # Mapped, not read: all processes of a host share one copy.
        self._indices = [np.load(path, mmap_mode="r") for path in self._paths]
        self._ends = np.cumsum([len(index) for index in self._indices])

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "_paths": self._paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._load()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, n: int) -> str:
        """Returns tar and key of sample n."""
        tar, row = self._place(n)
        key = self._indices[tar][row]["key"].decode("utf-8", "replace")
        return f"{self.files[tar].name}/{key}"

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        """Returns {sample: cause} of those whose needed members are not all there."""
        columns = [MEMBERS.index(name) for name in needed]
        found = {}
        start = 0
        for index in self._indices:
            sizes = index["size"][:, columns]
            for row in np.flatnonzero((sizes < 0).any(1)):
                worst = int(sizes[row].min())
                cause = {UNREADABLE: "unreadable tar", CUT: "truncated tar"}
                found[start + int(row)] = cause.get(worst, "missing member")
            start += len(index)
        return found

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        """Returns the needed members of sample n, and those of the optional ones that are there.

        Raises: Fault if a needed one is missing, or one can't be read.
        """
        tar, row = self._place(n)
        entry = self._indices[tar][row]
        places = {}
        for name in (*needed, *optional):
            column = MEMBERS.index(name)
            offset, size = int(entry["offset"][column]), int(entry["size"][column])
            if size >= 0:
                places[name] = (offset, size)
            elif name in needed:
                raise Fault("missing member", name)
        return _pieces(self.files[tar].path, places)

    def _place(self, n: int) -> tuple[int, int]:
        if not 0 <= n < len(self):
            raise IndexError(f"expected a sample below {len(self)}, got {n}")
        tar = int(np.searchsorted(self._ends, n, side="right"))
        return tar, n - int(self._ends[tar]) + len(self._indices[tar])


def _pieces(path: str, places: dict[str, tuple[int, int]]) -> dict[str, bytes]:
    """Reads {name: (offset, size)} of a file, in one go where the pieces lie close together: over a
    network every request costs some milliseconds.

    Raises: Fault if that fails.
    """
    if not places:
        return {}
    start = min(offset for offset, _ in places.values())
    end = max(offset + size for offset, size in places.values())
    if end - start > sum(size for _, size in places.values()) + GAPS:
        return {name: _pieces(path, {name: place})[name] for name, place in places.items()}
    try:
        data = storage.read(path, start, end - start)
    except OSError as error:
        raise Fault("unreadable member", str(error)) from error
    if len(data) != end - start:
        raise Fault("unreadable member", f"{len(data)} bytes at {start} instead of {end - start}")
    return {name: data[at - start : at - start + size] for name, (at, size) in places.items()}


def _make_indices(files: Sequence[File], cache: Path) -> list[Path]:
    """Returns the index file of each tar, making those that are missing."""
    paths = [cache / f"{_fingerprint(file)}.npy" for file in files]
    missing = [(file, path) for file, path in zip(files, paths) if not path.exists()]
    if missing:
        cache.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(HEADERS_AT_ONCE) as pool:
            made = pool.map(lambda pair: _make_index(*pair), missing)
            list(tqdm(made, total=len(missing), desc="indexing tars", unit="tar"))
    return paths


def _fingerprint(file: File) -> str:
    text = f"{FORMAT}|{os.path.abspath(file.path)}|{file.size}|{file.version}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _make_index(file: File, path: Path) -> None:
    """Writes the index of one tar; it appears as a whole or not at all."""
    rows = index_tar(file)
    with whole_file(path) as unfinished, unfinished.open("wb") as out:
        np.save(out, rows, allow_pickle=False)


def index_tar(file: File) -> np.ndarray:
    """Lists the samples of a tar: key, and offset and size of each member in bytes.

    Members of a sample follow each other and share the name up to the first dot after the folder.
    Where the tar is cut off, its last row has the size CUT; where it can't be read at all, its only
    row has the size UNREADABLE.
    """
    samples: list[tuple[bytes, Row]] = []
    whole = False
    try:
        with storage.stream(file.path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in _headers(tar):
                _take(samples, info, file.size)
            whole = _ends_well(stream, tar.offset, file.size)
    except (tarfile.TarError, EOFError):
        pass  # as for any other end before the end mark
    marked = bool(samples) and any(size == CUT for _, size in samples[-1][1])
    if not whole and not marked:
        samples.append((b"?", [(0, CUT if samples else UNREADABLE)] * len(MEMBERS)))
    return _as_array(samples)


def _headers(tar: tarfile.TarFile):
    """Yields the members without keeping them, as iterating over the tar would."""
    while (info := tar.next()) is not None:
        yield info
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]


def _take(samples: list[tuple[bytes, Row]], info: tarfile.TarInfo, size: int) -> None:
    """Adds a member to the last sample, or to a new one."""
    folder, _, base = info.name.rpartition("/")
    stem, _, kind = base.partition(".")
    if not info.isfile() or kind.lower() not in MEMBERS:
        return
    key = (f"{folder}/{stem}" if folder else stem).encode("utf-8", "replace")[-KEY:]
    if not samples or samples[-1][0] != key:
        samples.append((key, [(0, ABSENT)] * len(MEMBERS)))
    cut = info.offset_data + info.size > size
    samples[-1][1][MEMBERS.index(kind.lower())] = (info.offset_data, CUT if cut else info.size)


def _ends_well(stream: Any, offset: int, size: int) -> bool:
    """Says whether the headers ended at the end mark, or, where there is none, with the file.

    tarfile ends just as silently at a header that it can't read.
    """
    stream.seek(offset)
    rest = stream.read(tarfile.BLOCKSIZE)
    return offset == size or rest == tarfile.NUL * tarfile.BLOCKSIZE


def _as_array(samples: list[tuple[bytes, Row]]) -> np.ndarray:
    n = len(MEMBERS)
    width = max([len(key) for key, _ in samples], default=1)
    kind = [("key", f"S{width}"), ("offset", np.int64, (n,)), ("size", np.int64, (n,))]
    rows = np.zeros(len(samples), kind)
    for row, (key, members) in zip(rows, samples):
        row["key"] = key
        row["offset"], row["size"] = np.array(members, np.int64).T
    return rows
