"""Pictures and masks on the host: reading, checking, and the reference's preprocessing."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax.data.faults import Fault
from brushjax.data.sources import mask_files, pictures
from brushjax.data.sources.mask_files import Mask
from brushjax.data.sources.pictures import Picture
from brushjax.diffusion import guidance as blending
from brushjax.inference.crops import CELL, Window

FAR = 4.0  # in pixels: twice the side
DEFAULT_SIDE = 512  # pixels, that a crop is worked on at where the base's own size is not known
INVERTED_SHARE = 0.95  # a mask that marks more than this for editing is probably inverted
GREY = (32, 224)  # of 255; a mask is black and white, but for the edges of soft ones
GREY_SHARE, GREY_LEVELS = 0.5, 64  # more grey than this, in as many levels, is probably a picture
LARGEST_PICTURE = 8192 * 8192  # pixels; beyond it a slip of the hand would fill the memory


class TransparencyWarning(UserWarning):
    """A picture has transparent parts, which a result in RGB can't keep."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A batch of pictures of one size, ready for the networks.

    Attributes:
        originals: [B, H, W, 3] as given, transparent parts over white.
        holes: [B, H, W, 1] at the pictures' own size, 1 = edit.
        masked: [B, H8, W8, 3] windows with the hole black, sides at the next lower multiple of 8.
        masks: [B, H8, W8, 1] at that size, 1 = edit.
        windows: which part of each picture that is.
        stored: [B, H, W, 4], colours and opacity as stored; None where all is opaque.
    """

    originals: UInt8[np.ndarray, "B H W 3"]
    holes: UInt8[np.ndarray, "B H W 1"]
    masked: UInt8[np.ndarray, "B H8 W8 3"]
    masks: UInt8[np.ndarray, "B H8 W8 1"]
    windows: tuple[Window, ...]
    stored: UInt8[np.ndarray, "B H W 4"] | None = None

    def finish(
        self, pictures: UInt8[np.ndarray, "B H8 W8 3"], blend: str
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Brings decoded pictures back to their windows' size and blends them in; outside of the
        windows the originals stay as they are."""
        finished = []
        for i, window in enumerate(self.windows):
            original, hole = self.originals[i], window.of(self.holes[i])
            picture = resize(pictures[i], (window.height, window.width))
            whole = original.copy()
            window.of(whole)[...] = blending.blend(window.of(original), picture, hole, blend)
            finished.append(whole)
        return np.stack(finished)

    def transparent(
        self, images: UInt8[np.ndarray, "B H W 3"]
    ) -> UInt8[np.ndarray, "B H W 4"] | None:
        """Gives results the sources' opacity outside the holes; what was painted is opaque.

        Pixels that lie over white like the source's keep its colours; of others the white ground
        is taken away again. None where all sources are opaque.
        """
        if self.stored is None:
            return None
        alpha = np.where(self.holes == 1, 255, self.stored[..., 3:]).astype(np.float32)
        ground = 255 - alpha
        colours = np.rint((images - ground) * 255 / np.maximum(alpha, 1))
        kept = (images == self.originals).all(axis=-1, keepdims=True) & (self.holes == 0)
        colours = np.where(kept, self.stored[..., :3], np.clip(colours, 0, 255))
        return np.concatenate([colours, alpha], axis=-1).astype(np.uint8)


