"""What a sweep found, and the files that say so."""

from __future__ import annotations

import csv
import dataclasses
import io
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.evaluation.generate import Gallery
from brushjax.evaluation.plan import Plan
from brushjax.evaluation.report import html
from brushjax.evaluation.report.aggregate import (
    Change,
    Summary,
    by_group,
    changes,
    macro_mean,
    summaries,
)
from brushjax.evaluation.report.formats import write_json
from brushjax.evaluation.report.grids import chosen, strip_of
from brushjax.evaluation.report.lint import Finding, lint
from brushjax.evaluation.report.samples import Samples, write_samples
from brushjax.evaluation.report.tables import (
    Table,
    changes_table,
    group_name,
    legend,
    means_table,
    overview_table,
    paper_benchmarks,
    paper_tables,
)
from brushjax.evaluation.score import Scored
from brushjax.evaluation.store import write_table
from brushjax.files import as_name, write_bytes, write_text
from brushjax.metrics.bootstrap import Bootstrap, Interval


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a sweep found.

    Attributes:
        plan, scored: every picture and its numbers.
        means, groups: over all records, and for each group of them.
        changes: against the baseline.
        findings: what is suspicious.
        notes: facts that the benchmarks add, by name.
        headline: names of the metrics whose changes are printed; empty prints all.
        methods: what each method is, by label.
    """

    plan: Plan
    scored: Scored
    means: list[Summary]
    groups: list[Summary]
    changes: list[Change]
    findings: list[Finding]
    notes: dict[str, str]
    headline: tuple[str, ...] = ()
    methods: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: Plan,
        scored: Scored,
        baseline: str,
        bootstrap: Bootstrap,
        headline: tuple[str, ...] = (),
        methods: Mapping[str, str] | None = None,
    ) -> Report:
        """Aggregates and checks the rows of a sweep."""
        means = summaries(scored, bootstrap)
        oracles = [label for label, method in plan.methods.items() if method.sees_truth]
        return cls(
            plan,
            scored,
            means,
            by_group(scored, bootstrap),
            changes(scored, baseline, bootstrap),
            lint(scored, means, plan.benchmarks, oracles),
            {name: text for name, one in plan.benchmarks.items() if (text := one.note())},
            headline,
            methods or {},
        )

    def flat(self) -> dict[str, float]:
        """Numbers by name, for a log; the first benchmark's without its name."""
        first = next(iter(self.plan.benchmarks))
        numbers = {}
        for one in self.means:
            prefix = "" if one.benchmark == first else f"{one.benchmark}/"
            profile = "" if one.metric.profile == "clean" else f"{one.metric.profile}/"
            numbers[f"{prefix}{one.method}/{profile}{one.metric.name}"] = one.mean.value
        for one in self.changes:
            shown = one.benchmark == first and one.metric.name in self.headline
            if shown and one.improvement is not None:
                numbers[f"{one.method}/improvement/{one.metric.name}"] = one.improvement.value
        return numbers

    def tables(self, name: str) -> list[Table]:
        """The tables of a benchmark that are printed."""
        found = [means_table(self.means, name, oracles=self._oracles)]
        against = changes_table(self.changes, name, self.headline, self._oracles)
        return [*found, *([against] if against else []), *paper_tables(self.means, name)]

    def markdown(self) -> str:
        """All tables, notes and findings."""
        parts = [] if self.overview is None else [self.overview.markdown()]
        for name in self.plan.benchmarks:
            parts += [table.markdown() for table in self.tables(name)]
            parts += [f"{self.notes[name]}\n"] if name in self.notes else []
        for name in paper_benchmarks(self.means):
            if name not in self.plan.benchmarks:
                parts += [table.markdown() for table in paper_tables(self.means, name)]
        parts.append("".join(f"- {finding}\n" for finding in self.findings))
        parts.append("".join(f"- `{name}`: {text}\n" for name, text in self.legend.items()))
        return "\n".join(part for part in parts if part)

    @property
    def overview(self) -> Table | None:
        """What the methods change on all benchmarks; None where there is one."""
        return overview_table(self.changes, self.headline, self._oracles)

    @property
    def legend(self) -> dict[str, str]:
        """What every method and metric is, by its name in the tables."""
        used = {one.method for one in self.means}
        methods = {label: text for label, text in self.methods.items() if label in used}
        return legend(methods, self.means)

    def write(self, out: Path, gallery: Gallery, about: Mapping[str, Any], shown: Shown) -> None:
        """Write scores.parquet, summary.json, table.{md,csv,tex}, changes.csv, report.html with the
        pictures beside it, strips.

        Args:
            about: environment, settings, weights and command.
            shown: how many pictures are shown.
        """
        write_table(out / "scores.parquet", self.scored.rows, self.scored.schema)
        write_text(out / "table.csv", self._csv())
        write_text(out / "changes.csv", self._changes_csv())
        write_text(out / "table.tex", self._latex())
        write_json(out / "summary.json", self._summary(about))
        panels = {
            name: chosen(self.plan, self.scored, name, shown.examples)
            for name in self.plan.benchmarks
        }
        samples = write_samples(out, self.plan, self.scored, gallery, panels)
        write_text(out / "report.html", self._html(about, samples))
        for name in self.plan.benchmarks:
            sheet = strip_of(self.plan, gallery, name, shown.strips) if shown.strips else None
            if sheet is not None:
                buffer = io.BytesIO()
                sheet.save(buffer, format="PNG")
                write_bytes(out / f"{as_name(name)}.png", buffer.getvalue())
        write_text(out / "table.md", self.markdown())  # last: its presence says that all is there

    @property
    def _oracles(self) -> list[str]:
        return [label for label, method in self.plan.methods.items() if method.sees_truth]

    def _html(self, about: Mapping[str, Any], samples: Samples) -> str:
        sections = {}
        if self.overview is not None:
            sections["all benchmarks"] = html.Section([self.overview])
        for name in self.plan.benchmarks:
            means, *others = self.tables(name)
            groups = list(dict.fromkeys(one.group for one in self.groups if one.benchmark == name))
            grouped = [means_table(self.groups, name, one, self._oracles) for one in groups]
            sections[name] = html.Section(
                [means.upright(), *others],
                [table.upright() for table in grouped],
                self.notes.get(name, ""),
            )
        both = [name for name in paper_benchmarks(self.means) if name not in sections]
        for name in both:
            if tables := paper_tables(self.means, name):
                sections[name] = html.Section(tables)
        return html.page(self._head(about), sections, self.findings, about, samples)

    def _head(self, about: Mapping[str, Any]) -> html.Head:
        counts = dict.fromkeys(self.plan.benchmarks, 0)
        for name, _ in {(unit.record.benchmark, unit.record.cluster) for unit in self.plan.scored}:
            counts[name] += 1
        used = about.get("environment", {})
        facts = {
            "made": about.get("date", ""),
            "command": about.get("command", ""),
            "benchmarks": ", ".join(f"{name} ({count})" for name, count in counts.items()),
            "methods": ", ".join(self.plan.methods),
            "seeds": ", ".join(map(str, sorted({unit.seed for unit in self.plan.units}))),
            "with": ", ".join(f"{name} {version}" for name, version in used.items()),
        }
        title = f"Evaluation on {', '.join(self.plan.benchmarks)}"
        return html.Head(title, {name: text for name, text in facts.items() if text}, self.legend)

    def _latex(self) -> str:
        tables = [table for name in self.plan.benchmarks for table in self.tables(name)]
        first = [table.turned() if "interval" in table.head[0] else table for table in tables]
        return "\n".join(table.latex() for table in first)

    def _csv(self) -> str:
        head = ["benchmark", "group", "method", "metric", "mean", "low", "high", "records"]
        head += ["pictures", "undefined", "sentinels", "seeds", "seed_spread", "mean_of_groups"]
        rows = []
        for one in [*self.means, *self.groups]:
            macro = (
                macro_mean(self.groups, one.benchmark, one.method, one.metric)
                if one.group is None
                else ""
            )
            mean = one.mean
            row = [one.benchmark, group_name(one.group), one.method, one.metric.id]
            row += [mean.value, mean.low, mean.high, mean.count, one.rows, one.undefined]
            rows.append([*row, one.sentinels, len(one.seeds), one.seed_spread, macro])
        return _csv(head, rows)

    def _changes_csv(self) -> str:
        head = ["benchmark", "method", "baseline", "metric", "difference", "low", "high"]
        head += ["improvement", "improvement_low", "improvement_high", "records", "better"]
        rows = [
            [
                *(one.benchmark, one.method, one.baseline, one.metric.id),
                *(one.difference.value, one.difference.low, one.difference.high),
                *_ends(one.improvement),
                *(one.difference.count, "" if one.better is None else one.better),
            ]
            for one in self.changes
        ]
        return _csv(head, rows)

    def _summary(self, about: Mapping[str, Any]) -> dict[str, Any]:
        means: dict[str, dict[str, dict[str, Any]]] = {}
        for one in self.means:
            described = {
                **dataclasses.asdict(one.mean),
                "pictures": one.rows,
                "undefined": one.undefined,
                "sentinels": one.sentinels,
                "seeds": list(one.seeds),
                "higher_is_better": one.metric.higher_is_better,
            }
            means.setdefault(one.benchmark, {}).setdefault(one.method, {})[one.metric.id] = (
                described
            )
        return {
            "means": means,
            "changes": [
                {**dataclasses.asdict(one), "metric": one.metric.id, "better": one.better}
                for one in self.changes
            ],
            "findings": self.findings,
            "notes": self.notes,
            "seconds_per_picture": self._seconds(),
            **about,
        }

    def _seconds(self) -> dict[str, float]:
        """Median by method, on which the compiling batch counts little."""
        return {
            method: float(np.median([row["seconds"] for row in rows]))
            for method in self.plan.methods
            if (rows := [row for row in self.scored.rows if row["method"] == method])
        }


@dataclasses.dataclass(frozen=True)
class Shown:
    """How many records are shown.

    Attributes:
        strips: in the picture strips.
        examples: among the best, the worst and the random ones that report.html looks through, of
            each benchmark.
    """

    strips: int = 12
    examples: int = 100


def environment() -> dict[str, str]:
    """Versions, and the devices where there was something to compute on them."""
    import brushjax

    versions = {name: metadata.version(name) for name in ("jax", "flax", "numpy", "pillow")}
    found = {"brushjax": brushjax.__version__, **versions, "python": platform.python_version()}
    if "jax" in sys.modules:
        devices = sys.modules["jax"].devices()
        kind = devices[0].device_kind
        found["device"] = f"{len(devices)} x {kind} ({devices[0].platform})"
    return found


def _ends(interval: Interval | None) -> tuple[float | str, ...]:
    return ("", "", "") if interval is None else (interval.value, interval.low, interval.high)


def _csv(head: list[str], rows: list[list[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([head, *rows])
    return buffer.getvalue()
