"""What is suspicious about a sweep's numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from brushjax.evaluation.generate import NOT_FINITE
from brushjax.evaluation.records import Benchmark
from brushjax.evaluation.report.aggregate import Summary
from brushjax.evaluation.report.published import impossible
from brushjax.evaluation.score import Scored


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something to look at.

    Attributes:
        level: "error": the numbers must not be used; "warning": know this before using them;
            "note": what a reader should know.
        where: benchmark and method.
        text: what it is, and what to do.
    """

    level: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.text}"


def lint(
    scored: Scored,
    means: Sequence[Summary],
    benchmarks: Mapping[str, Benchmark],
    oracles: Sequence[str] = (),
) -> list[Finding]:
    """All findings, errors first.

    Args:
        oracles: methods that see the truth: that they leave their sources as they are is no news.
    """
    found: list[Finding] = []
    for name, benchmark in benchmarks.items():
        for method in scored.methods(name):
            where, rows = f"{name}, {method}", scored.of(name, method)
            seen = method in oracles
            found += [Finding(level, where, text) for level, text in _pictures(rows, seen)]
            found += [Finding(level, where, text) for level, text in _count(rows, benchmark)]
            mine = [one for one in means if (one.benchmark, one.method) == (name, method)]
            found += [Finding(level, where, text) for level, text in _numbers(mine, seen)]
        found += [Finding("warning", name, text) for text in _twins(scored, name)]
    return sorted(found, key=lambda one: one.level)


def _pictures(rows: Sequence[Mapping[str, Any]], oracle: bool) -> Iterator[tuple[str, str]]:
    def count(flag: str) -> int:
        return sum(bool(row[flag]) for row in rows)

    if black := count("black"):
        level = "error" if black == len(rows) else "warning"
        yield level, f"{black} of {len(rows)} pictures are black; turn off a safety checker"
    if lost := sum(row["fault"] == NOT_FINITE for row in rows):
        yield "warning", f"{lost} of {len(rows)} pictures are missing: the networks gave NaN"
    if (same := count("unchanged")) and not oracle:
        yield "warning", f"{same} of {len(rows)} results are their sources, unchanged"
    if sizes := count("other_size"):
        yield (
            "warning",
            f"{sizes} of {len(rows)} results have another size than their sources: the profile"
            " clean leaves them out, the papers' profiles resize them",
        )
    if equal := count("equal_captions"):
        yield "warning", f"{equal} of {len(rows)} records have the same caption before and after"


def _count(rows: Sequence[Mapping[str, Any]], benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    records = {(row["sample"], row["turn"]) for row in rows}
    expected = benchmark.published_count
    if expected and len(records) != expected:
        yield "warning", f"{len(records)} records where {expected} were published"


def _numbers(means: Sequence[Summary], oracle: bool) -> Iterator[tuple[str, str]]:
    # Compared on the same rows: a number that some rows lack says nothing about the others.
    whole = [one for one in means if not one.undefined]
    values = {f"{one.metric.profile}/{one.metric.name}": one.mean.value for one in whole}
    for text in impossible(values):
        yield "error", f"impossible: {text}"
    for one in means:
        if one.sentinels and not oracle:
            yield (
                "warning",
                f"{one.metric.id}: {one.sentinels} of {one.rows} pictures have"
                f" {one.metric.sentinel:g}, which stands for no difference, in the mean",
            )
        if one.metric.name in ("judge_unanswered", "judge_unparsed") and one.mean.value > 0:
            what = {"judge_unanswered": "are missing", "judge_unparsed": "can't be read"}
            share = f"{one.mean.value:.1%} of the judge's answers {what[one.metric.name]}"
            yield "warning", f"{share} and are in no mean"
        if one.undefined:
            text = f"{one.metric.id} is undefined for {one.undefined} of {one.rows} pictures"
            yield "warning", text


def _twins(scored: Scored, name: str) -> Iterator[str]:
    """Methods, and seeds of a method, that made the same pictures throughout."""
    made: dict[tuple[str, ...], list[str]] = {}
    for method in scored.methods(name):
        rows = scored.of(name, method)
        for seed in sorted({row["seed"] for row in rows}):
            pictures = tuple(row["sha256"] for row in rows if row["seed"] == seed)
            if any(pictures):
                made.setdefault(pictures, []).append(f"{method} with seed {seed}")
    for names in made.values():
        if len(names) > 1:
            yield f"the same pictures throughout: {', '.join(names)}"
