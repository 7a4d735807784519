"""One edited picture with all that is known about it, and the views of it that metrics ask for.

A view is a picture and the steps that follow, such as the result written as JPEG, read back,
resized to 512 x 512, with the hole blacked out:

    RESULT.then(as_jpeg, Resize(512), keep)
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "_ _ 3"]  # of any size: views change it, and a sample's pictures differ
Region = Bool[np.ndarray, "_ _"]
Grey = UInt8[np.ndarray, "_ _"]

TEXTS = ("caption", "source_caption", "local_caption", "second_caption")


@dataclasses.dataclass(frozen=True)
class View:
    """A picture of a sample, and what is done to it, in this order.

    Attributes:
        picture: field of `Views`.
        steps: functions of this module, or `Resize` and `Like`.
    """

    picture: Literal["result", "source", "truth"]
    steps: tuple[Step, ...] = ()

    def then(self, *steps: Step) -> View:
        """Returns the view with more steps."""
        return View(self.picture, self.steps + steps)

    @property
    def side(self) -> int | None:
        """Side of the square that it was last resized to; None where it was not."""
        return next((s.side for s in reversed(self.steps) if isinstance(s, Resize)), None)

    @property
    def fields(self) -> frozenset[str]:
        """Fields that a sample must have."""
        likes = {step.other.picture for step in self.steps if isinstance(step, Like)}
        masks = {"mask"} if MASKED & set(self.steps) else set()
        source = {"source"} if last_panel in self.steps else set()
        return frozenset({self.picture, *likes, *masks, *source})

    def __str__(self) -> str:
        return " ".join([self.picture, *(getattr(one, "__name__", str(one)) for one in self.steps)])


@dataclasses.dataclass(frozen=True)
class Views:
    """A sample to be scored. Sizes of the pictures may differ; masks have their picture's size.

    Pictures are uint8 RGB [H, W, 3], masks boolean [H, W].

    Attributes:
        result: the edited picture.
        source: the picture before the edit.
        truth: the edited picture that a benchmark gives, where it gives one.
        mask: True where the edit was asked for, at the source's size.
        grey: the mask as its file has it, 0 to 255, of any size, where that is known.
        region: True where a method decided to edit, to be compared with `mask`.
        plan: category and object that a method took the instruction for.
        asked: what it asks for, in the same way; the object is "" where it is not known.
        caption: what the edited picture shows.
        source_caption: what the source shows.
        local_caption: what the edited part of the picture shows.
        second_caption: what a second edited part shows; `local_caption` again where there is one.
        answers: what a judge said of the result, by question; None where none was asked.
        from_jpeg: the result was read from a JPEG file, so no metric compresses it again.
    """

    result: np.ndarray
    source: np.ndarray | None = None
    truth: np.ndarray | None = None
    mask: np.ndarray | None = None
    grey: np.ndarray | None = None
    region: np.ndarray | None = None
    plan: tuple[str, str] | None = None
    asked: tuple[str, str] | None = None
    caption: str | None = None
    source_caption: str | None = None
    local_caption: str | None = None
    second_caption: str | None = None
    answers: Mapping[Any, str] | None = None
    from_jpeg: bool = False

    def has(self, fields: tuple[str, ...]) -> bool:
        """Whether all these fields are there."""
        return all(getattr(self, name) is not None for name in fields)

    def text(self, name: str) -> str:
        """A text by its field's name.

        Raises:
            ValueError: there is no such field, or this sample lacks it.
        """
        if name not in TEXTS:
            raise ValueError(f"expected a text of {', '.join(TEXTS)}, got {name!r}")
        return self._field(name)

    def picture(self, view: View) -> Picture:
        """A view; made once per sample.

        Raises:
            ValueError: the sample lacks the field, or a mask's size is not the picture's.
        """
        if view not in self._made:
            if view.steps:
                before = View(view.picture, view.steps[:-1])
                self._made[view] = view.steps[-1](self.picture(before), self, before)
            else:
                self._made[view] = _checked(self._field(view.picture), view.picture)
        return self._made[view]

    def hole(self, side: int | None = None) -> Region:
        """The mask, or the mask at another size (nearest pixel, as its values are two).

        Raises:
            ValueError: the sample has no mask.
        """
        mask: Region = np.asarray(self._field("mask")) > 0
        if side is None or mask.shape == (side, side):
            return mask
        return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST))

    def strength(self, height: int, width: int) -> Grey:
        """The mask's grey at a size (nearest pixel), 255 = edit."""
        grey = self.grey
        if grey is None:
            grey = self.hole().astype(np.uint8) * 255
        if grey.shape == (height, width):
            return grey
        return np.asarray(Image.fromarray(grey).resize((width, height), Image.Resampling.NEAREST))

    @cached_property
    def _made(self) -> dict[View, Picture]:
        return {}

    def _field(self, name: str):
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"this sample has no {name}; leave out the metrics that need it (Metric.inputs)"
            )
        return value


