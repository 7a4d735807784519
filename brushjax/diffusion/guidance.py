"""Guidance of the prediction, and blending the result into the original picture."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

BLENDS = ("feather", "paste", "none", "brushnet", "brushedit")
FEATHER_RADIUS = 10  # pixels: half of BrushNet's 21-pixel Gaussian window


def guided(
    predictions: Sequence[Float[Array, " B *S"]], scales: Float[Array, " n"]
) -> Float[Array, " B *S"]:
    """Weighs the predictions of n + 1 conditions, each of which says more than the one before it:
    e_0 + sum_i g_i (e_i - e_(i-1)).

    With two conditions this is classifier-free guidance, the weights of negative and positive being
    (1 - g, g). With (nothing, image, image and text) it is the dual guidance of instruct-pix2pix,
    the weights being (1 - g_I, g_I - g_T, g_T).

    Args:
        predictions: of the conditions, the least conditioned first.
        scales: g_1 ... g_n; 1 everywhere gives the last prediction.

    Source: Ho & Salimans 2022, eq. 6 with g = 1 + w; Brooks et al. 2023, eq. 3.
    """
    result = predictions[0]
    for i, (less, more) in enumerate(itertools.pairwise(predictions)):
        result = result + scales[i] * (more - less)
    return result


def blend(
    original: UInt8[np.ndarray, "*B H W 3"],
    generated: UInt8[np.ndarray, "*B H W 3"],
    mask: UInt8[np.ndarray, "*B H W 1"],
    mode: str = "feather",
) -> UInt8[np.ndarray, "*B H W 3"]:
    """Puts the generated picture into the hole of the original.

    Args:
        original, generated: RGB 0..255.
        mask: 1 = hole, 0 = keep.
        mode: "feather": all generated inside the hole and a Gaussian fall-off outwards; nothing
            changes further than FEATHER_RADIUS pixels from the hole (per axis). "paste": exactly
            the original outside the hole. "none": the generated picture as it is. "brushnet" and
            "brushedit": bit for bit what the test script of the one and the app of the other do,
            for comparing with them; the first truncates where "feather" rounds, the second mixes
            original and generated picture half and half even far from the hole.

    Raises:
        ValueError: unknown mode.

    Source: BrushNet's test script: 1 - (1 - mask)(1 - blurred mask); BrushEdit's app:
        0.5 + 0.5 blurred mask.
    Differs: docs/deviations.md#blending.
    """
    if mode not in BLENDS:
        raise ValueError(f"expected blend in {BLENDS}, got {mode!r}")
    if mode == "none":
        return generated
    if mode in ("brushnet", "brushedit"):
        return _published(original, generated, mask.astype(np.float64), mode)
    hole = mask.astype(np.float32)
    weight = 1.0 - (1.0 - hole) * (1.0 - blurred(hole)) if mode == "feather" else hole
    mixed = original * (1.0 - weight) + generated * weight
    return np.rint(mixed).astype(np.uint8)


def _published(original: np.ndarray, generated: np.ndarray, hole: np.ndarray, mode: str) -> Any:
    """In float64 and with OpenCV's own blur: truncating makes every last bit count."""
    import cv2  # here: only these two modes need it

    side = 2 * FEATHER_RADIUS + 1
    flat = 255.0 * hole.reshape(-1, *hole.shape[-3:-1])
    soft = np.stack([cv2.GaussianBlur(one, (side, side), 0) / 255.0 for one in flat])
    soft = soft.reshape(hole.shape)
    weight = 1.0 - (1.0 - hole) * (1.0 - soft) if mode == "brushnet" else 0.5 * soft + 0.5
    return (original * (1.0 - weight) + generated * weight).astype(np.uint8)


def blurred(mask: Float[np.ndarray, "*B H W 1"]) -> Float[np.ndarray, "*B H W 1"]:
    """21x21 Gaussian blur with reflected borders, as OpenCV does for a sigma of 0."""
    for axis in (-3, -2):
        lines = np.moveaxis(mask, axis, 0)
        around = [(FEATHER_RADIUS, FEATHER_RADIUS)] + [(0, 0)] * (mask.ndim - 1)
        padded = np.pad(lines, around, mode="reflect")
        total = np.zeros_like(lines)
        for k, weight in enumerate(_window()):
            total += weight * padded[k : k + len(lines)]
        mask = np.moveaxis(total, 0, axis)
    return mask


@functools.cache
def _window() -> np.ndarray:
    offset = np.arange(-FEATHER_RADIUS, FEATHER_RADIUS + 1)
    sigma = 0.3 * (FEATHER_RADIUS - 1) + 0.8  # OpenCV's rule for a window of 21: 3.5
    window = np.exp(-(offset**2) / (2 * sigma**2))
    return (window / window.sum()).astype(np.float32)
