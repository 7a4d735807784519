"""How well a predicted edit region meets the annotated one; masks are boolean, True = edit."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

Region = Bool[np.ndarray, "_H _W"]


def iou(region: Region, truth: Region) -> float:
    """Intersection over union; NaN where both are empty."""
    both = _common(region, truth)
    return _ratio(both, region | truth)


def precision(region: Region, truth: Region) -> float:
    """Share of the predicted region that is annotated; NaN where nothing is predicted."""
    return _ratio(_common(region, truth), region)


def recall(region: Region, truth: Region) -> float:
    """Share of the annotated region that is predicted; NaN where nothing is annotated."""
    return _ratio(_common(region, truth), truth)


def auc(score: Float[np.ndarray, "_H _W"], truth: Region) -> float:
    """Share of pairs of an annotated pixel and another in which the annotated one scores higher; of
    equals half counts. NaN where all pixels or none are annotated."""
    inside, outside = np.sort(score[truth]), np.sort(score[~truth])
    if not (inside.size and outside.size):
        return np.nan
    below = np.searchsorted(outside, inside, "left") + np.searchsorted(outside, inside, "right")
    return float(below.mean() / (2 * outside.size))


def area(region: Region) -> float:
    """Share of the picture that is in the region."""
    return float(np.mean(region))


def _common(region: Region, truth: Region) -> Region:
    if region.shape != truth.shape:
        raise ValueError(f"expected masks of one size, got {region.shape} and {truth.shape}")
    return region & truth


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    count = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part)) / count if count else np.nan
