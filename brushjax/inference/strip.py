"""A strip of pictures with headings and captions, for looking at results side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_GAP, _LINE, _FONT_SIZE = 6, 20, 14  # pixels, for pictures below twice _USUAL
_USUAL = 256


def strip(
    columns: Mapping[str, UInt8[np.ndarray, "B H W C"]],
    captions: Sequence[str] | None = None,
    zoom: int = 1,
    note: str = "",
) -> Image.Image:
    """Lays out one row per sample and one column per kind of picture.

    Args:
        columns: heading -> [B, H, W, 3] RGB, or [B, H, W, 1] masks of 0 and 1. All of one size.
        captions: one line of text under each row.
        zoom: factor to enlarge small pictures by, each pixel a square.
        note: a line of text at the bottom.

    Raises:
        ValueError: no column, or columns (or captions) of different numbers or sizes.
    """
    sizes = {heading: pictures.shape[:3] for heading, pictures in columns.items()}
    if len(set(sizes.values())) != 1:
        raise ValueError(f"expected columns of one number and size of pictures, got {sizes}")
    rows, height, width = next(iter(sizes.values()))
    if captions is not None and len(captions) != rows:
        raise ValueError(f"expected {rows} captions, one a row, got {len(captions)}")
    height, width = height * zoom, width * zoom
    scale = max(1, width // _USUAL)  # a wide sheet is looked at from further away
    line = scale * _LINE
    step = height + _GAP + (line if captions is not None else 0)
    size = len(columns) * (width + _GAP) + _GAP, line * (2 if note else 1) + rows * step
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(scale * _FONT_SIZE)
    for column, (heading, pictures) in enumerate(columns.items()):
        left = _GAP + column * (width + _GAP)
        draw.text((left, 2), heading, "black", font)
        for row, picture in enumerate(pictures):
            sheet.paste(_tile(picture, (width, height)), (left, line + row * step))
    for row, caption in enumerate(captions or ()):
        draw.text((_GAP, line + row * step + height + 2), caption, "black", font)
    draw.text((_GAP, line + rows * step + 2), note, "black", font)
    return sheet


def _tile(picture: UInt8[np.ndarray, "H W C"], size: tuple[int, int]) -> Image.Image:
    if picture.shape[-1] == 1:
        picture = np.repeat(picture * 255, 3, axis=-1)  # a mask of 0 and 1
    return Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.NEAREST)
