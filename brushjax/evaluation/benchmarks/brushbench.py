"""BrushBench and EditBench: mask-guided inpainting with captions."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brushjax.data.masks import rle
from brushjax.evaluation.benchmarks.files import (
    chosen,
    each,
    file_bytes,
    picture,
    read_json,
    white,
)
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

SIDE = 512  # of every picture, as the published scripts resize them
HOW = "docs/evaluating.md says where the benchmark is to be had and how its folder looks"


@dataclasses.dataclass(frozen=True)
class BrushBench(Benchmark):
    """BrushBench, 600 pictures, as its mapping file lists them; EditBench as repacked for BrushNet.

    Attributes:
        folder: holds mapping_file.json and the pictures it names.
        split: "inside" fills the object, "outside" its surroundings.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: examples/brushnet/evaluate_brushnet.py of the BrushNet repository; runs are numbered
        along the rows from 1.
    """

    folder: str = "data/BrushBench"
    split: Literal["inside", "outside"] = "inside"
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:brushedit",)

    @property
    def name(self) -> str:
        """Name with its split."""
        return f"brushbench-{self.split}"

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        return 600

    def records(self) -> list[Record]:
        """The records, in the order of the mapping file."""
        runs = {"inside": "inpainting_mask", "outside": "outpainting_mask"}[self.split]
        return _mapped(self.name, Path(self.folder), runs, self.skip, self.limit)


@dataclasses.dataclass(frozen=True)
class EditBench(Benchmark):
    """EditBench, 240 pictures, in Google's layout or with BrushNet's mapping file.

    Attributes:
        folder: holds annotations_natural.csv, annotations_generated.csv, references_* and masks_*;
            or mapping_file.json.
        prompt: which of the annotated prompts; the papers' tables use the full one.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: EditBench (arXiv 2212.06909); pictures are evaluated at 512 x 512, and the black part of
        a mask is the hole (both: the BrushNet repository).
    """

    folder: str = "data/EditBench"
    prompt: Literal["prompt_full", "prompt_mask-simple", "prompt_mask-rich"] = "prompt_full"
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:brushedit",)

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "editbench"

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        return 240

    def records(self) -> list[Record]:
        """The records: natural pictures, then generated ones."""
        folder = Path(self.folder)
        if (folder / "mapping_file.json").is_file():
            return _mapped(self.name, folder, "inpainting_mask", self.skip, self.limit)
        rows = [(kind, row) for kind in ("natural", "generated") for row in self._rows(kind)]
        rows = chosen(rows, _annotated_id, self.skip, self.limit)
        return check_ids(each(rows, self._record, _annotated_id))

    def _rows(self, kind: str) -> list[dict[str, str]]:
        path = Path(self.folder) / f"annotations_{kind}.csv"
        if not path.is_file():
            raise BenchmarkError(f"expected {path} or mapping_file.json beside it; {HOW}")
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def _record(self, entry: tuple[str, dict[str, str]]) -> Record:
        kind, row = entry
        folder, name = Path(self.folder), f"{row['aos']}.png"
        image = inside(folder / f"references_{kind}", name)
        mask = inside(folder / f"masks_{kind}", name)
        fingerprint = digest(file_bytes(image), file_bytes(mask), str(SIDE))

        def read() -> Pixels:
            source = picture(image.read_bytes(), str(image), (SIDE, SIDE))
            hole = 1 - white(mask.read_bytes(), str(mask), (SIDE, SIDE))
            return Pixels(source, hole, source)

        caption = row[self.prompt]
        return Record(
            self.name,
            _annotated_id(entry),
            caption,
            read,
            fingerprint,
            group=kind,
            target_caption=caption,
            results=(f"{kind}/{row['aos']}", row["aos"]),
        )


def _annotated_id(entry: tuple[str, dict[str, str]]) -> str:
    return f"{entry[0]}/{entry[1].get('aos')}"


def _mapped(name: str, folder: Path, runs: str, skip: Sequence[str], limit: int) -> list[Record]:
    """The records of a BrushNet mapping file."""
    mapping = read_json(folder / "mapping_file.json", dict, HOW)

    def record(entry: tuple[str, Any]) -> Record:
        key, values = entry
        path = inside(folder, values["image"])
        content = digest(file_bytes(path), json.dumps(values[runs]))
        rle.decode(values[runs], SIDE, SIDE, first=1, order="row")  # an error now, not in an hour

        def read() -> Pixels:
            source = picture(path.read_bytes(), str(path), (SIDE, SIDE))
            hole = rle.decode(values[runs], SIDE, SIDE, first=1, order="row").astype(np.uint8)
            return Pixels(source, hole, source)

        caption = values["caption"]
        stem = str(Path(values["image"]).with_suffix(""))
        names = (stem, Path(stem).name, key)
        return Record(name, key, caption, read, content, target_caption=caption, results=names)

    entries = chosen(list(mapping.items()), lambda entry: entry[0], skip, limit)
    return check_ids(each(entries, record, lambda entry: entry[0]))
