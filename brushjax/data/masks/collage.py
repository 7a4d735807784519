"""Pictures whose masked region shows something else than the surroundings.

In plain crops the surroundings tell what the hole held, so a model can do without the prompt. In a
collage only the caption knows.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8


def paste(
    surroundings: UInt8[np.ndarray, "H W 3"],
    filling: UInt8[np.ndarray, "H W 3"],
    mask: UInt8[np.ndarray, "H W 1"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "H W 3"]:
    """Shows `filling` inside the mask (1) and `surroundings` outside, with a soft seam."""
    return mixed(surroundings, filling, seam(mask, rng))


def mixed(
    surroundings: UInt8[np.ndarray, "H W 3"],
    filling: UInt8[np.ndarray, "H W 3"],
    alpha: Float[np.ndarray, "H W 1"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Shows `filling` by the share alpha."""
    sums = surroundings + alpha * (filling.astype(np.float32) - surroundings)
    return np.rint(sums).astype(np.uint8)


def shares(
    side: int, rng: np.random.Generator, cells: int = 8, mean: tuple[float, float] = (0.2, 0.8)
) -> Float[np.ndarray, "H W 1"]:
    """Returns a map of random shares, float32 in 0..1, constant in each of cells x cells squares.

    It is smooth to grainy and vague to sharp at random; its mean lies between the two of `mean`.
    """
    grain, sharpness = rng.uniform(0, 1), np.exp(rng.uniform(0, 2))
    while True:
        coarse = cv2.resize(rng.normal(size=(3, 3)), (cells, cells), interpolation=cv2.INTER_CUBIC)
        field = (1 - grain) * coarse + grain * rng.normal(size=(cells, cells))
        alpha = 1 / (1 + np.exp(-sharpness * (field + rng.normal(0, 0.3))))
        if mean[0] <= alpha.mean() <= mean[1]:
            square = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_NEAREST)
            return square.astype(np.float32)[..., None]


def seam(mask: UInt8[np.ndarray, "H W 1"], rng: np.random.Generator) -> Float[np.ndarray, "H W 1"]:
    """Returns how much of what is pasted shows at each pixel, float32 in 0..1.

    The seam lies 3 to 5 % of the side inside the mask (less in thin holes), so what is pasted never
    shows in the kept region, and the first pixels of the hole still continue the surroundings.
    """
    side = mask.shape[0]
    # The border of the picture is no seam: the distance is to the nearest kept pixel.
    depth = cv2.distanceTransform(mask[..., 0], cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inset = min(side * rng.uniform(1 / 32, 1 / 20), depth.max() / 2.5)  # thin holes: less
    inside = (depth > inset).astype(np.float32)
    return cv2.GaussianBlur(inside, (0, 0), max(inset / 4, 0.75))[..., None] * mask