def prepare(
    images: Sequence[Any],
    masks: Sequence[Any],
    *,
    mask_alpha: str = "auto",
    resize_mask: bool = False,
    crop: float | int | None = None,
    side: int = DEFAULT_SIDE,
) -> Prepared:
    """Reads, checks and preprocesses pictures with their masks.

    The hole is made black first, then the sides are brought to multiples of 8 with Lanczos; the
    mask is resized the same way and marks what is then at least half white (the brightest of R, G
    and B). Soft masks are cut at that half.

    Args:
        images: what `read_image` takes, all of one size.
        masks: what `read_mask` takes; white = edit.
        mask_alpha: which part of a mask with transparent parts is to be edited, "opaque",
            "transparent", or "auto": the part that the mask's frame is not.
        resize_mask: scale a mask of another size to the picture's instead of refusing it.
        crop: work on a window around the hole, this many times as large; None on the whole picture.
        side: pixels; windows of a crop are brought to it.

    Raises:
        TypeError, ValueError: what `read_image` and `read_mask` raise; sizes that differ, with
            both sizes; a mask that marks nothing; sides below 8; crops of several sizes.

    Warns:
        UserWarning: of a mask that marks more than 95 %, looks like a picture, or is too small for
            the branch, and of how a mask's transparency was read; TransparencyWarning of
            transparent pictures.

    Source: BrushNet's StableDiffusionBrushNetPipeline and its callers' recipe.
    """
    read = [_picture(image) for image in images]
    whites = []
    size = read[0].pixels.shape[:2]
    for i, (picture, source) in enumerate(zip(read, masks, strict=True)):
        name, shape = _name(source, i), picture.pixels.shape[:2]
        mask = read_mask(source, mask_alpha)
        if mask.reading:
            warnings.warn(f"{name} {mask.reading}", stacklevel=3)
        mask = mask.resized(*shape) if resize_mask else mask
        _check_sizes(i, name, shape, mask.white.shape, size)
        _check_share(name, mask)
        whites.append(mask)
    if any(picture.alpha is not None for picture in read):
        message = "an image has transparent parts: networks see them over white, images are RGB"
        warnings.warn(f"{message}; `transparent` keeps them", TransparencyWarning, stacklevel=3)
    holes = [mask.marked[..., None] for mask in whites]
    windows = tuple(
        Window.whole(*size) if crop is None else Window.around(hole, crop, side) for hole in holes
    )
    small = _one_size({window.worked_at(None if crop is None else side) for window in windows})
    masked = [
        resize(window.of(one.pixels * (1 - hole)), small)
        for window, one, hole in zip(windows, read, holes)
    ]
    edits = [
        Mask(resize(window.of(mask.white), small)).marked[..., None]
        for window, mask in zip(windows, whites)
    ]
    for i, edit in enumerate(edits):
        _check_cells(_name(masks[i], i), edit)
    columns = ([picture.pixels for picture in read], holes, masked, edits)
    return Prepared(*(np.stack(parts) for parts in columns), windows=windows, stored=_stored(read))


def size_hint(size: tuple[int, ...], side: int | None) -> str:
    """A hint for pictures that are worked on far from the size that a base was trained at.

    Args:
        size: height and width.
        side: pixels; None where it's not known.
    """
    if side is None or 1 / FAR <= math.prod(size) / side**2 <= FAR:
        return ""
    height, width = size
    larger = height * width > side**2
    advice = "crop=2 (--crop 2) works on the part around the mask" if larger else "enlarge them"
    return (
        f"pictures are worked on at {height}x{width} (height x width), and the base was trained at "
        f"{side}x{side}: results may be poor; {advice}"
    )


def read_image(source: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as RGB: turned as its EXIF data says, in sRGB, 16 bits brought to 8,
    transparent parts over white.

    Args:
        source: PIL image of any mode but floats, path, or uint8 array [H, W, 3].

    Raises:
        TypeError: not a PIL image, a path or a uint8 array.
        ValueError: an array that is not [H, W, 3], no picture file, or too many pixels.
    """
    return _picture(source).pixels


def read_mask(source: Any, alpha: str = "auto") -> Mask:
    """Reads a mask, white = edit; see `brushjax.data.sources.mask_files`.

    Args:
        source: PIL image of any mode but floats, path, or array [H, W] or [H, W, 1, 3 or 4]: bool,
            uint8 0..255, or floats in [0, 1].
        alpha: which part of a mask with transparent parts is to be edited.

    Raises:
        TypeError: not a PIL image, a path, or an array of these types.
        ValueError: an array of another shape, floats outside [0, 1], no picture file, too many
            pixels, or transparency whose meaning can't be told.
    """
    if isinstance(source, (str, Path, Image.Image)):
        picture = _opened(source)
        try:
            return mask_files.of_channels(picture.colours, picture.alpha, alpha)
        except ValueError as error:
            if isinstance(source, Image.Image):
                raise
            raise ValueError(f"{source}: {error}") from error
    allowed = (np.uint8, np.bool_, np.float16, np.float32, np.float64)
    array = _array(source, "mask", allowed, "use bool, or uint8 with white = 255")
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype != np.uint8:
        array = _from_floats(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"expected a mask [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], got shape {array.shape}"
        )
    opacity = array[..., 3] if array.shape[-1] == 4 else None
    return mask_files.of_channels(array[..., :3], opacity, alpha)


def resize(
    picture: UInt8[np.ndarray, "H W *C"], size: tuple[int, ...]
) -> UInt8[np.ndarray, "H2 W2 *C"]:
    """Resizes to (height, width) with Lanczos; the same size returns the same pixels."""
    if picture.shape[:2] == tuple(size):
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def carried(
    original: UInt8[np.ndarray, "H W 3"],
    before: UInt8[np.ndarray, "h w 3"],
    after: UInt8[np.ndarray, "h w 3"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Returns a picture with the change that was made of it at another size: `before` is the
    picture there, `after` the edited one. Far from what changed, it is the picture itself."""
    if original.shape == after.shape:
        return after
    height, width, _ = original.shape
    change = after.astype(np.float32) - before
    change = cv2.resize(change, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.clip(np.rint(original + change), 0, 255).astype(np.uint8)


def _picture(source: Any) -> Picture:
    """A picture out of what `read_image` takes."""
    if isinstance(source, (str, Path, Image.Image)):
        return _opened(source)
    array = _array(source, "image", (np.uint8,), "scale it to 0..255 and convert it to uint8")
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"expected an image [H, W, 3], got shape {array.shape}")
    return Picture(array, array, None)


def _opened(source: str | Path | Image.Image) -> Picture:
    """A picture file's or PIL image's content."""
    if isinstance(source, Image.Image):
        _check_pixels(source.height, source.width)
        return pictures.converted(source)
    try:
        return pictures.decode(Path(source).read_bytes(), LARGEST_PICTURE)
    except Fault as fault:
        raise ValueError(f"expected a picture file, got {source}: {fault}") from fault


def _stored(read: Sequence[Picture]) -> UInt8[np.ndarray, "B H W 4"] | None:
    """Colours and opacity as stored, where any picture has transparent parts."""
    if all(picture.alpha is None for picture in read):
        return None
    opaque = np.full(read[0].pixels.shape[:2], 255, np.uint8)
    opacity = [opaque if picture.alpha is None else picture.alpha for picture in read]
    return np.stack([np.dstack([one.colours, alpha]) for one, alpha in zip(read, opacity)])


def _name(source: Any, i: int) -> str:
    """A mask's description, for messages."""
    return f"the mask {source}" if isinstance(source, (str, Path)) else f"the mask of sample {i}"


def _from_floats(array: np.ndarray) -> UInt8[np.ndarray, ...]:
    low, high = array.min(initial=1), array.max(initial=0)
    if not (low >= 0 and high <= 1):  # also where either is NaN
        raise ValueError(f"expected a mask of floats in [0, 1], got {low:g} to {high:g}")
    return np.rint(array * 255).astype(np.uint8)


def _array(source: Any, what: str, dtypes: tuple[type, ...], advice: str) -> np.ndarray:
    if not hasattr(source, "__array__"):
        raise TypeError(
            f"expected {what} as a PIL image, a path or an array, got {type(source).__name__}"
        )
    array = np.asarray(source)
    if array.dtype not in dtypes:
        names = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"expected {what} array of dtype {names}, got {array.dtype}: {advice}")
    return array


