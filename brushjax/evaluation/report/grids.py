"""Which pictures a report shows: the best, the worst and some at random, beside what they were."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.evaluation.generate import Gallery
from brushjax.evaluation.plan import Plan
from brushjax.evaluation.records import Unit
from brushjax.evaluation.report.aggregate import per_record
from brushjax.evaluation.score import Scored
from brushjax.metrics.metric import Metric

Picture = UInt8[np.ndarray, "H W C"]
Place = tuple[str, int]
"""Id and turn of a record."""


@dataclasses.dataclass(frozen=True, eq=False)
class Example:
    """A record's pictures: source with the hole black, mask, every method's result, and truth."""

    caption: str
    pictures: dict[str, Picture]


@dataclasses.dataclass(frozen=True)
class Panel:
    """Some records of a benchmark under a heading."""

    heading: str
    places: list[Place]


def units_of(plan: Plan) -> dict[tuple[str, Place], dict[str, Unit]]:
    """The scored units of every record of a benchmark, each method's of the first seed."""
    found: dict[tuple[str, Place], dict[str, Unit]] = {}
    for unit in plan.scored:
        mine = found.setdefault((unit.record.benchmark, _place(unit)), {})
        mine.setdefault(unit.method, unit)
    return found


def chosen(plan: Plan, scored: Scored, benchmark: str, count: int) -> list[Panel]:
    """Best and worst by the first metric that tells, and some of the others at random.

    No record is chosen twice; where there are few, all are, from best to worst.

    Args:
        count: of each kind.
    """
    if count < 1:
        return []
    methods = scored.methods(benchmark)
    method = next((m for m in methods if plan.methods[m].seeded), methods[0])
    places = list(dict.fromkeys(_place(u) for u in plan.scored if u.record.benchmark == benchmark))
    found, ranked = [], []
    metric = ranking(scored.metrics[benchmark], scored.of(benchmark, method))
    if metric is not None:
        values = per_record(scored.of(benchmark, method), metric)
        ranked = sorted((p for p in values if not math.isnan(values[p])), key=values.__getitem__)
        if metric.higher_is_better:
            ranked.reverse()
        by = f"by {metric.name} of {method}"
        if len(ranked) > 2 * count:
            ranked = [*ranked[:count], *ranked[-count:]]
            found = [(f"best {by}", ranked[:count]), (f"worst {by}", ranked[count:][::-1])]
        else:
            found = [(f"from best to worst {by}", ranked)]
    taken = set(ranked)
    others = [place for place in places if place not in taken]
    draw = np.random.default_rng(0).permutation(len(others))[:count]
    name = "others at random" if ranked else "at random"
    found.append((name, [others[int(index)] for index in sorted(draw)]))
    return [Panel(heading, these) for heading, these in found if these]


def ranking(metrics: Sequence[Metric], rows: Sequence[Mapping[str, Any]]) -> Metric | None:
    """The first metric of which one end is better and by which these rows differ."""
    for metric in metrics:
        values = {row[metric.id] for row in rows if not math.isnan(row[metric.id])}
        if metric.higher_is_better is not None and len(values) > 1:
            return metric
    return None


def shown(units: Mapping[str, Unit], gallery: Gallery) -> Example:
    """The pictures of a record, by the units of its methods."""
    record = next(iter(units.values())).record
    pixels = record.read()
    pictures: dict[str, Picture] = {"source": pixels.source}
    if pixels.hole is not None:
        pictures["source"] = pixels.source * (1 - pixels.hole[..., None])
        pictures["mask"] = np.repeat(pixels.hole[..., None] * 255, 3, axis=-1).astype(np.uint8)
    for method, unit in units.items():
        if not gallery.rows[unit.key]["fault"]:
            pictures[method] = gallery.picture(unit.key)
    if pixels.truth is not None:
        pictures["truth"] = pixels.truth
    return Example(f"{record.id}: {record.prompt or record.instruction}", pictures)


def strip_of(plan: Plan, gallery: Gallery, benchmark: str, count: int):
    """The first records of a benchmark as one picture; None if their pictures differ in kind."""
    from brushjax.inference.strip import strip

    mine = [units for (name, _), units in units_of(plan).items() if name == benchmark]
    rows = [shown(units, gallery) for units in mine[:count]]
    kinds = {
        (tuple(row.pictures), *(picture.shape for picture in row.pictures.values())) for row in rows
    }
    if len(kinds) != 1 or len({picture.shape for picture in rows[0].pictures.values()}) != 1:
        return None
    columns = {name: np.stack([row.pictures[name] for row in rows]) for name in rows[0].pictures}
    raw = [name for name in columns if getattr(plan.methods.get(name), "blend", "") == "none"]
    note = f"{', '.join(raw)}: not put back into the source, so that seams show" if raw else ""
    return strip(columns, [row.caption for row in rows], note=note)


def _place(unit: Unit) -> Place:
    return unit.record.id, unit.record.turn
