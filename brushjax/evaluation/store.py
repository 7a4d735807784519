"""Rows as Parquet files, written part by part: a part is there whole, or not at all."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brushjax.evaluation.records import BenchmarkError
from brushjax.files import write_bytes
from brushjax.identity import digest

TEXT, WHOLE, NUMBER, FLAG = "string", "int64", "float64", "bool"
Schema = Mapping[str, str]


def require_parquet() -> None:
    """Raises BenchmarkError, saying how to get it, where pyarrow is missing."""
    if importlib.util.find_spec("pyarrow") is None:
        raise BenchmarkError("rows are kept as Parquet: pip install pyarrow")


def write_part(folder: Path, rows: Sequence[Mapping[str, Any]], schema: Schema) -> Path:
    """Write rows as one more part of a folder.

    Args:
        rows: each with a `key`; the part is named after the keys, so that the same rows written
            again replace themselves.
        schema: column -> kind; NaN is written as null.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"part-{digest(*[row['key'] for row in rows])}.parquet"
    write_table(path, rows, schema)
    return path


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], schema: Schema) -> None:
    """Write rows as one Parquet file, in one piece.

    Raises:
        WriteError: the disk is full, or can't be written to; nothing half-written stays.
    """
    require_parquet()
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    columns = {name: [_cell(row.get(name)) for row in rows] for name in schema}
    kinds = arrow.schema([(name, getattr(arrow, _ARROW[kind])()) for name, kind in schema.items()])
    sink = arrow.BufferOutputStream()
    parquet.write_table(arrow.table(columns, schema=kinds), sink)
    write_bytes(path, sink.getvalue().to_pybytes())


def read_parts(folder: Path) -> dict[str, dict[str, Any]]:
    """The rows of all parts of a folder by key; null numbers become NaN.

    Raises:
        BenchmarkError: a file that is no Parquet, or two different rows of one key.
    """
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("part-*.parquet")):
        for row in read_table(path):
            before = rows.setdefault(row["key"], row)
            if before != row and not _alike(before, row):
                raise BenchmarkError(
                    f"{path} has another row of {row['key']} than an earlier part; delete one"
                )
    return rows


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file; null numbers become NaN.

    Raises:
        BenchmarkError: it is no Parquet file.
    """
    require_parquet()
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except (arrow.ArrowException, OSError) as error:
        raise BenchmarkError(
            f"{path} can't be read ({error}); delete it, it is made again"
        ) from error
    numbers = {field.name for field in table.schema if arrow.types.is_floating(field.type)}
    return [
        {
            name: math.nan if value is None and name in numbers else value
            for name, value in row.items()
        }
        for row in table.to_pylist()
    ]


_ARROW = {TEXT: "string", WHOLE: "int64", NUMBER: "float64", FLAG: "bool_"}


def _cell(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows say the same, apart from the time that was taken."""
    names = (one.keys() | other.keys()) - {"seconds"}
    return all(_cell(one.get(name)) == _cell(other.get(name)) for name in names)