def _check_sizes(i: int, name: str, picture: tuple, mask: tuple, first: tuple) -> None:
    if picture != mask:
        raise ValueError(
            f"expected image and mask of one size, got image {picture[0]}x{picture[1]} and mask "
            f"{mask[0]}x{mask[1]} (height x width, {name}); resize_mask (--resize-mask) scales it"
        )
    if picture != first:
        raise ValueError(
            f"expected all images of a batch in one size, got {first[0]}x{first[1]} for sample 0 "
            f"and {picture[0]}x{picture[1]} for sample {i} (height x width): edit them apart"
        )
    _check_pixels(*picture)
    if min(picture) < CELL:
        raise ValueError(f"expected sides of at least {CELL} pixels, got {picture[0]}x{picture[1]}")


def _one_size(sizes: set[tuple[int, int]]) -> tuple[int, int]:
    if len(sizes) > 1:
        listed = " and ".join(f"{height}x{width}" for height, width in sorted(sizes))
        raise ValueError(
            f"expected the crops of a batch in one size, got {listed}: edit them apart"
        )
    return sizes.pop()


def _check_pixels(height: int, width: int) -> None:
    if height * width > LARGEST_PICTURE:
        raise ValueError(
            f"expected at most {LARGEST_PICTURE} pixels, got {height}x{width}: scale the picture "
            "down, or edit a part of it"
        )


def _check_share(name: str, mask: Mask) -> None:
    share = mask.marked.mean()
    if share == 0:
        brightest = int(mask.white.max())
        message = (
            f"{name} marks nothing: from 128 of 255, or True, means edit; its brightest value is "
            f"{brightest}"
        )
        if brightest:
            message += f" (a brush of {brightest / 255:.0%} opacity; paint with 50 % or more)"
        raise ValueError(message)
    if share > INVERTED_SHARE:
        warnings.warn(
            f"{name} marks {share:.0%} of the picture for editing: white means edit; is it "
            "inverted?",
            stacklevel=4,
        )
    grey = mask.white[(mask.white >= GREY[0]) & (mask.white < GREY[1])]
    if grey.size > GREY_SHARE * mask.white.size and np.unique(grey).size >= GREY_LEVELS:
        warnings.warn(
            f"{name} is neither black nor white in {grey.size / mask.white.size:.0%} of its "
            "pixels: is it a picture? what is at least half bright in it is edited",
            stacklevel=4,
        )


def _check_cells(name: str, edit: np.ndarray) -> None:
    if not edit[::CELL, ::CELL].any():
        warnings.warn(
            f"{name} is too small for the branch, which reads it at every {CELL}th pixel "
            "and finds no hole: widen it",
            stacklevel=4,
        )
