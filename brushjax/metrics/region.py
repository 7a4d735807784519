"""How well a predicted edit region meets the annotated one; masks are boolean, True = edit."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool

Region = Bool[np.ndarray, "H W"]


def iou(region: Region, truth: Region) -> float:
    """Intersection over union; NaN where both are empty."""
    return _ratio(region & truth, region | truth)


def precision(region: Region, truth: Region) -> float:
    """Share of the predicted region that is annotated; NaN where nothing is predicted."""
    return _ratio(region & truth, region)


def recall(region: Region, truth: Region) -> float:
    """Share of the annotated region that is predicted; NaN where nothing is annotated."""
    return _ratio(region & truth, truth)


def area(region: Region) -> float:
    """Share of the picture that is in the region."""
    return float(np.mean(region))


def _ratio(part: np.ndarray, whole: np.ndarray) -> float:
    if part.shape != whole.shape:
        raise ValueError(f"expected masks of one size, got {part.shape} and {whole.shape}")
    count = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part)) / count if count else np.nan
