"""The plan: every picture that a sweep needs, and who makes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brushjax.evaluation.methods.contract import Recipe, Resources, unfolded
from brushjax.evaluation.records import Benchmark, BenchmarkError, Record, Unit, unit_key
from brushjax.evaluation.store import FLAG, TEXT, WHOLE, write_table
from brushjax.identity import digest

COLUMNS = {
    "key": TEXT,
    "benchmark": TEXT,
    "sample": TEXT,
    "turn": WHOLE,
    "seed": WHOLE,
    "method": TEXT,
    "session": TEXT,
    "group": TEXT,
    "prompt": TEXT,
    "scored": FLAG,
}


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done.

    Attributes:
        units: every picture once, in the order of the report.
        benchmarks: by name.
        methods: by label.
        settings: what a method's pictures depend on, by label.
    """

    units: list[Unit]
    benchmarks: dict[str, Benchmark]
    methods: dict[str, Recipe]
    settings: dict[str, Mapping[str, Any]]

    def share(self, index: int, count: int) -> list[Unit]:
        """The units of one of `count` processes: whole sessions, dealt out in turn."""
        chains: dict[tuple, int] = {}
        mine = []
        for unit in self.units:
            chain = (unit.record.benchmark, unit.record.cluster, unit.method, unit.seed)
            if chains.setdefault(chain, len(chains)) % count == index:
                mine.append(unit)
        return mine

    def before(self) -> dict[str, str]:
        """Key of a unit -> key of the unit whose result is its source."""
        keys = {_place(unit, unit.record.id): unit.key for unit in self.units}
        return {
            unit.key: keys[_place(unit, unit.record.after)]
            for unit in self.units
            if unit.record.after and self.methods[unit.method].makes
        }

    @property
    def scored(self) -> list[Unit]:
        """The units whose pictures are scored."""
        return [unit for unit in self.units if unit.record.scored]

    def write(self, path: Path) -> None:
        """Write the plan as a Parquet table, one row a unit."""
        write_table(path, [row_of(unit) for unit in self.units], COLUMNS)


def make_plan(
    benchmarks: Sequence[Benchmark],
    recipes: Sequence[Recipe],
    seeds: Sequence[int],
    resources: Resources,
) -> Plan:
    """Lists every picture of benchmarks x methods x seeds.

    Methods without noise are planned for the first seed only.

    Raises:
        BenchmarkError: a benchmark that can't be read, names or labels that are not different, or
            two methods that would make the same pictures.
    """
    methods = unfolded(recipes)
    by_label = _named(methods, [one.label for one in methods], "labels of methods")
    by_name = _named(benchmarks, [one.name for one in benchmarks], "names of benchmarks")
    if not by_label or not by_name or not seeds or len(set(seeds)) < len(seeds):
        raise BenchmarkError(
            f"expected benchmarks, methods and different seeds, got {list(by_name)},"
            f" {list(by_label)} and {list(seeds)}"
        )
    settings = {label: one.method(resources).settings for label, one in by_label.items()}
    units = []
    for name, benchmark in by_name.items():
        records = benchmark.records()
        for label, method in by_label.items():
            method.check([record for record in records if record.scored])
            for repeat, seed in enumerate(seeds if method.seeded else seeds[:1]):
                if benchmark.wants(label, repeat):
                    units += _chained(records, method, label, seed, settings[label])
        if not any(unit.record.benchmark == name for unit in units):
            raise BenchmarkError(
                f"expected a method for {name}; none of {list(by_label)} runs on it"
            )
    keys = {unit.key for unit in units}
    if len(keys) < len(units):
        raise BenchmarkError(
            f"expected {len(units)} different pictures, got {len(keys)}: two methods of"
            f" {list(by_label)} have the same settings"
        )
    return Plan(units, by_name, by_label, settings)


def row_of(unit: Unit) -> dict[str, Any]:
    """The columns that say which picture this is."""
    record = unit.record
    return {
        "key": unit.key,
        "benchmark": record.benchmark,
        "sample": record.id,
        "turn": record.turn,
        "seed": unit.seed,
        "method": unit.method,
        "session": record.cluster,
        "group": record.group,
        "prompt": record.prompt,
        "scored": record.scored,
    }


def _chained(
    records: Sequence[Record], method: Recipe, label: str, seed: int, settings: Mapping[str, Any]
) -> Iterator[Unit]:
    """The units of a method and seed; a unit's key covers those before it in its session."""
    keys: dict[str, str] = {}
    for record in records:
        if not method.makes:
            path = method.find(record)
            if not record.scored or path is None:
                continue  # a step on the way, of which only its maker knows
            file = {**settings, "file": digest(path.read_bytes())}
            key = unit_key(record, seed, file, texts=())
        elif record.after and record.after not in keys:
            raise BenchmarkError(f"{record.id} follows {record.after}, which is not planned before")
        else:
            key = unit_key(record, seed, settings, keys.get(record.after, ""), method.reads)
        keys[record.id] = key
        yield Unit(record, label, seed, key)


def _named(things: Sequence[Any], names: Sequence[str], what: str) -> dict[str, Any]:
    if len(set(names)) < len(names):
        raise BenchmarkError(f"expected different {what}, got {list(names)}")
    return dict(zip(names, things))


def _place(unit: Unit, sample: str) -> tuple[str, str, str, int]:
    return unit.record.benchmark, sample, unit.method, unit.seed
