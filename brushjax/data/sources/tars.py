"""Uncompressed WebDataset tars, read in place: any sample, in any order, without unpacking.

A tar's index (which member lies where) is made once and kept in a cache folder. Members are named
as BrushData's are, or as img2dataset and most tutorials name them: see KINDS.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.data.faults import Fault
from brushjax.data.sources import files as storage
from brushjax.data.sources.captions import decoded
from brushjax.data.sources.files import File
from brushjax.data.sources.origins import Origin, origins_of, sampled
from brushjax.files import whole_file, write_json
from brushjax.identity import digest
from brushjax.progress import progress_bar

MEMBERS = ("image", "caption", "height", "width", "segmentation")
IN_JSON = "json"  # holds the caption among other things
COLUMNS = (*MEMBERS, IN_JSON)
KINDS = {
    **{name: name for name in COLUMNS},
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    "txt": "caption",
}
"""{what stands behind a name's last dot: the column}"""
WANTED = "image (or jpg, jpeg, png, webp) and caption (or txt, json)"
ABSENT, CUT, UNREADABLE = -1, -2, -3  # in place of a size
FORMAT = 3  # of the index files; another number makes them anew
HEADERS_AT_ONCE = 8  # tars: their headers are small and, over a network, slow
GAPS = 1 << 16  # bytes between members that are read along rather than asked for apart
KEY = 96  # bytes of a sample's name that the index keeps
HIDDEN = "(hidden)"  # kind of a member whose name begins with a dot
UNREAD = b"?"  # key of a row that stands for what can't be read

Row = list[tuple[int, int]]
Found = dict[str, tuple[int, str]]
"""{kind of member: how many there are, and the first one's name}"""


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

    kind = "samples of tars"

    def __init__(self, files: Sequence[File], cache: Path):
        self.files = list(files)
        self._paths = _make_indices(self.files, cache)
        self._load()

    def _load(self) -> None:
        # Mapped, not read: all processes of a host share one copy.
        self._indices = [np.load(path, mmap_mode="r") for path in self._paths]
        self._ends = np.cumsum([len(index) for index in self._indices])

    def members(self) -> Found:
        """Returns the kinds of members that the tars hold, known or not."""
        total: Found = {}
        for path in self._paths:
            for kind, (count, name) in json.loads(_kinds_file(path).read_text()).items():
                before, first = total.get(kind, (0, name))
                total[kind] = (before + count, first)
        return total

    def lost(self, n: int) -> int:
        """Returns about how many samples row n stands for: 1, or, where the rest of a tar can't be
        read, as many as that many bytes hold in the rest of the collection."""
        tar, row = self._place(n)
        entry = self._indices[tar][row]
        if entry["key"] != UNREAD:
            return 1
        whole = sum(int(i["size"][i["size"] > 0].sum()) for i in self._indices)
        rows = sum(int((i["size"][:, 0] >= 0).sum()) for i in self._indices)
        return max(1, round(int(entry["offset"][0]) * rows / whole)) if whole else 1

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

    def origins(self) -> list[Origin]:
        """Returns the tars by cheap marks."""
        return origins_of(self.files)

    def content(self, n: int) -> str:
        """Returns a digest of tar n: where its members lie, and all but the pictures' own bytes."""
        index, path = self._indices[n], self.files[n].path
        texts = [column for column, name in enumerate(COLUMNS) if name != "image"]
        read = [
            storage.read(path, int(row["offset"][column]), int(row["size"][column]))
            for row in index
            for column in texts
            if row["size"][column] >= 0
        ]
        return digest(index.tobytes(), *read, sampled(self.files[n]))

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        """Returns {sample: cause} of those whose needed members are not all there."""
        found = {}
        start = 0
        for index in self._indices:
            sizes = np.stack([_sizes(index, name) for name in needed], axis=1)
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
            member = name if name != "caption" or _size(entry, name) >= 0 else IN_JSON
            if _size(entry, member) >= 0:
                column = COLUMNS.index(member)
                places[member] = int(entry["offset"][column]), int(entry["size"][column])
            elif name in needed:
                raise Fault("missing member", name)
        members = _pieces(self.files[tar].path, places)
        if IN_JSON in members:
            members["caption"] = _caption_in(members.pop(IN_JSON))
        return members

    def _place(self, n: int) -> tuple[int, int]:
        if not 0 <= n < len(self):
            raise IndexError(f"expected a sample below {len(self)}, got {n}")
        tar = int(np.searchsorted(self._ends, n, side="right"))
        return tar, n - int(self._ends[tar]) + len(self._indices[tar])


def _size(entry: Any, name: str) -> int:
    return int(entry["size"][COLUMNS.index(name)])


def _sizes(index: np.ndarray, name: str) -> np.ndarray:
    """Sizes of a member, int64 [samples]; negative where it can't be had."""
    sizes = index["size"][:, COLUMNS.index(name)]
    if name != "caption":
        return sizes
    return np.where(sizes >= 0, sizes, np.maximum(sizes, index["size"][:, -1]))


def _caption_in(data: bytes) -> bytes:
    """The caption out of a JSON member: the text itself, or its "caption" or "text".

    Raises: Fault if there is none.
    """
    try:
        found = json.loads(decoded(data)[0])
    except (ValueError, RecursionError) as error:
        raise Fault("bad caption", f"no JSON: {error}") from error
    if isinstance(found, dict):
        found = next((found[name] for name in ("caption", "text") if name in found), None)
    if not isinstance(found, str):
        raise Fault("bad caption", f'expected JSON with a text as "caption", got {data[:60]!r}')
    return found.encode("utf-8", "replace")


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
            list(progress_bar(made, "indexing tars", total=len(missing), unit="tar"))
    return paths


def _fingerprint(file: File) -> str:
    text = f"{FORMAT}|{os.path.abspath(file.path)}|{file.size}|{file.version}|{sampled(file)}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _kinds_file(index: Path) -> Path:
    return index.with_suffix(".json")


def _make_index(file: File, path: Path) -> None:
    """Writes the index of one tar; it appears as a whole or not at all."""
    rows, kinds = index_tar(file)
    write_json(_kinds_file(path), kinds)  # first: an index without its kinds would not be read
    with whole_file(path) as unfinished, unfinished.open("wb") as out:
        np.save(out, rows, allow_pickle=False)


def index_tar(file: File) -> tuple[np.ndarray, Found]:
    """Lists the samples of a tar: key, and offset and size of each member in bytes; and the kinds
    of all its members.

    A member's kind is what stands behind the last dot of its name, its sample's key what stands
    before. Members of a sample may stand apart. Where the tar is cut off, its last row has the size
    CUT; where it can't be read at all, its only row has the size UNREADABLE. A row of what can't be
    read has the key UNREAD, and for offset the number of bytes from there to the tar's end.
    """
    samples = _Samples()
    whole, end = False, 0
    try:
        with storage.stream(file.path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in _headers(tar):
                samples.add(info, file.size)
                end = info.offset_data + info.size
            end = tar.offset
            whole = _ends_well(stream, end, file.size)
    except (tarfile.TarError, EOFError):
        pass  # as for any other end before the end mark
    rows = samples.rows()
    if not whole and not samples.cut:
        size = CUT if rows else UNREADABLE
        rows.append((UNREAD, [(max(0, file.size - end), size)] * len(COLUMNS)))
    return _as_array(rows), samples.kinds


def _headers(tar: tarfile.TarFile):
    """Yields the members without keeping them, as iterating over the tar would."""
    while (info := tar.next()) is not None:
        yield info
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]


class _Samples:
    """The samples of a tar while its headers are read.

    Attributes:
      kinds: of all members.
      cut: the last member's end is missing.
    """

    def __init__(self):
        self.kinds: Found = {}
        self.cut = False
        self._samples: list[tuple[str, dict[str, tuple[str, int, int]]]] = []
        self._newest: dict[str, int] = {}

    def add(self, info: tarfile.TarInfo, size: int) -> None:
        """Takes a member: into the newest sample of its key, or, where that has one already, into
        another of the same key."""
        if not info.isfile():
            return
        key, kind = _split(info.name)
        self._count(kind, info.name)
        if kind not in KINDS:
            return
        column, cut = KINDS[kind], info.offset_data + info.size > size
        number = self._newest.get(key, -1)
        before = self._samples[number][1].get(column) if number >= 0 else None
        if before is not None and before[0] != kind:  # a.png beside a.jpg: the first is the image
            return
        if number < 0 or before is not None:
            self._newest[key] = number = len(self._samples)
            self._samples.append((key, {}))
        self._samples[number][1][column] = kind, info.offset_data, CUT if cut else info.size
        self.cut |= cut

    def rows(self) -> list[tuple[bytes, Row]]:
        """Returns key, offsets and sizes; not those of `photo.mask.png` beside a whole `photo`,
        whose kind, `mask.png`, is unknown."""
        rows = []
        for key, members in self._samples:
            plain = _first_dot(key)
            if plain != key and plain in self._newest and len(members) == 1:
                kind = f"{key[len(plain) + 1 :]}.{next(iter(members.values()))[0]}"
                self._count(kind, f"{plain}.{kind}")
                continue
            places = [members.get(name, ("", 0, ABSENT))[1:] for name in COLUMNS]
            rows.append((key.encode("utf-8", "replace")[-KEY:], places))
        return rows

    def _count(self, kind: str, name: str) -> None:
        count, first = self.kinds.get(kind, (0, name))
        self.kinds[kind] = (count + 1, first)


def _split(name: str) -> tuple[str, str]:
    """Key and kind of a member, apart at the last dot."""
    if name.rpartition("/")[2].startswith("."):  # such as the ._ twins that macOS packs
        return name, HIDDEN
    key, _, kind = name.rpartition(".")
    return key, kind.lower()


def _first_dot(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _ends_well(stream: Any, offset: int, size: int) -> bool:
    """Says whether the headers ended at the end mark, or, where there is none, with the file.

    tarfile ends just as silently at a header that it can't read.
    """
    stream.seek(offset)
    rest = stream.read(tarfile.BLOCKSIZE)
    return offset == size or rest == tarfile.NUL * tarfile.BLOCKSIZE


def _as_array(samples: list[tuple[bytes, Row]]) -> np.ndarray:
    n = len(COLUMNS)
    width = max([len(key) for key, _ in samples], default=1)
    kind = [("key", f"S{width}"), ("offset", np.int64, (n,)), ("size", np.int64, (n,))]
    rows = np.zeros(len(samples), kind)
    for row, (key, members) in zip(rows, samples):
        row["key"] = key
        row["offset"], row["size"] = np.array(members, np.int64).T
    return rows
