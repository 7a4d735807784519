"""Regions of a set's pictures that were found beforehand; `python -m brushjax propose` writes them.

A folder holds boxes.json, with what they depend on, and an array for every `CHUNK` records: of each
a digest of its name, boxes and scores. The arrays are mapped, not read: a sample costs its own row.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.files import whole_file, write_json
from brushjax.identity import digest

CHUNK = 256
ABOUT = "boxes.json"


@dataclasses.dataclass(frozen=True)
class Boxes:
    """A folder of boxes.

    Attributes:
      records: of the set.
      slots: boxes that a record has at most.
      made_of: digest of the set's settings and of the networks that found them.
    """

    folder: Path
    records: int
    slots: int
    made_of: str

    @classmethod
    def begun(cls, folder: str | Path, records: int, slots: int, made_of: str) -> Boxes:
        """Begins a folder, or goes on with one.

        Raises: ValueError if it was begun with anything else.
        """
        boxes = cls(Path(folder), records, slots, made_of)
        file = boxes.folder / ABOUT
        if not file.is_file():
            boxes.folder.mkdir(parents=True, exist_ok=True)
            write_json(file, boxes.about)
        elif json.loads(file.read_text()) != boxes.about:
            raise ValueError(
                f"{folder} holds boxes of other data or of another detector: expected "
                f"{boxes.about}, got {file.read_text().strip()}; delete it or name another folder"
            )
        return boxes

    @classmethod
    def complete(cls, folder: str | Path, records: int) -> Boxes:
        """Opens a folder whose boxes are all there.

        Raises: ValueError if some are missing, or they are of another number of records.
        """
        file = Path(folder).expanduser() / ABOUT
        if not file.is_file():
            raise ValueError(f"expected {file}, which `python -m brushjax propose` writes")
        boxes = cls(file.parent, **json.loads(file.read_text()))
        missing = boxes.missing()
        if boxes.records != records or missing:
            raise ValueError(
                f"expected boxes of {records} records in {folder}, got them of {boxes.records} "
                f"with {len(missing)} chunks missing; run `python -m brushjax propose` to its end"
            )
        return boxes

    @property
    def about(self) -> dict[str, Any]:
        return {"records": self.records, "slots": self.slots, "made_of": self.made_of}

    def missing(self, shard: tuple[int, int] = (0, 1)) -> list[int]:
        """Returns the chunks of a shard that are not there."""
        own = range(shard[0], -(-self.records // CHUNK), shard[1])
        return [chunk for chunk in own if not self._file(chunk).is_file()]

    def numbers(self, chunk: int) -> range:
        """Returns the records of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.records))

    def write(
        self, chunk: int, names: list[str], boxes: list[np.ndarray], scores: list[np.ndarray]
    ) -> None:
        """Writes a chunk, whole or not at all.

        Args:
          names: of its records.
          boxes: float32 [n, 4] of each record, best first, n up to `slots`.
          scores: float32 [n] of each record.
        """
        rows = np.zeros(len(names), self._row)
        for row, name, box, score in zip(rows, names, boxes, scores, strict=True):
            row["name"], row["count"] = digest(name), len(box)
            row["boxes"][: len(box)], row["scores"][: len(box)] = box, score
        with whole_file(self._file(chunk)) as unfinished, open(unfinished, "wb") as file:
            np.save(file, rows, allow_pickle=False)

    def of(self, number: int, name: str) -> np.ndarray:
        """Returns the boxes of a record, float32 [n, 4].

        Raises: ValueError if they are of a record of another name.
        """
        row = self._rows(number // CHUNK)[number % CHUNK]
        if row["name"].decode() != digest(name):
            raise ValueError(
                f"the boxes of record {number} in {self.folder} are not those of {name}: the data "
                "changed; delete the folder and run `python -m brushjax propose` again"
            )
        return np.array(row["boxes"][: row["count"]])

    @property
    def _row(self) -> np.dtype:
        slots = self.slots
        return np.dtype(
            [
                ("name", "S20"),
                ("count", "<i4"),
                ("boxes", "<f4", (slots, 4)),
                ("scores", "<f4", (slots,)),
            ]
        )

    def _file(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06}.npy"

    def _rows(self, chunk: int) -> np.ndarray:
        return _mapped(self._file(chunk))


@functools.lru_cache(maxsize=4096)
def _mapped(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r", allow_pickle=False)


def mirrored(boxes: np.ndarray | None) -> np.ndarray | None:
    """Boxes of a mirrored picture."""
    if boxes is None:
        return None
    return np.concatenate([1 - boxes[:, :1], boxes[:, 1:]], axis=1)


def cut(
    boxes: np.ndarray | None, place: tuple[slice, slice], shape: tuple[int, ...]
) -> np.ndarray | None:
    """Boxes of a part of a picture of this shape; those that lie outside it are left out."""
    if boxes is None:
        return None
    high, wide = (part.stop - part.start for part in place)
    scale = np.array([shape[1] / wide, shape[0] / high], np.float32)
    offset = np.array([place[1].start / wide, place[0].start / high], np.float32)
    centre, half = boxes[:, :2] * scale - offset, boxes[:, 2:] * scale / 2
    low, top = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    inside = (top > low).all(axis=1)
    return np.concatenate([(low + top) / 2, top - low], axis=1)[inside]
