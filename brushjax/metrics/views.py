"""One edited picture with all that is known about it, and the views of it that metrics ask for.

A view is named by a field and by the steps that follow it, read from left to right:

    "result"                    the edited picture as it was stored
    "result|jpeg|512|keep"      written as JPEG, read back, resized to 512 x 512, hole blacked out

Steps: `jpeg` (Pillow's default quality, 75, with halved chroma; nothing where the picture was read
from a JPEG file already), `512` (any whole number: Pillow's bicubic resize to that square),
`like-source` and `like-truth` (the same, to that picture's size), `end` (of a picture that is not
square, the lower right part of the source's size: the last one of a panel), `keep` and `hole` (the
other region set to 0), `fade` (multiplied by how black the mask is), `box` (cut to the mask's
bounding box) and `script-box` (the same as published scripts cut it: from the first trace of grey
on, and without the box's last row and column). A mask without a box cuts nothing.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "_ _ 3"]  # of any size: views change it, and a sample's pictures differ
Region = Bool[np.ndarray, "_ _"]
Grey = UInt8[np.ndarray, "_ _"]

TEXTS = ("caption", "source_caption", "local_caption", "second_caption")
PICTURES = ("result", "source", "truth")


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

    def picture(self, name: str) -> Picture:
        """A view by its name; made once per sample.

        Raises:
            ValueError: the sample lacks the field, a step is unknown, or a mask's size is not the
                picture's.
        """
        if name not in self._made:
            before, _, step = name.rpartition("|")
            if before:
                self._made[name] = self._stepped(self.picture(before), step, name)
            elif step in PICTURES:
                self._made[name] = _checked(self._field(step), step)
            else:
                raise ValueError(f"expected a picture of {', '.join(PICTURES)}, got {step!r}")
        return self._made[name]

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
    def _made(self) -> dict[str, Picture]:
        return {}

    def _field(self, name: str):
        value = getattr(self, name)
        if value is None:
            raise ValueError(
                f"this sample has no {name}; leave out the metrics that need it (Metric.inputs)"
            )
        return value

    def _stepped(self, picture: Picture, step: str, name: str) -> Picture:
        if step == "jpeg":
            return jpeg(picture) if not (self.from_jpeg and name.startswith("result")) else picture
        if step.isdecimal():
            return resized(picture, int(step), int(step))
        if step in ("like-source", "like-truth"):
            return resized(picture, *self.picture(step.removeprefix("like-")).shape[:2])
        if step == "end":
            height, width = self.picture("source").shape[:2]
            square = picture.shape[0] == picture.shape[1]
            return picture if square else picture[-height:, -width:]
        if step in ("keep", "hole"):
            hole = self.hole(_side(name))
            if hole.shape != picture.shape[:2]:
                raise ValueError(
                    f"expected a mask of {name}'s size {picture.shape[:2]}, got {hole.shape}; "
                    f"results are scored at their source's size"
                )
            return picture * (hole if step == "hole" else ~hole)[..., None].astype(np.uint8)
        if step == "box":
            return _cut(picture, box(self.hole(_side(name)), picture.shape[:2]), 1)
        if step == "script-box":
            return _cut(picture, box(self.strength(*picture.shape[:2]) > 0, picture.shape[:2]), 0)
        if step == "fade":
            kept = 1 - self.strength(*picture.shape[:2])[..., None] / 255
            return np.round(picture * kept).astype(np.uint8)
        raise ValueError(f"unknown step {step!r} in the view {name!r}")


def box(marked: Region, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """First row, first column, last row and last column with a mark; None where there is none.

    Raises:
        ValueError: the mask is not of the picture's size.
    """
    if marked.shape != size:
        raise ValueError(f"expected a mask of the picture's size {size}, got {marked.shape}")
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    if not rows.size:
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]), int(columns[-1])


def _side(name: str) -> int | None:
    """The side of the square that a view was last resized to."""
    return next((int(step) for step in name.split("|")[::-1] if step.isdecimal()), None)


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