# --- steps

Step = Callable[[Picture, Views, View], Picture]
"""The picture so far, its sample and the view so far -> the picture."""


def as_jpeg(picture: Picture, sample: Views, view: View) -> Picture:
    """Written as JPEG and read back; nothing where the result was read from a JPEG file."""
    return picture if sample.from_jpeg and view.picture == "result" else jpeg(picture)


@dataclasses.dataclass(frozen=True)
class Resize:
    """Pillow's bicubic resize to a square."""

    side: int

    def __call__(self, picture: Picture, sample: Views, view: View) -> Picture:
        return resized(picture, self.side, self.side)


@dataclasses.dataclass(frozen=True)
class Like:
    """Pillow's bicubic resize to another picture's size."""

    other: View

    def __call__(self, picture: Picture, sample: Views, view: View) -> Picture:
        return resized(picture, *sample.picture(self.other).shape[:2])


def last_panel(picture: Picture, sample: Views, view: View) -> Picture:
    """Of a picture that is not square, the lower right part of the source's size."""
    height, width = sample.picture(SOURCE).shape[:2]
    return picture if picture.shape[0] == picture.shape[1] else picture[-height:, -width:]


def keep(picture: Picture, sample: Views, view: View) -> Picture:
    """The hole set to 0."""
    return picture * ~_hole(picture, sample, view)[..., None]


def hole(picture: Picture, sample: Views, view: View) -> Picture:
    """What is outside the hole set to 0."""
    return picture * _hole(picture, sample, view)[..., None]


def fade(picture: Picture, sample: Views, view: View) -> Picture:
    """Multiplied by how black the mask is."""
    kept = 1 - sample.strength(*picture.shape[:2])[..., None] / 255
    return np.round(picture * kept).astype(np.uint8)


def cut_box(picture: Picture, sample: Views, view: View) -> Picture:
    """Cut to the mask's bounding box; a mask without one cuts nothing."""
    return _cut(picture, box(sample.hole(view.side), picture.shape[:2]), 1)


def cut_script_box(picture: Picture, sample: Views, view: View) -> Picture:
    """As published scripts cut it: from the first trace of grey on, and without the box's last row
    and column."""
    size = picture.shape[:2]
    return _cut(picture, box(sample.strength(*size) > 0, size), 0)


RESULT, SOURCE, TRUTH = View("result"), View("source"), View("truth")
MASKED: frozenset[Step] = frozenset((keep, hole, fade, cut_box, cut_script_box))


def _hole(picture: Picture, sample: Views, view: View) -> Region:
    """The mask of a view's picture."""
    mask = sample.hole(view.side)
    if mask.shape != picture.shape[:2]:
        raise ValueError(
            f"expected a mask of the size of {view}, {picture.shape[:2]}, got {mask.shape} "
            "(height, width); results are scored at their source's size"
        )
    return mask


def box(marked: Region, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """First row, first column, last row and last column with a mark; None where there is none.

    Raises:
        ValueError: the mask is not of the picture's size.
    """
    if marked.shape != size:
        raise ValueError(
            f"expected a mask of the picture's size {size}, got {marked.shape} (height, width)"
        )
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    if not rows.size:
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]), int(columns[-1])


def _cut(picture: Picture, found: tuple[int, int, int, int] | None, last: int) -> Picture:
    """The part of a picture in a box, with (1) or without (0) its last row and column."""
    if found is None:
        return picture
    top, left, bottom, right = found
    part = picture[top : bottom + last, left : right + last]
    return part if part.size else picture


def jpeg(picture: Picture) -> Picture:
    """The picture after Pillow wrote it as JPEG at its defaults and read it back."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG")
    return np.asarray(Image.open(file))


def resized(picture: Picture, height: int, width: int) -> Picture:
    """Pillow's bicubic resize; the picture itself where it has that size."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _checked(picture: np.ndarray, name: str) -> Picture:
    array = np.asarray(picture)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(
            f"expected {name} as uint8 RGB [H, W, 3], got {array.dtype} {list(array.shape)}"
        )
    return array
