"""Metrics of plans: whether an instruction was taken for what it asks for."""

from __future__ import annotations

import math

from brushjax.metrics.metric import Metric
from brushjax.metrics.views import Views

PROFILE = "clean"
FIELDS = ("plan", "asked")


def made(sample: Views) -> float:
    """1 where there is a plan at all."""
    return float(bool(_pair(sample.plan)[0]))


def category(sample: Views) -> float:
    """1 where the category is the one that was asked for."""
    return float(_pair(sample.plan)[0] == _pair(sample.asked)[0])


def thing(sample: Views) -> float:
    """1 where the object is the one that was asked for; NaN where that is not known."""
    known = _pair(sample.asked)[1]
    return float(_pair(sample.plan)[1].lower() == known.lower()) if known else math.nan


def _pair(given: tuple[str, str] | None) -> tuple[str, str]:
    assert given is not None  # the metrics say that they need it
    return given


PLAN_METRICS = (
    Metric(PROFILE, "plan_made", ("plan",), made, scale="share"),
    Metric(PROFILE, "plan_category", FIELDS, category, scale="share"),
    Metric(PROFILE, "plan_object", FIELDS, thing, scale="share"),
)
