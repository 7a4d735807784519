"""Random masks of the region to edit: brush strokes, object outlines, blobs, ellipses, boxes.

Every mask here is uint8 [H,W] with 1 = edit, 0 = keep, drawn with the generator that is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from brushjax.config import ConfigError

Mask = UInt8[np.ndarray, "size size"]
KINDS = ("brush", "outline", "blob", "ellipse", "box")
TRIES = 16  # draws before settling for a box: the default bounds refuse less than one draw in four


@dataclass(frozen=True)
class MaskConfig:
    """How often each kind of mask is drawn, and how much of the picture it may cover.

    The weights need not add up to 1. An outline can only be drawn where an object is annotated;
    elsewhere the other kinds share its weight.

    Attributes:
        share: smallest and largest share of edited pixels.
        invert: share of masks that are turned inside out (edit the surroundings, keep the shape).
        strokes: fewest and most strokes of a brush mask; widths: of a stroke, relative to the side.
    """

    brush: float = 0.35
    outline: float = 0.2
    blob: float = 0.25
    ellipse: float = 0.1
    box: float = 0.1
    share: tuple[float, float] = (0.05, 0.6)
    invert: float = 0.1
    strokes: tuple[int, int] = (1, 3)
    widths: tuple[float, float] = (0.125, 0.25)

    def __post_init__(self):
        weights = self.weights()
        if min(weights) < 0 or sum(weights) - self.outline <= 0:
            raise ConfigError(
                f"expected weights >= 0 for {KINDS}, one besides outline > 0, got {weights}"
            )
        if not 0 <= self.share[0] <= self.share[1] <= 1:
            raise ConfigError(f"expected 0 <= share[0] <= share[1] <= 1, got {self.share}")
        if not 0 <= self.strokes[0] <= self.strokes[1]:
            raise ConfigError(f"expected 0 <= strokes[0] <= strokes[1], got {self.strokes}")

    def weights(self) -> tuple[float, ...]:
        """The weights in the order of KINDS."""
        return self.brush, self.outline, self.blob, self.ellipse, self.box

    @classmethod
    def reference(cls) -> MaskConfig:
        """The brush masks BrushNet was trained with: a quarter of them has no hole at all.

        Source: random_brush_gen of train_brushnet.py, with a stroke of 128 pixels on a side of 512.
        """
        return cls(1.0, 0.0, 0.0, 0.0, 0.0, (0.0, 1.0), 0.0, (0, 3), (0.25, 0.25))


def brush(
    size: int,
    rng: np.random.Generator,
    strokes: tuple[int, int] = (1, 3),
    widths: tuple[float, float] = (0.125, 0.25),
) -> Mask:
    """Thick zigzag strokes with round corners.

    Each stroke starts anywhere and makes 0 to 7 steps, whose headings alternate between about 72
    and 288 degrees and whose lengths are normal about an eighth of the diagonal. They all drift to
    the right, so half of the masks are mirrored, and half turned upside down.
    Source: random_brush_gen of train_brushnet.py. Differs: the sizes scale with the picture.
    """
    mask = np.zeros((size, size), np.uint8)
    mean_step = np.hypot(size, size) / 8
    for _ in range(rng.integers(strokes[0], strokes[1] + 1)):
        steps = int(rng.integers(8))
        spread = 2 * np.pi / 15
        lowest, highest = 2 * np.pi / 5 + rng.uniform((-spread, 0), (0, spread))
        headings = rng.uniform(lowest, highest, steps)
        headings[::2] = 2 * np.pi - headings[::2]
        lengths = np.clip(rng.normal(mean_step, mean_step / 2, steps), 0, 2 * mean_step)
        width = max(1, round(size * rng.uniform(*widths)))
        point = rng.integers(0, size, 2)
        cv2.circle(mask, point.tolist(), width // 2, 1, -1)
        for heading, length in zip(headings, lengths):
            move = length * np.array((np.cos(heading), np.sin(heading)))
            target = np.clip(point + move, 0, size).astype(int)
            cv2.line(mask, point.tolist(), target.tolist(), 1, width)
            cv2.circle(mask, target.tolist(), width // 2, 1, -1)
            point = target
    mirror, upset = rng.choice((1, -1), 2)
    return np.ascontiguousarray(mask[::upset, ::mirror])


def outline(size: int, rng: np.random.Generator, outlines: Sequence[np.ndarray]) -> Mask:
    """The inside of one annotated object, a little grown, as segmentations of people's tools are.

    Args:
        outlines: float [points,2] each, (x, y) in pixels; parts beyond the border are cut off.
    """
    mask = np.zeros((size, size), np.uint8)
    chosen = outlines[int(rng.integers(len(outlines)))]
    cv2.fillPoly(mask, [np.rint(chosen).astype(np.int32)], 1)
    grow = int(rng.integers(size // 32 + 1))
    return cv2.dilate(mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1,) * 2))


def blob(size: int, rng: np.random.Generator, share: float) -> Mask:
    """A smooth random shape of the given share: a cone plus smooth noise, cut at its quantile."""
    cells = int(rng.integers(3, 8))
    noise = rng.normal(size=(cells, cells)).astype(np.float32)
    field = cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    y, x = np.mgrid[:size, :size] / size
    centre = rng.uniform(0.2, 0.8, 2)
    field = field - rng.uniform(3, 10) * np.hypot(x - centre[0], y - centre[1])
    return (field > np.quantile(field, 1 - share)).astype(np.uint8)


def ellipse(size: int, rng: np.random.Generator) -> Mask:
    """A turned ellipse whose centre lies in the picture."""
    mask = np.zeros((size, size), np.uint8)
    centre = rng.integers(0, size, 2).tolist()
    axes = rng.integers(size // 8, size // 2 + 1, 2).tolist()
    return cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)


def box(size: int, rng: np.random.Generator, share: float) -> Mask:
    """An upright box of the given share (to about a pixel's width), wholly in the picture."""
    mask = np.zeros((size, size), np.uint8)
    area = share * size * size
    narrowest = max(1, round(area / size))
    width = int(np.clip(round(np.sqrt(area * np.exp(rng.uniform(-0.7, 0.7)))), narrowest, size))
    height = int(np.clip(round(area / width), 1, size))
    left, top = rng.integers(0, size - width + 1), rng.integers(0, size - height + 1)
    mask[top : top + height, left : left + width] = 1
    return mask


def _draw(kind: str, config: MaskConfig, size: int, rng: np.random.Generator, outlines) -> Mask:
    if kind == "brush":
        return brush(size, rng, config.strokes, config.widths)
    if kind == "outline":
        return outline(size, rng, outlines)
    if kind == "ellipse":
        return ellipse(size, rng)
    share = rng.uniform(*config.share)
    return blob(size, rng, share) if kind == "blob" else box(size, rng, share)


def sample_mask(
    config: MaskConfig,
    size: int,
    rng: np.random.Generator,
    outlines: Sequence[np.ndarray] = (),
) -> UInt8[np.ndarray, "size size 1"]:
    """Draws a mask (1 = edit) of a random kind that covers a share within the config's bounds.

    Kinds that keep missing the bounds (an object that fills the whole crop) give way to a box.

    Args:
        size: side in pixels, at least 16.
        outlines: of the objects in the picture, for the kind "outline".
    """
    weights = np.array(config.weights())
    if not outlines:
        weights[KINDS.index("outline")] = 0
    weights /= weights.sum()
    lowest, highest = config.share
    for _ in range(TRIES):
        mask = _draw(KINDS[rng.choice(len(KINDS), p=weights)], config, size, rng, outlines)
        if rng.random() < config.invert:
            mask = 1 - mask
        if lowest <= mask.mean() <= highest:
            return mask[..., None]
    return box(size, rng, (lowest + highest) / 2)[..., None]
