"""The tables of a report, each made once and then written as Markdown, LaTeX or HTML."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from brushjax.evaluation.report.aggregate import Change, Summary
from brushjax.evaluation.report.formats import markdown_table, number, percent
from brushjax.evaluation.report.names import meaning, title
from brushjax.evaluation.report.published import PublishedTable, tables_of
from brushjax.metrics.bootstrap import Interval

LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{sign: f"\\{sign}" for sign in "&%_#${}"},
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
SPLITS = ("brushbench-inside", "brushbench-outside")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is printed, and the number by which a reader may sort (NaN: last)."""

    text: str
    value: float = math.nan
    best: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """A table: the first cell of a row is its name."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def turned(self) -> Table:
        """Rows as columns."""
        columns = list(zip(*self.rows)) if self.rows else []
        names = [cell.text for cell in columns[0]] if columns else []
        rows = [
            [Cell(name), *cells] for name, cells in zip(self.head[1:], columns[1:], strict=False)
        ]
        return Table(self.title, [self.head[0], *names], rows, self.note)

    def upright(self) -> Table:
        """Turned so that it is longer than wide."""
        return self.turned() if len(self.rows) < len(self.head) - 1 else self

    def markdown(self) -> str:
        """As Markdown that also reads as plain text."""
        rows = [[cell.text for cell in row] for row in self.rows]
        note = f"\n{self.note}\n" if self.note else ""
        return f"{self.title}\n\n{markdown_table(self.head, rows)}{note}"

    def latex(self) -> str:
        """As a LaTeX tabular with the rules of booktabs; best numbers are bold."""
        lines = [f"% {self.title}", rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}"]
        lines += [r"\toprule", " & ".join(map(_escaped, self.head)) + r" \\", r"\midrule"]
        for row in self.rows:
            cells = [
                rf"\textbf{{{_escaped(cell.text)}}}" if cell.best else _escaped(cell.text)
                for cell in row
            ]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def means_table(
    means: Sequence[Summary],
    benchmark: str,
    group: str | None = None,
    oracles: Sequence[str] = (),
) -> Table:
    """Metrics by methods, each mean with its interval.

    Args:
        group: a kind of edit; None: all records.
        oracles: methods that see the truth, and so are not marked as best.
    """
    mine = [one for one in means if (one.benchmark, one.group) == (benchmark, group)]
    methods = list(dict.fromkeys(one.method for one in mine))
    found = {(one.metric.id, one.method): one for one in mine}
    rows = []
    for metric in {one.metric.id: one.metric for one in mine}.values():
        row = [found.get((metric.id, method)) for method in methods]
        rivals = [one.mean.value for one in row if one and one.method not in oracles]
        best = _best(rivals, metric.higher_is_better)
        cells = [
            Cell("-") if one is None else _mean(one, math.nan if one.method in oracles else best)
            for one in row
        ]
        rows.append([Cell(title(metric)), *cells])
    records = max((one.mean.count for one in mine), default=0)
    of = benchmark if group is None else f"{benchmark}, {group_name(group)}"
    return Table(f"{of}: {records} records", ["mean [95 % interval]", *methods], rows)


def group_name(group: str | None) -> str:
    """What a group is called; all records have no such name."""
    return "" if group is None else group or "(no group)"


def changes_table(
    changes: Sequence[Change],
    benchmark: str,
    names: Sequence[str] = (),
    oracles: Sequence[str] = (),
) -> Table | None:
    """What the methods change against the baseline; None where nothing was compared.

    Args:
        names: of the metrics to show; empty shows all.
        oracles: methods that see the truth, which are no rivals and not shown.
    """
    mine = [one for one in changes if one.benchmark == benchmark and one.method not in oracles]
    mine = [one for one in mine if not names or one.metric.name in names]
    if not mine:
        return None
    grouped = any(one.by_group for one in mine)
    head = ["method", "metric", "gain", "in percent", *(["over groups"] if grouped else [])]
    rows = []
    for one in mine:
        verdict = {True: " better", False: " worse", None: ""}[one.better]
        row = [
            Cell(one.method),
            Cell(title(one.metric)),
            Cell(number(one.gain) + verdict, one.gain.value),
            _share(one.improvement),
        ]
        rows.append([*row, _share(one.by_group)] if grouped else row)
    title_ = f"{benchmark}: against {mine[0].baseline}, on the same records"
    return Table(title_, head, rows, "Gains are above 0 where the method is better.")


def overview_table(
    changes: Sequence[Change], names: Sequence[str] = (), oracles: Sequence[str] = ()
) -> Table | None:
    """What the methods gain over the baseline on all benchmarks; None where there is one.

    Args:
        names, oracles: see `changes_table`.
    """
    mine = [one for one in changes if one.method not in oracles]
    mine = [one for one in mine if not names or one.metric.name in names]
    if len({one.benchmark for one in mine}) < 2:
        return None
    methods = list(dict.fromkeys(one.method for one in mine))
    rows: dict[str, dict[str, Cell]] = {}
    for one in mine:
        verdict = {True: " better", False: " worse", None: ""}[one.better]
        row = rows.setdefault(f"{one.benchmark}: {title(one.metric)}", {})
        row[one.method] = Cell(number(one.gain) + verdict, one.gain.value)
    cells = [[Cell(name), *(row.get(m, Cell("-")) for m in methods)] for name, row in rows.items()]
    head = [f"gain over {mine[0].baseline} [95 % interval]", *methods]
    note = "Paired: the same records, the same noise. A dash: the method was not run there."
    return Table("all benchmarks", head, cells, note)


def legend(methods: Mapping[str, str], means: Sequence[Summary]) -> dict[str, str]:
    """What every method and metric of a report is, by the name that the tables have for it."""
    metrics = {title(one.metric): meaning(one.metric) for one in means}
    return {**methods, **{name: text for name, text in metrics.items() if text}}


def _share(one: Interval | None) -> Cell:
    return Cell("-") if one is None else Cell(percent(one), one.value)


def paper_tables(means: Sequence[Summary], benchmark: str) -> list[Table]:
    """The papers' rows on a benchmark with ours below them, in the papers' units, and how far ours
    are from the paper's own.
    """
    tables = []
    ours = _ours(means, benchmark)
    for table, rows in tables_of(benchmark):
        wanted = [column.metric for column in table.columns]
        mine = {
            method: values
            for method, values in ours.items()
            if any(name in values for name in wanted if name)
        }
        if not mine:
            continue
        own = next((row for row in rows if row.method == table.own), None)
        cells = [
            [Cell(row.method + (" (!)" if row.misprints else "")), *map(_printed, row.values)]
            for row in rows
        ]
        for method, values in mine.items():
            cells.append([Cell(f"ours: {method}"), *_scaled(table, values)])
            if own is not None:
                theirs = table.values(own)
                gaps = {name: values[name] - theirs[name] for name in theirs if name in values}
                cells.append([Cell(f"ours: {method}, less {own.method}"), *_scaled(table, gaps)])
        notes = [
            *table.notes,
            *(f"(!) {r.method}: {'; '.join(r.misprints)}." for r in rows if r.misprints),
        ]
        head = ["method", *(column.name for column in table.columns)]
        tables.append(Table(f"{benchmark}: {table.source}", head, cells, " ".join(notes)))
    return tables


def paper_benchmarks(means: Sequence[Summary]) -> list[str]:
    """Benchmarks that papers may have rows of; BrushBench as a whole where both splits are here."""
    names = list(dict.fromkeys(one.benchmark for one in means))
    return [*names, *(["brushbench"] if set(SPLITS) <= set(names) else [])]


def _ours(means: Sequence[Summary], benchmark: str) -> dict[str, dict[str, float]]:
    """Means by method and by profile and name of the metric."""
    splits = SPLITS if benchmark == "brushbench" else (benchmark,)
    values: dict[str, dict[str, list[float]]] = {}
    for one in means:
        if one.benchmark in splits and one.group is None:
            name = f"{one.metric.profile}/{one.metric.name}"
            values.setdefault(one.method, {}).setdefault(name, []).append(one.mean.value)
    return {
        method: {n: sum(v) / len(v) for n, v in mine.items() if len(v) == len(splits)}
        for method, mine in values.items()
    }


def _scaled(table: PublishedTable, values: dict[str, float]) -> list[Cell]:
    scaled = [
        values[column.metric] * column.scale if column.metric in values else None
        for column in table.columns
    ]
    return [_printed(value) for value in scaled]


def _printed(value: float | int | None) -> Cell:
    """With the digits that the papers print: four below 1, two above."""
    if value is None or not math.isfinite(value):
        return Cell("-" if value is None else number(value))
    return Cell(f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}", float(value))


def _mean(one: Summary, best: float) -> Cell:
    scale = one.metric.scale
    digits = 2 if scale == "dB" else 4
    text = percent(one.mean) if scale == "share" else number(one.mean, digits)
    if one.undefined:
        text += f" (n {one.mean.count})"
    return Cell(text, one.mean.value, one.mean.value == best)


def _best(values: list[float], higher: bool | None) -> float:
    defined = [value for value in values if not math.isnan(value)]
    if higher is None or not defined:
        return math.nan
    return max(defined) if higher else min(defined)


def _escaped(text: str) -> str:
    return text.translate(LATEX)
