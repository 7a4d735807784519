"""Tables of an evaluation: Markdown for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brushjax.files import write_text
from brushjax.metrics.bootstrap import Interval


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads as plain text; the first column is left-aligned."""
    widths = [max(3, *(len(row[column]) for row in (head, *rows))) for column in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (head, rule, *rows):
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:])]
        lines.append(f"| {' | '.join(cells)} |\n")
    return "".join(lines)


def number(value: float | Interval, digits: int = 4) -> str:
    """A number, with its interval if it has one: `0.0812 [0.0771, 0.0853]`; undefined is a dash."""
    if isinstance(value, Interval) and math.isnan(value.low):
        return number(value.value, digits)
    if isinstance(value, Interval):
        ends = f"{number(value.low, digits)}, {number(value.high, digits)}"
        return f"{number(value.value, digits)} [{ends}]"
    return _rounded(value, digits) if math.isfinite(value) else _undefined(value)


def percent(value: float | Interval) -> str:
    """A share in percent with its interval, if it has one: `41.3 % [35.0, 47.2]`."""
    if isinstance(value, Interval) and math.isnan(value.low):
        return percent(value.value)
    if isinstance(value, Interval):
        ends = f"{_rounded(100 * value.low, 1)}, {_rounded(100 * value.high, 1)}"
        return f"{percent(value.value)} [{ends}]"
    return f"{_rounded(100 * value, 1)} %" if math.isfinite(value) else _undefined(value)


def _rounded(value: float, digits: int) -> str:
    """Without a minus where nothing is left of the number."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _undefined(value: float) -> str:
    return "-" if math.isnan(value) else "inf" if value > 0 else "-inf"


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one piece; dataclasses become objects, NaN becomes null (JSON has none)."""
    write_text(path, json.dumps(_plain(value), indent=2) + "\n")


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one JSON object a line, in one piece."""
    write_text(path, "".join(json.dumps(_plain(row)) + "\n" for row in rows))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
