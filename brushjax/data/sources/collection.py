"""Where samples are stored: tars, ArrayRecord shards, tensorflow-datasets, or a folder of pictures.

Each gives the same five members of a sample by its number.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brushjax.data.faults import Fault, FaultLog
from brushjax.data.masks import rle
from brushjax.data.sources import mask_files
from brushjax.data.sources.files import File, find, is_remote, local
from brushjax.data.sources.origins import Origin, origins_of, whole
from brushjax.data.sources.records import RecordCollection, select
from brushjax.data.sources.tars import TarCollection, default_cache
from brushjax.identity import digest

CAPTIONS = "captions.jsonl"
RECORDS = (".array_record", ".arrayrecord")


@runtime_checkable
class Collection(Protocol):
    """Stored samples by number; a number names the same sample in every process."""

    def __len__(self) -> int: ...

    def name(self, n: int) -> str:
        """Returns what tells a person which sample this is."""
        ...

    def origins(self) -> list[Origin]:
        """Returns the files that the samples are made from, by cheap marks."""
        ...

    def content(self, n: int) -> str:
        """Returns a digest of what training reads of file n of these."""
        ...

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        """Returns {sample: cause} of those known not to have the needed members."""
        ...

    def lost(self, n: int) -> int:
        """Returns how many samples the faulty number n stands for, about."""
        ...

    def members(self) -> dict[str, tuple[int, str]]:
        """Returns {kind: (count, first name)} of all stored members; empty where it isn't known."""
        ...

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        """Returns the needed members of a sample, and those of the optional ones that are there.

        Raises: Fault if a needed one is missing, or one can't be read.
        """
        ...


def open_collection(path: str, cache: str = "") -> Collection:
    """Opens what lies at a path.

    Args:
      path: a folder, a file or a pattern with * and ?; local, or gs://, s3://, hf:// and so on.
        Tars in WebDataset's layout; ArrayRecord shards (see records.py); a folder with
        captions.jsonl; or a folder that tensorflow-datasets wrote.
      cache: folder for the tars' indices; empty is ~/.cache/brushjax/tars.
    Raises:
      FileNotFoundError: if nothing of these is there; says what was looked for.
    """
    folder = path.rstrip("/")
    if not is_remote(path) and Path(folder).is_dir():
        if (Path(folder) / CAPTIONS).is_file():
            return PictureFolder(Path(folder))
        if (Path(folder) / "dataset_info.json").is_file():
            from brushjax.data.sources.tfds import TfdsCollection

            return TfdsCollection.open(folder)
    if path.endswith(RECORDS):
        return RecordCollection(find(path))
    if path.endswith(".tar"):
        return TarCollection(find(path), Path(cache) if cache else default_cache())
    for ending in (".tar", *RECORDS):
        try:
            files = find(f"{folder}/*{ending}")
        except FileNotFoundError:
            continue
        if ending == ".tar":
            return TarCollection(files, Path(cache) if cache else default_cache())
        return RecordCollection(files)
    raise FileNotFoundError(
        f"expected *.tar, *.array_record, {CAPTIONS} or a tensorflow-datasets folder (with "
        f"dataset_info.json) at {path}; found none of them"
    )


class PictureFolder:
    """A folder of pictures and captions.jsonl, one JSON object a line.

    Each line has "image" (path in the folder) and "caption"; "mask", the path of a mask picture
    (white = object) or a list of such paths, is optional.

    Raises: ValueError if a line is no such object; names it.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._log = FaultLog()
        self._rows = []
        lines = (folder / CAPTIONS).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._rows.append(_row(line, f"{folder / CAPTIONS}, line {number}"))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, n: int) -> str:
        return self._rows[n]["image"]

    def origins(self) -> list[Origin]:
        """Returns the captions, wherever they were read, and the pictures and masks."""
        text = self._captions()
        captions = Origin(CAPTIONS, len(text), mark := digest(text), mark, mark)
        return [captions, *origins_of(self._files)]

    def content(self, n: int) -> str:
        """Returns a digest of the captions (n = 0) or of a picture."""
        return whole(self._files[n - 1]) if n else digest(self._captions())

    def _captions(self) -> str:
        return json.dumps(self._rows)

    @functools.cached_property
    def _files(self) -> list[File]:
        names = [name for row in self._rows for name in (row["image"], *row["mask"])]
        paths = [str(self._folder / name) for name in dict.fromkeys(names)]
        return [file for path in paths if os.path.isfile(path) for file in [local(path)]]

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        missing = {
            n: "missing member"
            for n, row in enumerate(self._rows)
            if not (self._folder / row["image"]).is_file()
        }
        if "segmentation" in needed:
            missing |= {n: "missing member" for n, r in enumerate(self._rows) if not r["mask"]}
        return missing

    def lost(self, n: int) -> int:
        del n
        return 1

    def members(self) -> dict[str, tuple[int, str]]:
        return {}

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        row, names = self._rows[n], {*needed, *optional}
        members = {"caption": row["caption"].encode()}
        if "image" in names:
            members["image"] = self._file(row["image"])
        if row["mask"] and names - {"image", "caption"}:
            members |= self._segmentation(row["mask"])
        return select(members, needed, optional)

    def _file(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise Fault("unreadable member", f"{name}: {error}") from error

    def _segmentation(self, masks: list[str]) -> dict[str, bytes]:
        """Turns mask pictures into the members that a tar has."""
        runs, size = [], (0, 0)
        for name in masks:
            mask = self._mask(name)
            if runs and mask.shape != size:
                raise Fault("wrong size", f"{name} has {mask.shape}, the mask before it {size}")
            size = mask.shape
            runs.append(rle.encode(mask, first=1, order="column"))
        return {
            "segmentation": json.dumps({"mask": runs}).encode(),
            "height": str(size[0]).encode(),
            "width": str(size[1]).encode(),
        }

    def _mask(self, name: str) -> np.ndarray:
        try:
            mask = mask_files.decode(self._file(name))
        except ValueError as error:
            raise Fault("bad segmentation", f"{name}: {error}") from error
        if mask.reading:
            self._log("no clear mask", name, mask.reading)
        return mask.marked


def _row(line: str, place: str) -> dict[str, Any]:
    """Reads one line of captions.jsonl."""
    try:
        row = json.loads(line)
        masks = row.get("mask") or []
        masks = [masks] if isinstance(masks, str) else masks
        whole = all(isinstance(text, str) for text in (row["image"], row["caption"], *masks))
    except (ValueError, KeyError, AttributeError, TypeError):
        whole = False
    if not whole:
        raise ValueError(
            f'{place}: expected {{"image": path, "caption": text}} and perhaps "mask": path or '
            f"list of paths; got {line[:80]!r}"
        )
    return {"image": row["image"], "caption": row["caption"], "mask": masks}
