"""What is to be painted in a training sample: objects, their surroundings, strokes, background.

BrushEdit trains one model on all of it, so that it takes whatever mask a user draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from brushjax.config import ConfigError
from brushjax.data.masks.shapes import MaskConfig, brush, sample_mask

Objects = Sequence[Any]
"""Masks of the objects in a crop, bool [size,size]; each may be decoded when it is asked for."""

FRACTIONS = ("outside", "opened", "boxed", "dilated", "stroked", "clean", "donated")


@dataclass(frozen=True)
class HoleConfig:
    """Which holes are made, and how often. The first three are weights; the others are shares.

    A sample that can't have the kind that was drawn (no object is annotated, or none of a fitting
    size) gets a random mask instead.

    Attributes:
        segmentation: weight of holes of an annotated object's shape, or of all but the object.
        random: weight of random shapes.
        background: weight of holes with nothing but background in them: the picture then shows
            what is there once an object has been removed.
        outside: of the segmentation holes, the share that is turned inside out.
        opened: of the segmentation holes, the share that loses details thinner than 1/64 side.
        boxed: share that grows to the object's bounding box.
        dilated: share that grows by a random width; dilation: least and most, relative to the side.
        stroked: share to which a brush stroke over the object's edge is added.
        clean: largest share of a picture that objects may cover for background holes.
        donated: of the background holes, the share in the shape of another picture's object.
        shapes: of the random masks.
        share: smallest and largest share of a hole in the picture; shapes has its own for random
            masks.
    """

    segmentation: float = 0.5
    random: float = 0.4
    background: float = 0.1
    outside: float = 0.25
    opened: float = 0.3
    boxed: float = 0.15
    dilated: float = 0.4
    dilation: tuple[float, float] = (0.01, 0.08)
    stroked: float = 0.15
    clean: float = 0.5
    donated: float = 0.5
    shapes: MaskConfig = field(default_factory=lambda: MaskConfig(outline=0.0))
    share: tuple[float, float] = (0.02, 0.95)

    def __post_init__(self):
        if min(self.weights()) < 0 or not sum(self.weights()):
            raise ConfigError(
                "expected weights >= 0 of segmentation, random and background, one of them > 0; "
                f"got {self.weights()}"
            )
        for name in FRACTIONS:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"expected {name} within 0 and 1, got {getattr(self, name)}")
        for name in ("dilation", "share"):
            least, most = getattr(self, name)
            if not 0 <= least <= most <= 1:
                raise ConfigError(f"expected 0 <= {name}[0] <= {name}[1] <= 1, got {least}, {most}")

    def weights(self) -> tuple[float, float, float]:
        """The weights of segmentation, random and background holes."""
        return self.segmentation, self.random, self.background

    @property
    def needs_objects(self) -> bool:
        """Whether annotations are read at all."""
        return self.segmentation > 0 or self.background > 0

    @property
    def only_objects(self) -> bool:
        """Whether a sample without annotations is of no use."""
        return self.random == 0

    @classmethod
    def of_objects(cls) -> HoleConfig:
        """BrushNet's segmentation masks: the object or its surroundings, half each."""
        return cls(1.0, 0.0, 0.0, outside=0.5, boxed=0.0, dilated=0.0, stroked=0.0)

    @classmethod
    def of_strokes(cls) -> HoleConfig:
        """BrushNet's random masks, each with a hole, half of them turned inside out."""
        strokes = MaskConfig(1.0, 0.0, 0.0, 0.0, 0.0, (0.02, 0.98), 0.5, (1, 3), (0.25, 0.25))
        return cls(0.0, 1.0, 0.0, shapes=strokes)


def sample_hole(
    config: HoleConfig,
    size: int,
    objects: Objects,
    donor: Callable[[], Objects],
    rng: np.random.Generator,
) -> UInt8[np.ndarray, "size size 1"]:
    """Draws a hole, 1 = edit.

    Args:
      size: side of the crop in pixels.
      objects: in the crop.
      donor: gives the masks of another picture's objects, when they are needed.
      rng: of the sample.
    Source: BrushEdit (arXiv 2412.10316) section V-A: segmentation and random masks in one model,
      and clean backgrounds paired with either.
    Differs: the paper names no ratio, see docs/deviations.md (unified-masks).
    """
    weights = np.array(config.weights())
    kind = ("segmentation", "random", "background")[rng.choice(3, p=weights / weights.sum())]
    hole = None
    if kind == "segmentation":
        hole = _of_object(config, size, objects, rng)
    elif kind == "background":
        hole = _of_background(config, size, objects, donor, rng)
    if hole is None:
        return sample_mask(config.shapes, size, rng)
    return hole[..., None]


def _of_object(config: HoleConfig, size: int, objects: Objects, rng: np.random.Generator):
    """An object's shape as a tool or a user would mark it, or the surroundings of one."""
    for n in rng.permutation(len(objects)):
        mask = objects[n].astype(np.uint8)
        # Four numbers every time: which of them are used does not shift what comes after.
        outside, opened, boxed, dilated = rng.random(4) < (
            config.outside,
            config.opened,
            config.boxed,
            config.dilated,
        )
        if opened:
            thin = max(2, size // 64)
            mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((thin, thin), np.uint8))
        if boxed and mask.any():
            mask = _bounding_box(mask)
        if dilated:
            mask = _dilate(mask, rng.uniform(*config.dilation) * size)
        if rng.random() < config.stroked and mask.any():
            mask = _with_stroke(mask, size, rng)
        mask = 1 - mask if outside else mask
        if _fits(config, mask):
            return mask
    return None


def _of_background(
    config: HoleConfig,
    size: int,
    objects: Objects,
    donor: Callable[[], Objects],
    rng: np.random.Generator,
):
    """A shape that touches no annotated object, in a picture that has room for one."""
    taken = np.zeros((size, size), np.uint8)
    for mask in objects:
        taken |= mask.astype(np.uint8)
    if not objects or taken.mean() > config.clean:
        return None  # without annotations nobody knows what is background
    free = 1 - _dilate(taken, size / 64)  # the objects' soft edges are no background either
    donated = rng.random() < config.donated
    shapes = [mask.astype(np.uint8) for mask in donor()] if donated else []
    if shapes:
        shape = shapes[rng.integers(len(shapes))]
        shift = rng.integers(-size // 4, size // 4 + 1, 2)
        mask = _shifted(shape, *shift.tolist())
    else:
        mask = sample_mask(config.shapes, size, rng)[..., 0]
    mask = mask * free
    return mask if _fits(config, mask) else None


def _fits(config: HoleConfig, mask: np.ndarray) -> bool:
    return bool(mask.any() and config.share[0] <= mask.mean() <= config.share[1])


def _bounding_box(mask: np.ndarray) -> np.ndarray:
    left, top, width, height = cv2.boundingRect(mask)
    box = np.zeros_like(mask)
    box[top : top + height, left : left + width] = 1
    return box


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Grows a mask by a disc."""
    reach = max(1, round(radius))
    # The distance to the mask costs the same for every radius; a large kernel does not.
    distance = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_5)
    return (distance <= reach).astype(np.uint8) if mask.any() else mask


def _with_stroke(mask: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Adds what of a brush stroke lies on the object or within a tenth of the side around it."""
    stroke = brush(size, rng, (1, 2), (0.03, 0.1))
    return mask | stroke & _dilate(mask, size / 10)


def _shifted(mask: np.ndarray, down: int, right: int) -> np.ndarray:
    moved = np.array([[1, 0, right], [0, 1, down]], np.float32)
    return cv2.warpAffine(mask, moved, mask.shape[::-1], flags=cv2.INTER_NEAREST)
