"""Training samples exactly as the published PyTorch scripts prepare them, faults included.

For comparisons with the reference alone; docs/deviations.md lists what the default preparation
mends. Random numbers come from generators of the kinds that the reference uses globally, and are
drawn in its order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image, ImageDraw

STROKE = 128  # pixels, whatever the picture's size
OPENED = 0.3  # share of masks that lose details thinner than 8 pixels
TURNED = 0.5  # share of samples that keep the object and lose the surroundings


@dataclass(frozen=True)
class ReferenceSample:
    """One sample in the reference's terms, but in channels-last layout.

    Attributes:
        image: the target. uint8 [size,size,3]
        masked: what the branch sees, 0..255; resized after masking, so it may overshoot.
        keep: 1 = keep; may overshoot to about [-0.2, 1.2].
        crop: top and left of the crop in pixels of the resized picture.
    """

    image: UInt8[np.ndarray, "size size 3"]
    masked: Shaped[np.ndarray, "size size 3"]
    keep: Float32[np.ndarray, "size size 1"]
    crop: tuple[int, int]


def prepare(
    image: UInt8[np.ndarray, "H W 3"],
    masks: Sequence[Any],
    size: int,
    *,
    random_mask: bool,
    chance: random.Random,
    draws: np.random.RandomState,
) -> ReferenceSample:
    """Masks, resizes and crops a picture in the reference's order.

    Args:
      image: RGB; the reference works in BGR, which changes no value.
      masks: bool [H,W] of the objects; may be empty.
      size: side of the result.
      random_mask: brush strokes in place of an object.
      chance: choices, crops and coins (Python's `random` there).
      draws: strokes (numpy's global generator there).
    Source: MyWebDataset.__call__ of `train_brushnet.py`.
    """
    keep = _choose(image, masks, chance)
    if random_mask:
        keep = 1.0 - brush(image.shape[0], image.shape[1], draws).astype(np.float32)
    if chance.random() < OPENED:
        kernel = np.ones((8, 8), np.uint8)
        keep = (cv2.dilate(cv2.erode(keep, kernel), kernel) > 0).astype(np.uint8)
    masked = image * keep[..., None]  # float32 if the mask is: then nothing below saturates
    if chance.random() < TURNED:
        masked, keep = image - masked, 1 - keep

    rows, columns = image.shape[:2]
    scale = size / min(rows, columns)
    target = math.ceil(columns * scale), math.ceil(rows * scale)
    image, masked, keep = (
        cv2.resize(picture, target, interpolation=cv2.INTER_CUBIC)
        for picture in (image, masked, keep)
    )
    top, left = (chance.randint(0, side - size) for side in image.shape[:2])
    cut = slice(top, top + size), slice(left, left + size)
    return ReferenceSample(
        image[cut], masked[cut], keep[cut][..., None].astype(np.float32), (top, left)
    )


def _choose(image: np.ndarray, masks: Sequence[Any], chance: random.Random) -> np.ndarray:
    """One object's mask, uint8 [H,W]; without any, all is kept."""
    if masks:
        return np.asarray(chance.choice(masks), np.uint8)
    return np.ones(image.shape[:2], np.uint8)


def brush(height: int, width: int, draws: np.random.RandomState) -> UInt8[np.ndarray, "H W"]:
    """Up to three thick zigzag strokes, 1 = hole; a quarter of the draws has none.

    Source: random_brush_gen of `train_brushnet.py`.
    """
    canvas = Image.new("L", (width, height), 0)
    step = math.hypot(width, height) / 8
    for _ in range(draws.randint(4)):
        # Sides swapped, as there: in a broad picture the strokes stay left, and drop out below.
        points = _zigzag(height, width, step, draws)
        pen = ImageDraw.Draw(canvas)
        draws.uniform(STROKE, STROKE)  # a width between 128 and 128, but a number is drawn
        pen.line(points, fill=1, width=STROKE)
        for x, y in points:
            reach = STROKE // 2
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=1)
        draws.random_sample(2)  # two flips of the stroke, whose results the reference discards
    mask = np.asarray(canvas, np.uint8)
    for axis in (0, 1):
        if draws.random_sample() > 0.5:
            mask = np.flip(mask, axis)
    return np.ascontiguousarray(mask)


def _zigzag(
    width: int, height: int, step: float, draws: np.random.RandomState
) -> list[tuple[int, int]]:
    """The corners of one stroke: headings about 72 and 288 degrees by turns."""
    corners = draws.randint(0, 8)
    spread, mean = 2 * math.pi / 15, 2 * math.pi / 5
    lowest = mean - draws.uniform(0, spread)
    highest = mean + draws.uniform(0, spread)
    headings = [draws.uniform(lowest, highest) for _ in range(corners)]
    headings[::2] = [2 * math.pi - heading for heading in headings[::2]]
    points = [(int(draws.randint(0, width)), int(draws.randint(0, height)))]
    for heading in headings:
        length = np.clip(draws.normal(step, step // 2), 0, 2 * step)
        x = np.clip(points[-1][0] + length * math.cos(heading), 0, width)
        y = np.clip(points[-1][1] + length * math.sin(heading), 0, height)
        points.append((int(x), int(y)))
    return points
