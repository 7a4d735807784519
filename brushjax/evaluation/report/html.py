"""The report as one static HTML file: tables that sort at a click, and pictures inside it."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from brushjax.evaluation.report.grids import Grid
from brushjax.evaluation.report.lint import Finding
from brushjax.evaluation.report.tables import Table

SIDE = 160  # pixels of a picture's longer side in the report

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1400px;
  padding: 0 1rem; color: #1c1c1c; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc }
h3 { font-size: 1rem; margin: 1.5rem 0 .3rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .87rem }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left }
thead th { cursor: pointer; user-select: none; background: #f3f3f3; position: sticky; top: 0 }
thead th[aria-sort=ascending]::after { content: " \\25B2" }
thead th[aria-sort=descending]::after { content: " \\25BC" }
td.best { font-weight: 700 }
.error { color: #a40000; font-weight: 600 } .warning { color: #7a5200 }
figure { display: inline-block; margin: 0 .4rem .4rem 0; text-align: center; font-size: .78rem }
figure img { display: block; image-rendering: auto }
.row { border-top: 1px solid #eee; padding: .5rem 0 } .row p { margin: 0 0 .2rem }
summary { cursor: pointer; margin: 1rem 0 }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem }
"""

SCRIPT = """
document.querySelectorAll("table").forEach(table => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const up = head.getAttribute("aria-sort") === "descending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const cell = row.cells[column], value = cell.dataset.value;
        return value === undefined ? cell.textContent : Number(value);
      };
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => {
        const x = key(a), y = key(b);
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        const order = typeof x === "number" ? x - y : x.localeCompare(y);
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.tabIndex = 0;
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
});
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """What is said of a benchmark; tables of its groups are folded away."""

    tables: Sequence[Table]
    grids: Sequence[Grid] = ()
    groups: Sequence[Table] = ()
    note: str = ""


def page(
    title: str,
    sections: Mapping[str, Section],
    findings: Sequence[Finding],
    about: Mapping[str, Any],
) -> str:
    """The whole report.

    Args:
        sections: by heading.
        findings: shown first: a reader should know them before the numbers.
        about: environment, settings and command, shown last as JSON.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _findings(findings)]
    for heading, section in sections.items():
        parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(section.note)}</p>")
        parts += [_table(table) for table in section.tables]
        parts += [_grid(grid) for grid in section.grids]
        if section.groups:
            inside = "\n".join(_table(table) for table in section.groups)
            parts.append(f"<details><summary>by group</summary>{inside}</details>")
    described = html.escape(json.dumps(about, indent=2, default=str))
    parts += ["<h2>How this was made</h2>", f"<pre>{described}</pre>"]
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{html.escape(title)}</title>",
        f"<style>{STYLE}</style></head><body>",
        *parts,
        f"<script>{SCRIPT}</script></body></html>",
    ]
    return "\n".join(lines) + "\n"


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>The checks found nothing suspicious.</p>"
    items = [
        f'<li class="{one.level}">{html.escape(f"{one.where}: {one.text}")}</li>'
        for one in findings
    ]
    return f"<ul>{''.join(items)}</ul>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.head)
    rows = []
    for row in table.rows:
        cells = []
        for cell in row:
            value = "" if math.isnan(cell.value) else f' data-value="{cell.value!r}"'
            best = ' class="best"' if cell.best else ""
            cells.append(f"<td{best}{value}>{html.escape(cell.text)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    return (
        f'<h3>{html.escape(table.title)}</h3>\n<div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _grid(grid: Grid) -> str:
    parts = [f"<h3>{html.escape(grid.heading)}</h3>"]
    for row in grid.rows:
        figures = "".join(
            f'<figure><img src="{_embedded(picture)}" alt="{html.escape(name)}">'
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
            for name, picture in row.pictures.items()
        )
        parts.append(f'<div class="row"><p>{html.escape(row.caption)}</p>{figures}</div>')
    return "\n".join(parts)


def _embedded(picture: np.ndarray) -> str:
    """A picture as a data address, no larger than the report needs."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
