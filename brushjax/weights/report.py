"""What the command line prints about weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brushjax.weights.convert import Compared, check, convert
from brushjax.weights.reading import Weights, list_tensors

MEGA = 1e6


def convert_command(kind: str, source: str, target: str, dry_run: bool, **options: Any) -> int:
    """Converts, and prints what was written and what was left out; `options` are `convert`'s."""
    models = convert(kind, source, target, dry_run=dry_run, **options)
    for weights in models:
        print(_summary(weights))
    print(f"would write {target}" if dry_run else f"wrote {target}")
    if kind == "pipeline" and not Path(source).is_dir():
        print("SRC is no folder: the tokenizer, if wanted, comes from the base model.")
    return 0


def _summary(weights: Weights) -> str:
    lines = [
        f"{weights.kind}: {len(weights.tensors)} tensors, {weights.nbytes / MEGA:.1f} MB, "
        f"read from the layout {weights.layout}"
    ]
    reasons: dict[str, int] = {}
    for reason in weights.ignored.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    lines += [f"  left out {count}: {reason}" for reason, count in sorted(reasons.items())]
    return "\n".join(lines)


def check_command(
    kind: str,
    first: str,
    second: str,
    config: Any,
    tolerance: float,
    show_all: bool,
    *,
    without: Sequence[str] = (),
) -> int:
    """Prints the tensors that differ; returns 1 if there are any, else 0."""
    rows = list(check(kind, first, second, config, without))
    different = [row for row in rows if row.problem or not row.difference <= tolerance]
    shown = rows if show_all else different
    if shown:
        _print_table(
            ("tensor", "SRC", "DST", "max abs difference", ""), [_check_cells(row) for row in shown]
        )
    equal = sum(row.bit_equal for row in rows)
    line = f"{len(rows)} tensors: {equal} bit-equal, "
    line += f"{len(different)} differ by more than {tolerance:g}"
    if different and not any(row.problem for row in different):
        most = max(row.difference for row in different)
        line += f", by {most:.3g} at most (--tolerance allows differences, as between dtypes)"
    print(line)
    return 1 if different else 0


def _check_cells(row: Compared) -> tuple[str, ...]:
    verdict = row.problem or ("bit-equal" if row.bit_equal else "")
    return (row.name, row.dtypes[0] or "-", row.dtypes[1] or "-", f"{row.difference:.3g}", verdict)


def list_command(kind: str, source: str) -> int:
    """Prints the tensors in a file or folder."""
    rows = list_tensors(kind, source)
    cells = [
        (row.name, "x".join(map(str, row.shape)), row.dtype, str(row.nbytes), row.ignored or "")
        for row in rows
    ]
    _print_table(("tensor", "shape", "dtype", "bytes", "left out because"), cells)
    print(f"{len(rows)} tensors, {sum(row.nbytes for row in rows) / MEGA:.1f} MB")
    return 0


def _print_table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for row in [titles, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
