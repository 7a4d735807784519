"""The papers' tables as data, and whether their numbers can be."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

TABLES = Path(__file__).parent / "published/tables.json"
ROUNDING = 0.006  # of a printed PSNR in dB: half a unit of its second digit, and the MSE's likewise


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a printed table.

    Attributes:
        name: as printed, with the scale that the values have.
        metric: profile and name of the metric that reproduces it; empty where there is none.
        scale: what the metric is multiplied by to be in the table's units.
        higher_is_better: which end is better.
    """

    name: str
    metric: str
    scale: float | int
    higher_is_better: bool


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a printed table.

    Attributes:
        benchmark: name of the benchmark, as the adapters name it; "brushbench" is the mean of its
            two splits.
        method: as printed.
        values: as printed, one a column; None where there is none.
        misprints: what is known to be wrong with it.
    """

    benchmark: str
    method: str
    values: tuple[float | None, ...]
    misprints: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A printed table with its source and what is to be known about it.

    Attributes:
        own: name of the row that is the paper's own method.
    """

    id: str
    paper: str
    table: str
    own: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Paper and table."""
        return f"{self.paper}, {self.table}"

    def values(self, row: Row) -> dict[str, float]:
        """A row in the metrics' own units, by profile and name."""
        return {
            column.metric: value / column.scale
            for column, value in zip(self.columns, row.values, strict=True)
            if column.metric and value is not None
        }


@functools.lru_cache(maxsize=1)
def published() -> tuple[PublishedTable, ...]:
    """All tables."""
    return tuple(
        PublishedTable(
            entry["id"],
            entry["paper"],
            entry["table"],
            entry["own"],
            tuple(Column(**column) for column in entry["columns"]),
            tuple(
                Row(
                    row["benchmark"],
                    row["method"],
                    tuple(row["values"]),
                    tuple(row.get("misprints", ())),
                )
                for row in entry["rows"]
            ),
            tuple(entry["notes"]),
        )
        for entry in json.loads(TABLES.read_text(encoding="utf-8"))
    )


def tables_of(benchmark: str) -> list[tuple[PublishedTable, list[Row]]]:
    """The tables that report on a benchmark, with the rows that do."""
    found = ((table, [r for r in table.rows if r.benchmark == benchmark]) for table in published())
    return [(table, rows) for table, rows in found if rows]


def impossible(values: dict[str, float]) -> list[str]:
    """What can't be about means of one row, by profile and name of the metric.

    The arithmetic mean of the MSE is never below the geometric one, which is what a mean PSNR
    stands for: mean MSE >= 10 ** (-mean PSNR / 10). On pictures in [0, 1] a mean square is never
    above the mean absolute value, and neither is above 1.
    """
    found = []
    for name, psnr in values.items():
        if not _last(name).startswith("psnr"):
            continue
        mse = values.get(name.replace("psnr", "mse"))
        if mse is not None and mse < 10 ** (-(psnr + ROUNDING) / 10) - 1e-9:
            least = 10 ** (-psnr / 10)
            found.append(f"{name} {psnr:.2f} dB needs an MSE of {least:.3g} or more, got {mse:.3g}")
    for low, high in (("l2", "l1"), ("mse", "mae")):
        for name, small in values.items():
            large = values.get(_sibling(name, low, high))
            if _last(name).startswith(low) and large is not None and small > large + 1e-9:
                found.append(f"{name} {small:.4g} is above {_last(name, high, low)} {large:.4g}")
    for name, value in values.items():
        if _last(name) in ("l1", "l2") and value > 1:
            found.append(f"{name} {value:.4g} is above 1")
    return found


def suspicious_rows(tables: Sequence[PublishedTable] | None = None) -> list[tuple[str, str, str]]:
    """(table, benchmark, method) of every printed row with numbers that can't be."""
    return [
        (table.id, row.benchmark, row.method)
        for table in (published() if tables is None else tables)
        for row in table.rows
        if impossible(table.values(row))
    ]


def _last(name: str, new: str = "", old: str = "") -> str:
    """A metric's name without its profile."""
    last = name.rpartition("/")[2]
    return last.replace(old, new, 1) if new else last


def _sibling(name: str, old: str, new: str) -> str:
    """The name with the same profile and region, of another kind."""
    profile, slash, last = name.rpartition("/")
    return f"{profile}{slash}{last.replace(old, new, 1)}" if last.startswith(old) else ""
