"""Stored members to arrays: pictures of every kind, captions, sizes, object masks.

Whatever is wrong becomes a Fault with its cause; what can be converted is, with a note.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from brushjax.data.faults import Fault, as_fault
from brushjax.data.masks import rle
from brushjax.data.sources import captions, pictures


def picture(
    data: bytes, *, as_reference: bool = False
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Returns a picture as RGB, see `brushjax.data.sources.pictures`, and notes on conversions.

    Transparent pixels are laid over white. The reference drops the transparency instead, so that
    hidden pixels show.

    Args:
      data: of the file.
      as_reference: leave every conversion to OpenCV, as the reference does.
    Raises: Fault if there is no data, no complete picture in it, or more than 134 million pixels.
    """
    found = pictures.decode(data)
    if not as_reference:
        return found.pixels, list(found.notes)
    with as_fault("broken image"):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise Fault("broken image", f"{len(data)} bytes that OpenCV doesn't decode")
    return pixels, list(found.notes)


def caption(data: bytes) -> tuple[str, list[str]]:
    """Returns a caption, and notes if it is empty or not in UTF-8.

    Raises: Fault if it is no text.
    """
    try:
        text, other = captions.decoded(data)
    except ValueError as error:
        raise Fault("bad caption", str(error)) from error
    text = text.strip()
    notes = [] if text else ["empty caption"]
    return text, [*notes, "caption not in UTF-8"] if other else notes


def stated_size(height: bytes, width: bytes) -> tuple[int, int]:
    """Returns (height, width) as the members state them.

    Raises: Fault if they are no positive numbers.
    """
    try:
        size = int(height.decode("utf-8")), int(width.decode("utf-8"))
    except ValueError as error:
        raise Fault("bad size", f"height {height[:20]!r}, width {width[:20]!r}") from error
    if min(size) < 1 or size[0] * size[1] > pictures.MOST_PIXELS:
        raise Fault("bad size", f"height {size[0]}, width {size[1]}")
    return size


def run_lists(data: bytes) -> list[Any]:
    """Returns the objects' run lists out of a segmentation member, {"mask": [runs, ...]}.

    Raises: Fault if it is something else.
    """
    try:
        masks = json.loads(data)["mask"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Fault("bad segmentation", f'expected {{"mask": [...]}} as JSON: {error}') from error
    if not isinstance(masks, list) or not all(isinstance(runs, list) for runs in masks):
        raise Fault("bad segmentation", 'expected a list of run lists under "mask"')
    return masks


def object_mask(runs: list[Any], height: int, width: int) -> np.ndarray:
    """Returns one object's mask, bool [H,W], True = object.

    Raises: Fault if the runs don't fit the size.
    """
    try:
        return rle.decode(runs, height, width, first=1, order="column")
    except ValueError as error:
        raise Fault("bad run lengths", str(error)) from error


class Objects(Sequence):
    """Masks of a sample's objects, each decoded when it is asked for.

    Args:
      members: of the sample; without a segmentation there are no objects.
      shape: (height, width) of the picture.
      cut: rows and columns of the crop.
      size: side of the masks; 0 leaves them as they are.
    Raises: Fault if the annotations are no run lists, or of a picture of another shape.
    """

    def __init__(self, members: dict[str, bytes], shape: Sequence[int], cut: Any, size: int):
        self._shape, self._cut, self._size = tuple(shape), cut, size
        self._runs: list[Any] = []
        if "segmentation" in members:
            stated = self._shape  # as the published samples that lack it
            if "height" in members and "width" in members:
                stated = stated_size(members["height"], members["width"])
            if stated != self._shape:
                raise Fault("wrong size", f"stated {stated}, the picture has {self._shape}")
            self._runs = run_lists(members["segmentation"])

    def __len__(self) -> int:
        return len(self._runs)

    def __getitem__(self, n: Any) -> Any:
        mask = object_mask(self._runs[n], *self._shape)
        if not self._size:
            return mask
        return resized(mask[self._cut].astype(np.uint8) * 255, self._size) > 127


def resized(picture: np.ndarray, size: int) -> np.ndarray:
    """Brings a square picture to size x size."""
    # Area averaging is antialiased when shrinking, but amounts to nearest when enlarging.
    how = cv2.INTER_AREA if picture.shape[0] >= size else cv2.INTER_CUBIC
    return cv2.resize(picture, (size, size), interpolation=how)
