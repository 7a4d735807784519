"""Pictures whose masked region shows something else than the surroundings.

In plain crops the surroundings tell what the hole held, so a model can do without the prompt. In a
collage only the caption knows.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8


def paste(
    surroundings: UInt8[np.ndarray, "H W 3"],
    filling: UInt8[np.ndarray, "H W 3"],
    mask: UInt8[np.ndarray, "H W 1"],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "H W 3"]:
    """Shows `filling` inside the mask (1) and `surroundings` outside, with a soft seam.

    The seam lies a random 1 to 4 % of the side inside the mask, so what is pasted never shows in the
    kept region, and the first pixels of the hole still continue the surroundings, as in a photograph.
    """
    side = mask.shape[0]
    inset = int(rng.integers(max(1, side // 100), side // 24 + 2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * inset + 1,) * 2)
    # The border of the picture is no seam: pixels beyond it count as masked.
    inside = cv2.erode(mask[..., 0], kernel, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), inset / 2)[..., None] * mask
    mixed = surroundings + alpha * (filling.astype(np.float32) - surroundings)
    return np.rint(mixed).astype(np.uint8)
