"""Step 3: which pixels a category edits, and what a removal is told to paint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import UInt8

from brushjax.agents.patterns.grammar import understand
from brushjax.agents.patterns.phrases import located, noun_phrase
from brushjax.agents.plan import EditPlan, NotUnderstood
from brushjax.agents.protocols import Segmenter, Segments

WHITE = 255
DILATION = 20  # pixels, side of the square: the reference's slider as it stands
BACKGROUND = "empty background, clean, nothing there"
SUBJECT = "main subject"  # where no caption names it
ABOVE = ("on top of", "above", "over")
BELOW = ("under", "below", "beneath", "underneath")
BESIDE = ("next to", "beside", "near", "by", "close to", "to the left of", "to the right of")
BESIDE += ("alongside",)


class NothingFound(ValueError):
    """A segmenter found no instance of what is to be edited."""


@dataclasses.dataclass(frozen=True)
class MaskRules:
    """How masks are made of what a segmenter finds.

    Attributes:
        dilation: side in pixels of the square that a removal's mask is widened by; 0 is off.
        instances: numbers of the instances to edit, the best is 0; empty is all.
    """

    dilation: int = DILATION
    instances: tuple[int, ...] = ()

    def __call__(self, plan: EditPlan, segmenter: Segmenter) -> EditPlan:
        """Returns the plan with mask and boxes; one that has a mask already stays as it is.

        Raises:
            ValueError: a plan without picture; NothingFound: with what was looked for.

        Source: BrushEdit's app, by category; docs/deviations.md, agent-masks.
        """
        if plan.mask is not None:
            return plan
        if plan.image is None:
            raise ValueError("expected a plan with a picture: a mask is one of its pixels")
        height, width = plan.image.shape[:2]
        if plan.category == "global":
            return dataclasses.replace(plan, mask=np.full((height, width), WHITE, np.uint8))
        if plan.category == "addition":
            box = self._free_place(plan, segmenter)
            return dataclasses.replace(plan, mask=filled([box], height, width), boxes=[box])
        background = plan.category == "background"
        phrase = subject(plan.source_caption) if background else plan.object
        found = self._found(plan, segmenter, phrase)
        mask = found.mask(self.instances or None)
        if background:
            return dataclasses.replace(plan, mask=WHITE - mask)
        if plan.category == "removal" and self.dilation:
            mask = dilated(mask, self.dilation)
        chosen = self.instances or range(len(found.boxes))
        return dataclasses.replace(plan, mask=mask, boxes=[found.boxes[i] for i in chosen])

    def _found(self, plan: EditPlan, segmenter: Segmenter, phrase: str) -> Segments:
        found = segmenter(plan.image, phrase)
        if not len(found.masks) or not found.mask().any():
            raise NothingFound(
                f"expected {phrase!r} in the picture; none was found: name it otherwise in the "
                "plan's object, or give a mask"
            )
        if self.instances and max(self.instances) >= len(found.masks):
            raise NothingFound(
                f"expected instances {self.instances} of {phrase!r}, found {len(found.masks)}"
            )
        return found

    def _free_place(self, plan: EditPlan, segmenter: Segmenter) -> Sequence[float]:
        """The box of an addition: the plan's, or one by where the instruction says."""
        if len(plan.boxes):
            return plan.boxes[0]
        height, width = plan.image.shape[:2]
        place = place_of(plan.instruction)
        relation, anchor = split_place(place)
        found = segmenter(plan.image, anchor) if anchor else None
        if found is None or not len(found.boxes):
            return place_box((0, 0, width, height), "in", width, height)
        return place_box(found.boxes[0], relation, width, height)


def place_of(instruction: str) -> str:
    """Where an addition goes, in the words of its instruction; "" where it doesn't say."""
    try:
        return understand(instruction).place
    except NotUnderstood:  # another instructor's plan, of words that the grammar can't read
        return ""


