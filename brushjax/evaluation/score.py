"""The scoring stage: every metric of every picture, one row each, in float64."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from brushjax.evaluation.generate import Gallery
from brushjax.evaluation.methods.contract import REPORTING
from brushjax.evaluation.network_files import weights_missing
from brushjax.evaluation.plan import COLUMNS, Plan, row_of
from brushjax.evaluation.records import (
    TEXTS,
    Benchmark,
    BenchmarkError,
    Unit,
    shortened,
)
from brushjax.evaluation.store import FLAG, NUMBER, TEXT, read_parts, write_part
from brushjax.identity import code, digest
from brushjax.metrics.metric import Metric, Need, fields
from brushjax.metrics.registry import METRICS, PROFILES, needs_of, score, select
from brushjax.metrics.views import SOURCE, Views
from brushjax.progress import progress_bar

FLAGS = {"black": FLAG, "unchanged": FLAG, "other_size": FLAG, "equal_captions": FLAG}
MEASURED = {"mask_area": NUMBER, **FLAGS}
MADE = {"picture": TEXT, "sha256": TEXT, "region": TEXT, "fault": TEXT, "seconds": NUMBER}
TOKENIZER = (
    ".tokenizer"  # behind a network's name: its tokenizer's folder, where that lies elsewhere
)
BLACK = 3  # of 255: JPEG does not bring a black picture back as exactly 0


Answered = Callable[[Unit], Mapping[Any, str] | None]


@runtime_checkable
class Features(Protocol):
    """What runs the metrics' networks, as `brushjax.evaluation.networks.Networks` does."""

    @property
    def names(self) -> Sequence[str]:
        """Networks there are weights for."""
        ...

    @property
    def hashes(self) -> Mapping[str, str]:
        """Digests of the weights, by network."""
        ...

    def features(
        self, needs: Sequence[Need], samples: Sequence[Views]
    ) -> list[dict[Need, np.ndarray]]:
        """The features of every sample."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """All rows of a sweep, checked against its plan.

    Attributes:
        rows: one a scored picture, in the plan's order, with the columns of `schema`.
        metrics: of every benchmark, by its name.
    """

    rows: list[dict[str, Any]]
    metrics: dict[str, tuple[Metric, ...]]

    @property
    def schema(self) -> dict[str, str]:
        """Column -> kind."""
        ids = dict.fromkeys(one.id for metrics in self.metrics.values() for one in metrics)
        return {**COLUMNS, **MADE, **MEASURED, **dict.fromkeys(ids, NUMBER)}

    def of(self, benchmark: str, method: str) -> list[dict[str, Any]]:
        """The rows of a benchmark under a method."""
        return self._by_method.get((benchmark, method), [])

    def methods(self, benchmark: str) -> list[str]:
        """The methods that were run on a benchmark, in the plan's order."""
        return [method for name, method in self._by_method if name == benchmark]

    @functools.cached_property
    def _by_method(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault((row["benchmark"], row["method"]), []).append(row)
        return found


def metrics_of(
    benchmark: Benchmark,
    profiles: Sequence[str],
    names: Sequence[str] = (),
    networks: Sequence[str] | None = (),
) -> tuple[Metric, ...]:
    """The metrics of a benchmark.

    Args:
        profiles: "paper" stands for the profiles of the papers that report on this benchmark.
        names: of metrics; () takes all.
        networks: what there are weights for; None: all there are.

    Raises:
        BenchmarkError: an unknown profile.
    """
    wanted = [
        one for name in profiles for one in (benchmark.profiles if name == "paper" else (name,))
    ]
    if benchmark.judging is not None:  # a judge's scores are made of its answers, not of pictures
        own_profiles = {one.profile for one in benchmark.judging.scores} - set(PROFILES)
        wanted = [name for name in wanted if name not in own_profiles]
    own = [dataclasses.replace(one, settings=_settings(benchmark)) for one in benchmark.metrics()]
    try:
        found = [*own, *select(tuple(dict.fromkeys(wanted)), networks=networks)]
    except ValueError as error:
        raise BenchmarkError(str(error)) from error
    return tuple(one for one in found if not names or one.name in names)


def _settings(benchmark: Benchmark) -> str:
    """What a benchmark's own metrics may depend on, as text."""
    if not dataclasses.is_dataclass(benchmark):
        return repr(benchmark)
    fields = [f.name for f in dataclasses.fields(benchmark) if f.name not in benchmark.choosing]
    return repr([(name, getattr(benchmark, name)) for name in fields])


def check_metrics(
    benchmarks: Sequence[Benchmark],
    profiles: Sequence[str],
    names: Sequence[str],
    networks: Sequence[str],
) -> None:
    """Checks the names before any picture is made.

    Args:
        benchmarks, profiles, names, networks: see `metrics_of`.

    Raises:
        BenchmarkError: a name that nothing knows, one that these benchmarks and profiles don't
            have, one for whose network there are no weights, or a benchmark without any metric.
    """
    known = {one.name for one in METRICS.values()}
    known |= {one.name for benchmark in benchmarks for one in benchmark.metrics()}
    if unknown := sorted(set(names) - known):
        raise BenchmarkError(f"unknown metrics {unknown}; expected some of {sorted(known)}")
    there: set[str] = set()
    for benchmark in benchmarks:
        asked = metrics_of(benchmark, profiles, names, None)
        able = metrics_of(benchmark, profiles, names, networks)
        lost = [one for one in asked if one.name not in {other.name for other in able}]
        if (names and lost) or (not able and asked):
            needed = dict.fromkeys(need.network for need in needs_of(lost))
            raise BenchmarkError(
                f"{', '.join(dict.fromkeys(one.name for one in lost))} on {benchmark.name}:"
                f" {weights_missing([one for one in needed if one not in networks])}"
            )
        there |= {one.name for one in asked}
    if absent := sorted(set(names) - there):
        homes = sorted({one.profile for one in METRICS.values() if one.name in absent})
        raise BenchmarkError(
            f"no metric {', '.join(absent)} on {', '.join(one.name for one in benchmarks)} in the"
            f" profiles {', '.join(profiles)}; --profiles {' '.join(homes)} has it"
        )


def score_units(
    units: Sequence[Unit],
    gallery: Gallery,
    metrics: Mapping[str, tuple[Metric, ...]],
    networks: Features | None = None,
    chunk: int = 32,
    progress: bool = True,
    answers: Answered | None = None,
) -> None:
    """Score what has no row yet, and write one part a chunk.

    Args:
        metrics: by name of the benchmark.
        networks: runs the networks that the metrics need.
        chunk: pictures in memory; results don't depend on it.
        answers: what a judge said of a unit, where one was asked.
    """
    folder = gallery.folder / "scores"
    done = read_parts(folder)
    missing = [
        unit
        for unit in units
        if row_key(unit, metrics[unit.record.benchmark], networks) not in done
    ]
    # Pictures of one record together: the features of its source are then computed once.
    missing.sort(key=lambda unit: (unit.record.benchmark, unit.record.id, unit.record.turn))
    with progress_bar(
        what="scoring",
        total=len(units),
        initial=len(units) - len(missing),
        unit="picture",
        shown=progress,
    ) as bar:
        for start in range(0, len(missing), chunk):
            part = missing[start : start + chunk]
            rows = []
            for name in dict.fromkeys(unit.record.benchmark for unit in part):
                mine = [unit for unit in part if unit.record.benchmark == name]
                rows += _scored(mine, gallery, metrics[name], networks, answers)
            columns = sorted({column for row in rows for column in row} - {"key", *MEASURED})
            write_part(folder, rows, {"key": TEXT, **MEASURED, **dict.fromkeys(columns, NUMBER)})
            bar.update(len(part))


def row_key(unit: Unit, metrics: Sequence[Metric], networks: Features | None) -> str:
    """Names the scores of a picture under a set of metrics, their settings, weights and code."""
    used = sorted({need.network for need in needs_of(metrics)})
    hashes = [f"{name} {networks.hashes[name]}" for name in used] if networks else []
    how = [f"{metric.id} {metric.settings}" for metric in metrics]
    texts = [getattr(unit.record, name) for name in TEXTS]
    return f"{unit.key}-{digest(code(REPORTING), *how, *hashes, *texts)}"


def collect(
    plan: Plan,
    gallery: Gallery,
    metrics: Mapping[str, tuple[Metric, ...]],
    networks: Features | None = None,
) -> Scored:
    """All rows of the plan, each exactly once.

    Raises:
        BenchmarkError: rows are missing, with how many and which.
    """
    scores = read_parts(gallery.folder / "scores")
    rows, missing = [], []
    for unit in plan.scored:
        mine = metrics[unit.record.benchmark]
        found = scores.get(row_key(unit, mine, networks))
        made = gallery.rows.get(unit.key)
        if found is None or made is None:
            missing.append(str(unit))
            continue
        values = {metric.id: found.get(metric.id, math.nan) for metric in mine}
        flags = {name: found[name] for name in MEASURED}
        rows.append({**row_of(unit), **{name: made.get(name) for name in MADE}, **flags, **values})
    if missing:
        raise BenchmarkError(
            f"expected {len(plan.scored)} scored pictures, {len(missing)} are missing:"
            f" {shortened(missing)}; run the stages generate and score (of all shares) first"
        )
    return Scored(rows, dict(metrics))


def _scored(
    units: Sequence[Unit],
    gallery: Gallery,
    metrics: tuple[Metric, ...],
    networks: Features | None,
    answers: Answered | None,
) -> list[dict[str, Any]]:
    """The rows of units of one benchmark."""
    there = [unit for unit in units if not gallery.rows[unit.key]["fault"]]
    views = {unit.key: _views(unit, gallery, answers) for unit in there}
    features = _features(there, views, metrics, networks)
    rows = []
    for unit in units:
        row: dict[str, Any] = {"key": row_key(unit, metrics, networks)}
        if unit.key not in views:
            rows.append({**row, "mask_area": math.nan, **dict.fromkeys(FLAGS, False)})
            continue
        sample = views[unit.key]
        row |= _measured(unit, sample)
        mine = [metric for metric in metrics if _comparable(metric, sample)]
        rows.append({**row, **score(mine, sample, features[unit.key])})
    return rows


def _comparable(metric: Metric, sample: Views) -> bool:
    """Whether sizes fit: definitions compare pixel by pixel, the papers' scripts resize."""
    others = [sample.source, sample.truth if "truth" in metric.inputs else None]
    sizes = {picture.shape for picture in others if picture is not None}
    return metric.profile != "clean" or bool(metric.judge) or sizes <= {sample.result.shape}


def _features(
    units: Sequence[Unit],
    views: Mapping[str, Views],
    metrics: tuple[Metric, ...],
    networks: Features | None,
) -> dict[str, dict[Need, np.ndarray]]:
    """The features of every unit; those that don't look at the result once a record."""
    needs = needs_of(metrics)
    if networks is None or not needs:
        return {unit.key: {} for unit in units}
    own = [need for need in needs if any("result" in fields(one) for one in need.inputs)]
    shared = [need for need in needs if need not in own]
    first = {_record(unit): unit for unit in reversed(units)}
    found = {unit.key: dict[Need, np.ndarray]() for unit in units}
    for chosen, samples in ((own, units), (shared, list(first.values()))):
        for need in chosen:
            able = [unit for unit in samples if _able(views[unit.key], need)]
            if able:
                values = networks.features([need], [views[unit.key] for unit in able])
                for unit, value in zip(able, values, strict=True):
                    found[unit.key] |= value
    return {unit.key: {**found[first[_record(unit)].key], **found[unit.key]} for unit in units}


def _able(views: Views, need: Need) -> bool:
    """Whether a sample has what a network is to look at."""
    return views.has(tuple(set().union(*map(fields, need.inputs))))


def _record(unit: Unit) -> tuple[str, str, int]:
    return unit.record.benchmark, unit.record.id, unit.record.turn


def _views(unit: Unit, gallery: Gallery, answers: Answered | None) -> Views:
    record, pixels = unit.record, unit.record.read()
    return Views(
        result=gallery.picture(unit.key),
        source=pixels.source,
        truth=pixels.truth,
        mask=None if pixels.hole is None else pixels.hole > 0,
        grey=pixels.grey,
        region=gallery.region(unit.key),
        plan=gallery.plan(unit.key),
        asked=record.asked,
        caption=record.target_caption or None,
        source_caption=record.source_caption or None,
        local_caption=record.local_caption or None,
        second_caption=record.second_caption or record.local_caption or None,
        answers=None if answers is None else answers(unit),
        from_jpeg=Path(gallery.rows[unit.key]["picture"]).suffix.lower() in (".jpg", ".jpeg"),
    )


def _measured(unit: Unit, sample: Views) -> dict[str, Any]:
    source, result = sample.picture(SOURCE), sample.result
    record = unit.record
    return {
        "mask_area": math.nan if sample.mask is None else float(sample.mask.mean()),
        "black": int(result.max()) <= BLACK,
        "unchanged": result.shape == source.shape and bool((result == source).all()),
        "other_size": result.shape != source.shape,
        "equal_captions": bool(record.source_caption)
        and record.source_caption.strip().lower() == record.target_caption.strip().lower(),
    }
