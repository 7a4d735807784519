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
    alpha = seam(mask, rng)
    mixed = surroundings + alpha * (filling.astype(np.float32) - surroundings)
    return np.rint(mixed).astype(np.uint8)


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
