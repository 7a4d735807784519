"""A folder of pictures with captions as stored samples."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from brushjax.data.faults import Fault, FaultLog
from brushjax.data.masks import rle
from brushjax.data.sources import mask_files
from brushjax.data.sources.captions import Captions, count_pictures
from brushjax.data.sources.files import File, local
from brushjax.data.sources.origins import Origin, origins_of, whole
from brushjax.data.sources.records import Unindexed, select
from brushjax.identity import digest


class PictureFolder(Unindexed):
    """A folder of pictures with captions, and perhaps mask pictures (white = object).

    Args:
      folder: of the pictures, which may lie below it too.
      captions: see `brushjax.data.sources.captions`.
    """

    def __init__(self, folder: Path, captions: Captions):
        self._folder = folder
        self._log = FaultLog()
        self._rows = captions.rows
        self._source = captions.source

    @property
    def kind(self) -> str:
        """Says where the captions are from, and how many pictures of the folder have none."""
        named = {os.path.normpath(name) for name in self._names}
        others = count_pictures(self._folder, without=named)
        left = f" ({others} more in the folder without a caption)" if others else ""
        return f"pictures with captions from {self._source}{left}"

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, n: int) -> str:
        return self._rows[n].image

    def origins(self) -> list[Origin]:
        """Returns the captions, wherever they were read, and the pictures and masks."""
        text = self._captions()
        captions = Origin(self._source, len(text), mark := digest(text), mark, mark)
        return [captions, *origins_of(self.files)]

    def content(self, n: int) -> str:
        """Returns a digest of the captions (n = 0) or of a picture."""
        return whole(self.files[n - 1]) if n else digest(self._captions())

    def _captions(self) -> str:
        return json.dumps([dataclasses.astuple(row) for row in self._rows])

    @property
    def _names(self) -> Iterable[str]:
        """The pictures and masks that the rows name, each once."""
        return dict.fromkeys(name for row in self._rows for name in (row.image, *row.masks))

    @functools.cached_property
    def files(self) -> list[File]:
        paths = [str(self._folder / name) for name in self._names]
        return [file for path in paths if os.path.isfile(path) for file in [local(path)]]

    def faults(self, needed: Sequence[str]) -> dict[int, str]:
        missing = {
            n: "missing member"
            for n, row in enumerate(self._rows)
            if row.caption is None or not (self._folder / row.image).is_file()
        }
        if "segmentation" in needed:
            missing |= {n: "missing member" for n, r in enumerate(self._rows) if not r.masks}
        return missing

    def read(self, n: int, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, bytes]:
        row, names = self._rows[n], {*needed, *optional}
        members = {} if row.caption is None else {"caption": row.caption.encode()}
        if "image" in names:
            members["image"] = self._file(row.image)
        if row.masks and names - {"image", "caption"}:
            members |= self._segmentation(row.masks)
        return select(members, needed, optional)

    def _file(self, name: str) -> bytes:
        try:
            return (self._folder / name).read_bytes()
        except OSError as error:
            raise Fault("unreadable member", f"{name}: {error}") from error

    def _segmentation(self, masks: Sequence[str]) -> dict[str, bytes]:
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
