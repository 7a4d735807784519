"""Stored members to arrays: pictures of every kind, captions, sizes, object masks.

Whatever is wrong becomes a Fault with its cause; what can be converted is, with a note.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax.data.faults import Fault
from brushjax.data.masks import rle

MOST_PIXELS = 1 << 27  # 134 million: more is an attack or a mistake, and would fill the memory
_OPENED_BY_PIL = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_NOTES = {
    "L": "greyscale image",
    "LA": "greyscale image",
    "1": "greyscale image",
    "CMYK": "CMYK image",
    "I;16": "16-bit image",
    "I;16B": "16-bit image",
    "I": "16-bit image",
}


def picture(
    data: bytes, *, as_reference: bool = False
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Returns a picture as RGB, turned upright as its EXIF data says, and notes on conversions.

    Transparent pixels are laid over white. The reference drops the transparency instead, so that
    pixels show which nobody was meant to see.

    Args:
      data: of the file: JPEG, PNG, WebP or what else Pillow reads.
      as_reference: leave every conversion to OpenCV, as the reference does.
    Raises: Fault if there is no data, no complete picture in it, or more than 134 million pixels.
    """
    if not data:
        raise Fault("empty image", "0 bytes")
    try:
        opened = Image.open(io.BytesIO(data))
    except _OPENED_BY_PIL as error:
        raise Fault("broken image", f"{len(data)} bytes that no decoder knows") from error
    width, height = opened.size
    if width * height > MOST_PIXELS:
        raise Fault("oversized image", f"{width} x {height} pixels")
    notes = _notes(opened, data)
    if _is_cut(opened, data):
        raise Fault("broken image", f"{opened.format} of {len(data)} bytes without its end")
    if as_reference or not {"alpha image", "CMYK image"} & set(notes):
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
        if pixels is None:
            raise Fault("broken image", f"{opened.format} of {len(data)} bytes does not decode")
        return pixels, notes
    return _by_pillow(opened), notes


def caption(data: bytes) -> tuple[str, list[str]]:
    """Returns a caption, and a note if it is empty.

    Raises: Fault if it is no UTF-8 text.
    """
    try:
        text = data.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise Fault("bad caption", str(error)) from error
    return text, [] if text else ["empty caption"]


def stated_size(height: bytes, width: bytes) -> tuple[int, int]:
    """Returns (height, width) as the members state them.

    Raises: Fault if they are no positive numbers.
    """
    try:
        size = int(height.decode("utf-8")), int(width.decode("utf-8"))
    except ValueError as error:
        raise Fault("bad size", f"height {height[:20]!r}, width {width[:20]!r}") from error
    if min(size) < 1:
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


def _notes(opened: Image.Image, data: bytes) -> list[str]:
    """Says how a picture differs from 8-bit RGB."""
    notes = []
    sixteen = opened.format == "PNG" and len(data) > 24 and data[24] == 16  # of the header chunk
    if sixteen or _NOTES.get(opened.mode) == "16-bit image":
        notes.append("16-bit image")
    elif opened.mode in _NOTES:
        notes.append(_NOTES[opened.mode])
    if opened.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in opened.info:
        notes.append("alpha image")
    return notes


def _is_cut(opened: Image.Image, data: bytes) -> bool:
    """Says whether the end is missing: OpenCV fills a cut-off picture with grey and only warns."""
    end = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}.get(opened.format or "")
    if end is not None and end in data[-64:]:
        return False
    try:  # some programs write more after the end, and other formats have no such mark
        opened.load()
    except _OPENED_BY_PIL:
        return True
    return False


def _by_pillow(opened: Image.Image) -> np.ndarray:
    """Converts modes whose meaning OpenCV does not keep."""
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(opened)
        if upright.mode == "CMYK":
            return np.array(upright.convert("RGB"))
        colours = upright.convert("RGBA")
        over = Image.new("RGBA", colours.size, "white")
        return np.array(Image.alpha_composite(over, colours).convert("RGB"))
    except _OPENED_BY_PIL as error:
        raise Fault("broken image", str(error)) from error
