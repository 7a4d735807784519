"""The one reader of masks: which part of a picture a mask picture marks.

White marks what is to be edited. Where a mask has transparent parts, its alpha alone is the mask,
and whether the opaque or the transparent part is meant is a setting. Left to "auto", the frame
decides, and the mask says so: a hole lies inside an opaque frame, a brush layer inside an empty
one.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax.data.sources import pictures
from brushjax.data.sources.pictures import MOST_PIXELS

ALPHAS = ("auto", "opaque", "transparent")
CLEAR_FRAME = 0.75  # share of the frame that must be of one kind
FAINTEST = 13  # of 255: a fainter brush is taken for none


@dataclasses.dataclass(frozen=True)
class Mask:
    """A mask as read.

    Attributes:
        white: 0..255; from 128 on a pixel is to be edited.
        reading: how the alpha was read, where the mask itself had to tell; else empty.
    """

    white: UInt8[np.ndarray, "H W"]
    reading: str = ""

    @property
    def marked(self) -> UInt8[np.ndarray, "H W"]:
        """1 = edit, 0 = keep."""
        return (self.white >= 128).astype(np.uint8)

    def resized(self, height: int, width: int) -> Mask:
        """The mask at another size; a pixel is marked where most of what it covers was."""
        if self.white.shape == (height, width):
            return self
        image = Image.fromarray(np.ascontiguousarray(self.white))
        scaled = image.resize((width, height), Image.Resampling.BILINEAR)
        return dataclasses.replace(self, white=np.asarray(scaled))


def decode(data: bytes, alpha: str = "auto", most: int = MOST_PIXELS) -> Mask:
    """Decodes a mask file.

    Raises: ValueError as `of_channels`; Fault as `brushjax.data.sources.pictures.decode`.
    """
    picture = pictures.decode(data, most)
    return of_channels(picture.colours, picture.alpha, alpha)


def of_channels(
    colours: UInt8[np.ndarray, "H W C"],
    opacity: UInt8[np.ndarray, "H W"] | None,
    alpha: str = "auto",
) -> Mask:
    """Reads a mask from its colours, the brightest channel of a pixel counting, or its opacity.

    Red on black marks as white does. A brush that is nowhere opaque counts by its own strength.

    Args:
      colours: of 1 or 3 channels.
      opacity: None, or one value everywhere, lets the colours be the mask.
      alpha: which part of a mask with transparent parts is to be edited.
    Raises: ValueError for another `alpha`, and where "auto" can't tell.
    """
    if alpha not in ALPHAS:
        raise ValueError(f"expected mask_alpha out of {', '.join(ALPHAS)}, got {alpha!r}")
    if opacity is None or not opacity.size or opacity.min() == opacity.max():
        return Mask(colours.max(axis=-1))
    told = _by_frame(opacity) if alpha == "auto" else ""
    part = told or alpha
    white = opacity if part == "opaque" else 255 - opacity
    if white.max() >= FAINTEST:
        white = np.rint(white * (255 / white.max())).astype(np.uint8)
    if not told:
        return Mask(white)
    other = "opaque" if part == "transparent" else "transparent"
    return Mask(white, f"marks its {part} part; mask_alpha={other} (--mask-alpha) marks the rest")


def _by_frame(opacity: UInt8[np.ndarray, "H W"]) -> Literal["opaque", "transparent"]:
    """Which part is to be edited: the one that the frame is not."""
    frame = np.concatenate([opacity[0], opacity[-1], opacity[:, 0], opacity[:, -1]])
    share = (2 * frame.astype(np.uint16) >= opacity.max()).mean()
    if share >= CLEAR_FRAME:
        return "transparent"
    if share <= 1 - CLEAR_FRAME:
        return "opaque"
    raise ValueError(
        f"expected a mask whose frame is opaque or transparent, got one that is {share:.0%} "
        "opaque, so that the transparent part may be meant or the opaque one: pass "
        "mask_alpha=opaque or mask_alpha=transparent (--mask-alpha), the part to edit"
    )
