"""Structural similarity, in both conventions about the picture's border."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float

from brushjax.metrics.pixel import Masks, Pictures, Values, region_mean, to_unit

SIGMA = 1.5
TAPS = 11
C1, C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 with the range L = 1


def ssim_map(pictures: Pictures, truth: Pictures) -> Float[np.ndarray, "B H W C"]:
    """SSIM of the Gaussian window (11 taps, sigma 1.5) around every pixel, per channel.

    Windows that reach over the frame see the picture mirrored there, its frame not repeated.

    Raises:
        ValueError: a side is shorter than the window's reach.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity"
    (2004), eq. 13, with the constants of its authors' code.
    """
    a, b = to_unit(pictures), to_unit(truth)
    if a.shape != b.shape:
        raise ValueError(f"expected pictures of one shape, got {a.shape} and {b.shape}")
    if min(a.shape[1:3]) <= TAPS // 2:
        raise ValueError(f"expected sides of more than {TAPS // 2} pixels, got {a.shape[1:3]}")
    return np.stack([_ssim(one, other) for one, other in zip(a, b)])


def ssim(
    pictures: Pictures,
    truth: Pictures,
    region: Masks | None = None,
    *,
    crop_border: bool = False,
) -> Values:
    """Mean SSIM over the region; without a region, over all pixels.

    Args:
        crop_border: leave out the five pixels along the frame, as torchmetrics did up to 1.4.
    """
    values = ssim_map(pictures, truth)
    if crop_border:
        reach = TAPS // 2
        values = values[:, reach:-reach, reach:-reach]
        region = None if region is None else region[:, reach:-reach, reach:-reach]
    return region_mean(values, region)


def _ssim(a: Float[np.ndarray, "H W C"], b: Float[np.ndarray, "H W C"]) -> np.ndarray:
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a = np.maximum(_blur(a * a) - mean_a**2, 0)  # rounding may leave it below zero
    variance_b = np.maximum(_blur(b * b) - mean_b**2, 0)
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + C1) / (mean_a**2 + mean_b**2 + C1)
    return luminance * (2 * covariance + C2) / (variance_a + variance_b + C2)


def _blur(values: np.ndarray) -> np.ndarray:
    steps = np.arange(TAPS) - TAPS // 2
    kernel = np.exp(-(steps**2) / (2 * SIGMA**2))
    kernel /= kernel.sum()
    blurred = cv2.sepFilter2D(values, cv2.CV_64F, kernel, kernel, borderType=cv2.BORDER_REFLECT_101)
    return blurred.reshape(values.shape)  # OpenCV drops a lone channel
