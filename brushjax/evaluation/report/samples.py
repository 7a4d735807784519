"""The records that a report shows, with their pictures as files beside it."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from brushjax.evaluation.generate import Gallery
from brushjax.evaluation.plan import Plan
from brushjax.evaluation.records import Unit
from brushjax.evaluation.report.grids import Panel, units_of
from brushjax.evaluation.report.names import title
from brushjax.evaluation.score import Scored
from brushjax.files import write_bytes
from brushjax.identity import digest

FOLDER = "report_pictures"
SIDE = 768  # pixels of the longer side of what is written
QUALITY = 92
EXACT = 256  # pixels: up to this side pictures are written without loss
RED, BLUE = (230, 40, 40), (40, 90, 230)  # of masks, of regions
OPAQUE = 120  # of 255
DIGITS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What the page knows of its records; JSON.

    Attributes:
        benchmarks: by name: titles of the metrics in the order of the values, names of the methods.
        rows: a record each, with the paths of its pictures from the report's folder.
    """

    benchmarks: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()


def write_samples(
    out: Path, plan: Plan, scored: Scored, gallery: Gallery, panels: Mapping[str, Sequence[Panel]]
) -> Samples:
    """Writes the pictures of the panels' records that are not there yet.

    Args:
        out: folder of the report; pictures go to `FOLDER` in it.
        panels: by benchmark.
    """
    album, units = Album(out), units_of(plan)
    benchmarks, rows = {}, []
    for name, chosen in panels.items():
        metrics = scored.metrics[name]
        benchmarks[name] = {
            "metrics": [title(metric) for metric in metrics],
            "methods": scored.methods(name),
        }
        values = {
            row["key"]: [_short(row[metric.id]) for metric in metrics]
            for method in scored.methods(name)
            for row in scored.of(name, method)
        }
        rows += [
            _row(album, gallery, panel.heading, units[name, place], values)
            for panel in chosen
            for place in panel.places
        ]
    return Samples(benchmarks, rows)


class Album:
    """Pictures in a folder beside the report, each written once."""

    def __init__(self, out: Path):
        self._out = out

    def picture(self, name: str, make: Callable[[], UInt8[np.ndarray, "H W 3"]]) -> str:
        """Path of a picture from the report's folder; it is made where it is not there."""
        for ending in (".png", ".jpg"):
            if (self._out / FOLDER / (name + ending)).is_file():
                return f"{FOLDER}/{name}{ending}"
        image = Image.fromarray(np.ascontiguousarray(make()))
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        if max(image.size) <= EXACT:
            return self._write(f"{name}.png", image, format="PNG")
        return self._write(f"{name}.jpg", image, format="JPEG", quality=QUALITY)

    def overlay(
        self, name: str, make: Callable[[], Bool[np.ndarray, "H W"]], tint: tuple[int, int, int]
    ) -> str:
        """Path of a picture that tints what is marked, and is transparent elsewhere."""
        if (self._out / FOLDER / f"{name}.png").is_file():
            return f"{FOLDER}/{name}.png"
        image = Image.fromarray(make().astype(np.uint8), mode="P")
        image.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
        image.putpalette([0, 0, 0, *tint])
        return self._write(f"{name}.png", image, format="PNG", transparency=bytes((0, OPAQUE)))

    def _write(self, name: str, image: Image.Image, **how: Any) -> str:
        buffer = io.BytesIO()
        image.save(buffer, **how)
        (self._out / FOLDER).mkdir(parents=True, exist_ok=True)
        write_bytes(self._out / FOLDER / name, buffer.getvalue())
        return f"{FOLDER}/{name}"


def _row(
    album: Album,
    gallery: Gallery,
    heading: str,
    units: Mapping[str, Unit],
    values: Mapping[str, list[float | None]],
) -> dict[str, Any]:
    """A record: its words, its pictures, and every method's result of the first seed."""
    record = next(iter(units.values())).record
    name = digest(record.benchmark, record.id, str(record.turn), record.fingerprint)[:20]
    pixels = record.read()
    row: dict[str, Any] = {
        "benchmark": record.benchmark,
        "id": record.id,
        "turn": record.turn,
        "group": record.group,
        "set": heading,
        "prompt": record.prompt,
        "instruction": record.instruction,
        "source": album.picture(f"{name}-source", lambda: pixels.source),
    }
    hole, truth = pixels.hole, pixels.truth
    if hole is not None:
        row["mask"] = album.overlay(f"{name}-mask", lambda: hole > 0, RED)
    if truth is not None:
        row["truth"] = album.picture(f"{name}-truth", lambda: truth)
    row["results"] = [
        _result(album, gallery, unit, values.get(unit.key, [])) for unit in units.values()
    ]
    return row


def _result(
    album: Album, gallery: Gallery, unit: Unit, values: list[float | None]
) -> dict[str, Any]:
    made = gallery.rows[unit.key]
    result: dict[str, Any] = {"method": unit.method, "seed": unit.seed, "key": unit.key}
    result["values"] = values
    if made["fault"]:
        return {**result, "fault": made["fault"]}
    result["picture"] = album.picture(unit.key, lambda: gallery.picture(unit.key))
    region = gallery.region(unit.key)
    if region is not None:
        result["region"] = album.overlay(f"{unit.key}-region", lambda: region, BLUE)
    return result


def _short(value: float) -> float | None:
    """With as many digits as are shown; JSON has neither NaN nor infinity."""
    if not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")
