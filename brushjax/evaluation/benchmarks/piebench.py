"""PIE-Bench: edits from one prompt to another, in ten kinds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.data.masks import rle
from brushjax.evaluation.benchmarks.files import chosen, each, file_bytes, picture, read_json
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest
from brushjax.metrics.metric import Metric
from brushjax.metrics.profiles.plans import PLAN_METRICS

SIDE = 512
KINDS = (
    "random",
    "change object",
    "add object",
    "delete object",
    "change content",
    "change pose",
    "change color",
    "change material",
    "change background",
    "change style",
)


KINDS_OF_LOCAL = ("object", "content", "pose", "color", "material")
ASKED = {  # category of a plan; the object is not annotated
    **{f"change {what}": ("local", "") for what in KINDS_OF_LOCAL},
    "add object": ("addition", ""),
    "delete object": ("removal", ""),
    "change background": ("background", ""),
    "change style": ("global", ""),
}


@dataclasses.dataclass(frozen=True)
class PieBench(Benchmark):
    """PIE-Bench, 700 pictures.

    Attributes:
        folder: holds mapping_file.json and annotation_images/.
        kinds: numbers of the kinds to take, 0..9; empty is all.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: the PnPInversion repository. Runs are numbered along the rows from 0 and cut at the
        picture's end; the outermost frame of pixels then belongs to the edited region. Square
        brackets in the prompts only mark what differs.
    """

    folder: str = "data/PIE-Bench"
    kinds: tuple[int, ...] = ()
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:pie",)

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "piebench"

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        return 0 if self.kinds else 700

    def metrics(self) -> tuple[Metric, ...]:
        """Whether plans are right."""
        return PLAN_METRICS

    def records(self) -> list[Record]:
        """The records, in the order of the mapping file."""
        folder = Path(self.folder)
        how = "docs/evaluating.md says where PIE-Bench is to be had and how its folder looks"
        mapping = read_json(folder / "mapping_file.json", dict, how)
        entries = [
            (key, values)
            for key, values in mapping.items()
            if not self.kinds or int(values["editing_type_id"]) in self.kinds
        ]
        entries = chosen(entries, lambda entry: entry[0], self.skip, self.limit)
        return check_ids(each(entries, self._record, lambda entry: entry[0]))

    def _record(self, entry: tuple[str, dict[str, Any]]) -> Record:
        key, values = entry
        path = inside(Path(self.folder) / "annotation_images", values["image_path"])
        fingerprint = digest(file_bytes(path), json.dumps(values["mask"]))
        edited_region(values["mask"])

        def read() -> Pixels:
            source = picture(path.read_bytes(), str(path), (SIDE, SIDE))
            return Pixels(source, edited_region(values["mask"]))

        stem = str(Path(values["image_path"]).with_suffix(""))
        before, after = (
            values[name].replace("[", "").replace("]", "")
            for name in ("original_prompt", "editing_prompt")
        )
        kind = _kind(values["editing_type_id"])
        return Record(
            self.name,
            key,
            after,
            read,
            fingerprint,
            group=kind,
            instruction=values.get("editing_instruction", ""),
            source_caption=before,
            target_caption=after,
            asked=ASKED.get(kind),
            results=(f"annotation_images/{stem}", stem, key),
        )


def _kind(number: str | int) -> str:
    if not 0 <= int(number) < len(KINDS):
        raise BenchmarkError(f"expected a kind of 0 to {len(KINDS) - 1}, got {number!r}")
    return KINDS[int(number)]


def edited_region(runs: list[int]) -> np.ndarray:
    """uint8 [512, 512], 1 = edited, of a record's runs: clipped, and with the frame set.

    Raises:
        ValueError: runs that are no pairs, or that start outside the picture.
    """
    total = SIDE * SIDE
    whole = len(runs) % 2 == 0
    clipped = [
        min(value, total - runs[index - 1]) if whole and index % 2 else value
        for index, value in enumerate(runs)
    ]
    region = rle.decode(clipped, SIDE, SIDE, first=0, order="row").astype(np.uint8)
    region[[0, -1], :] = 1
    region[:, [0, -1]] = 1
    return region