def split_place(place: str) -> tuple[str, str]:
    """Cuts "next to the horse" into relation and noun phrase."""
    for relation in sorted((*ABOVE, *BELOW, *BESIDE, "in front of"), key=len, reverse=True):
        if place.lower().startswith(f"{relation} "):
            return relation, noun_phrase(place[len(relation) :])
    relation, _, anchor = place.partition(" ")
    anchor = re.sub(r"^(?:left|right|top|bottom|side|middle|center) (?:side )?of ", "",
                    noun_phrase(anchor))  # fmt: skip
    return relation.lower(), anchor


def place_box(
    anchor: Sequence[float | int], relation: str, width: int, height: int
) -> tuple[float, float, float, float]:
    """A box for a new thing beside, above, below or within another thing's box, in pixels.

    It never leaves the picture, and keeps at least an eighth of its sides.
    """
    left, top, right, bottom = (float(side) for side in anchor)
    w, h = right - left, bottom - top
    if relation in ABOVE:
        box = left + 0.1 * w, top - 0.6 * h, right - 0.1 * w, top + 0.1 * h
    elif relation in BELOW:
        box = left + 0.1 * w, bottom - 0.1 * h, right - 0.1 * w, bottom + 0.6 * h
    elif relation in BESIDE:
        rightwards = width - right >= left if "left" not in relation else False
        if "right" in relation or rightwards:
            box = right, top, right + w, bottom
        else:
            box = left - w, top, left, bottom
    elif relation == "in front of":
        box = left + 0.2 * w, top + 0.5 * h, right - 0.2 * w, bottom + 0.2 * h
    else:  # within it
        box = left + 0.25 * w, top + 0.25 * h, right - 0.25 * w, bottom - 0.25 * h
    return _inside(box, width, height)


def _inside(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    sides = []
    for low, high, size in ((box[0], box[2], width), (box[1], box[3], height)):
        low, high = max(0.0, round(low)), min(float(size), round(high))
        least = min(max(8.0, size / 8), float(size))
        if high - low < least:  # pushed out of the picture: moved back
            low = min(max(0.0, low), size - least)
            high = low + least
        sides.append((float(low), float(high)))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


def filled(
    boxes: Sequence[Sequence[float | int]], height: int, width: int
) -> UInt8[np.ndarray, "H W"]:
    """White boxes on black."""
    mask = np.zeros((height, width), np.uint8)
    for left, top, right, bottom in boxes:
        mask[round(top) : round(bottom), round(left) : round(right)] = WHITE
    return mask


def dilated(mask: UInt8[np.ndarray, "H W"], side: int) -> UInt8[np.ndarray, "H W"]:
    """Widens what is white by a square of a side in pixels.

    Source: BrushEdit's dilation tool, scipy's binary_dilation with ones.
    """
    anchor = ((side - 1) // 2, (side - 1) // 2)  # of even squares scipy's centre, mirrored
    square = np.ones((side, side), np.uint8)
    white = (mask >= 128).astype(np.uint8) * WHITE
    return cv2.dilate(white, square, anchor=anchor, borderValue=0).astype(np.uint8)


def subject(caption: str) -> str:
    """The thing that a caption is about: its first noun phrase."""
    start = re.split(r"\b(?:with|and|of|in) |,| \w+ing\b", caption.strip(" ."))[0]
    return noun_phrase(located(start)[0]) or SUBJECT


def prompts(plan: EditPlan, negative: str = "") -> tuple[str, str]:
    """What an inpainting model is told: prompt and negative prompt.

    A removal shows the background where it knows nothing else, and stays away from the thing.
    Differs: docs/deviations.md, agent-removal.
    """
    if plan.category != "removal":
        return plan.target_caption or plan.instruction, negative
    named = plan.object and re.search(rf"\b{re.escape(plan.object)}\b", plan.target_caption)
    prompt = plan.target_caption if plan.target_caption and not named else BACKGROUND
    return prompt, ", ".join(part for part in (plan.object, negative) if part)
