"""All metrics by id. Adding one is adding it to a profile's tuple."""

from __future__ import annotations

from collections.abc import Iterable

from brushjax.metrics.metric import Features, Metric, Need
from brushjax.metrics.profiles import clean, local, papers
from brushjax.metrics.views import Views

METRICS: dict[str, Metric] = {
    metric.id: metric for metric in (*clean.METRICS, *papers.METRICS, *local.METRICS)
}
PROFILES = tuple(dict.fromkeys(metric.profile for metric in METRICS.values()))


def select(
    profiles: Iterable[str] = ("clean",),
    names: Iterable[str] | None = None,
    networks: Iterable[str] | None = None,
) -> tuple[Metric, ...]:
    """Metrics of these profiles, all or those with these names.

    Args:
        names: such as "psnr_keep"; None takes all.
        networks: what there are weights for, such as ("clip_l14",); None takes metrics whatever
            they need, () those on pixels alone.

    Raises:
        ValueError: an unknown profile, or a name that no profile here has.
    """
    profiles, names = tuple(profiles), None if names is None else set(names)
    unknown = set(profiles) - set(PROFILES)
    if unknown:
        raise ValueError(f"unknown profiles {sorted(unknown)}; expected some of {PROFILES}")
    found = [metric for metric in METRICS.values() if metric.profile in profiles]
    if names is not None:
        missing = names - {metric.name for metric in found}
        if missing:
            raise ValueError(
                f"no metric {sorted(missing)} in {profiles}; there are "
                f"{sorted({metric.name for metric in found})}"
            )
        found = [metric for metric in found if metric.name in names]
    if networks is not None:
        there = set(networks)
        found = [m for m in found if {need.network for need in m.needs} <= there]
    return tuple(found)


def needs_of(metrics: Iterable[Metric]) -> tuple[Need, ...]:
    """Every feature that some of these metrics need, once."""
    return tuple(dict.fromkeys(need for metric in metrics for need in metric.needs))


def score(metrics: Iterable[Metric], sample: Views, features: Features) -> dict[str, float]:
    """{id: value} of one sample, for the metrics that apply to it.

    Values are NaN where a metric is not defined for the sample.
    """
    values: dict[str, float] = {}
    for metric in metrics:
        if metric.applies(sample):
            values |= metric(sample, features)
    return values
