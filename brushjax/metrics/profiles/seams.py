"""Metrics of the seam that inpainting leaves, on raw (unblended) results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from brushjax.metrics import pixel
from brushjax.metrics.metric import Metric
from brushjax.metrics.views import RESULT, TRUTH, Views


def _seam(function: Callable[..., np.ndarray]) -> Callable[[Views], float]:
    def value(views: Views) -> float:
        result, truth, hole = views.picture(RESULT), views.picture(TRUTH), views.hole()
        return float(function(result[None], truth[None], hole[None])[0])

    return value


SEAM_METRICS = tuple(
    Metric("clean", name, ("truth", "mask"), _seam(function), higher_is_better=False)
    for name, function in (
        ("ring_error", pixel.ring_error),
        ("edge_discontinuity", pixel.edge_discontinuity),
        ("edge_step", pixel.edge_step),
    )
)
