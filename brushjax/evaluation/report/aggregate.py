"""What the rows say together: means with intervals, differences to a baseline, groups, seeds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from brushjax.evaluation.score import Scored
from brushjax.metrics.bootstrap import Bootstrap, Interval
from brushjax.metrics.metric import Metric
from brushjax.metrics.state import Mean


@dataclasses.dataclass(frozen=True)
class Summary:
    """One metric of one method on one benchmark.

    Attributes:
        group: a kind of edit ("": records of which no kind is known); None for all records.
        mean: over records, each the mean over its seeds; intervals draw whole sessions.
        rows: how many pictures are behind it; undefined: of them, those without such a number.
        sentinels: how many have the value that stands for "no difference at all".
        seeds: the mean of each seed; their spread says how much of a difference is noise.
    """

    benchmark: str
    group: str | None
    method: str
    metric: Metric
    mean: Interval
    rows: int
    undefined: int
    sentinels: int
    seeds: tuple[float, ...]

    @property
    def seed_spread(self) -> float:
        """Standard deviation between seeds (n - 1); NaN for one seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else math.nan


@dataclasses.dataclass(frozen=True)
class Change:
    """What a method changes against the baseline, on the same records.

    Attributes:
        difference: of the means, paired, drawn by session.
        improvement: the same as a share of the baseline's mean, above 0 where the method is better;
            None where such a share means nothing.
        by_group: `improvement` with whole groups drawn: whether it would hold for other kinds; None
            where there is one group.
    """

    benchmark: str
    method: str
    baseline: str
    metric: Metric
    difference: Interval
    improvement: Interval | None
    by_group: Interval | None

    @property
    def gain(self) -> Interval:
        """The difference, above 0 where the method is better."""
        return self.difference if self.metric.higher_is_better else _negative(self.difference)

    @property
    def significant(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.difference.low > 0 or self.difference.high < 0

    @property
    def better(self) -> bool | None:
        """Whether the method is better, where the metric knows and the interval decides."""
        if self.metric.higher_is_better is None or not self.significant:
            return None
        return (self.difference.value > 0) == self.metric.higher_is_better


def summaries(scored: Scored, bootstrap: Bootstrap) -> list[Summary]:
    """Every metric of every method on every benchmark, over all records."""
    return [
        _summary(scored, name, None, method, metric, bootstrap)
        for name, metrics in scored.metrics.items()
        for method in scored.methods(name)
        for metric in metrics
        if any(not math.isnan(row[metric.id]) for row in scored.of(name, method))
    ]


def by_group(scored: Scored, bootstrap: Bootstrap) -> list[Summary]:
    """The same for each group of the benchmarks that have more than one."""
    found = []
    for name, metrics in scored.metrics.items():
        rows = [row for method in scored.methods(name) for row in scored.of(name, method)]
        groups = list(dict.fromkeys(row["group"] for row in rows))
        for group in groups if len(groups) > 1 else ():
            for method in scored.methods(name):
                mine = [row for row in scored.of(name, method) if row["group"] == group]
                for metric in metrics:
                    if any(not math.isnan(row[metric.id]) for row in mine):
                        found.append(_summary(scored, name, group, method, metric, bootstrap))
    return found


def macro_mean(groups: Sequence[Summary], benchmark: str, method: str, metric: Metric) -> float:
    """Mean of the groups' means: every kind of edit has the same weight, whatever its records."""
    values = [
        one.mean.value
        for one in groups
        if (one.benchmark, one.method, one.metric.id) == (benchmark, method, metric.id)
    ]
    return float(np.mean(values)) if values else math.nan


def changes(scored: Scored, baseline: str, bootstrap: Bootstrap) -> list[Change]:
    """Every method against the baseline, where both were run; nothing without a baseline.

    Metrics of which neither end is better are not compared.
    """
    found = []
    for name, metrics in scored.metrics.items():
        if baseline not in scored.methods(name):
            continue
        for method in scored.methods(name):
            if method != baseline:
                for metric in (one for one in metrics if one.higher_is_better is not None):
                    change = _change(scored, name, method, baseline, metric, bootstrap)
                    if change.difference.count:
                        found.append(change)
    return found


def per_record(rows: Sequence[dict[str, Any]], metric: Metric) -> dict[tuple[str, int], float]:
    """(sample, turn) -> mean over seeds; NaN where no seed has the number."""
    values: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        values.setdefault((row["sample"], row["turn"]), []).append(row[metric.id])
    return {place: Mean.of(mine).compute() for place, mine in values.items()}


def _summary(
    scored: Scored, name: str, group: str | None, method: str, metric: Metric, bootstrap: Bootstrap
) -> Summary:
    rows = [row for row in scored.of(name, method) if group is None or row["group"] == group]
    values = np.array([row[metric.id] for row in rows])
    seeds = sorted({row["seed"] for row in rows})
    records = per_record(rows, metric)
    clusters = {(row["sample"], row["turn"]): row["session"] for row in rows}
    finite = np.array(list(records.values()))
    if np.isinf(finite).any():  # a script's infinite PSNR: its mean has no interval
        whole = Mean.of(finite)
        mean = Interval(whole.compute(), math.nan, math.nan, whole.count)
    else:
        mean = bootstrap.mean(finite, [clusters[place] for place in records])
    sentinel = metric.sentinel
    return Summary(
        benchmark=name,
        group=group,
        method=method,
        metric=metric,
        mean=mean,
        rows=len(rows),
        undefined=int(np.isnan(values).sum()),
        sentinels=0 if sentinel is None else int((values == sentinel).sum()),
        seeds=tuple(
            Mean.of([row[metric.id] for row in rows if row["seed"] == seed]).compute()
            for seed in seeds
        ),
    )


def _change(
    scored: Scored, name: str, method: str, baseline: str, metric: Metric, bootstrap: Bootstrap
) -> Change:
    rows = scored.of(name, method)
    after, before = per_record(rows, metric), per_record(scored.of(name, baseline), metric)
    places = [place for place in after if place in before]
    session = {(row["sample"], row["turn"]): row["session"] for row in rows}
    group = {(row["sample"], row["turn"]): row["group"] for row in rows}
    old, new = _finite(before, places), _finite(after, places)
    sessions, groups = [session[one] for one in places], [group[one] for one in places]

    def share(clusters: list) -> Interval:
        reduction = bootstrap.reduction(old, new, clusters)
        return _negative(reduction) if metric.higher_is_better else reduction

    shares = metric.has_percentages
    return Change(
        benchmark=name,
        method=method,
        baseline=baseline,
        metric=metric,
        difference=bootstrap.difference(old, new, sessions),
        improvement=share(sessions) if shares else None,
        by_group=share(groups) if shares and len(set(groups)) > 1 else None,
    )


def _negative(one: Interval) -> Interval:
    return Interval(-one.value, -one.high, -one.low, one.count)


def _finite(values: dict, places: list) -> Float[np.ndarray, " n"]:
    """The values at these places; an infinite one can't be part of a difference."""
    column = np.array([values[place] for place in places], np.float64)
    return np.where(np.isinf(column), np.nan, column)
