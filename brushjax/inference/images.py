"""Pictures and masks on the host: reading, checking, and the reference's preprocessing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

SIDE_MULTIPLE = 8  # pixels: a latent cell
INVERTED_SHARE = 0.95  # a mask that marks more than this for editing is probably inverted
LARGEST_PICTURE = 8192 * 8192  # pixels; beyond it a slip of the hand would fill the memory
BRUSH_COLOURS = 256  # a brush layer has fewer colours, a cut-out photograph has more


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A batch of pictures of one size, ready for the networks.

    Attributes:
        originals: [B, H, W, 3] as given.
        holes: [B, H, W, 1] at the pictures' own size, 1 = edit.
        masked: [B, H8, W8, 3] with the hole black, sides at the next lower multiple of 8.
        masks: [B, H8, W8, 1] at that size, 1 = edit.
    """

    originals: UInt8[np.ndarray, "B H W 3"]
    holes: UInt8[np.ndarray, "B H W 1"]
    masked: UInt8[np.ndarray, "B H8 W8 3"]
    masks: UInt8[np.ndarray, "B H8 W8 1"]


def prepare(images: Sequence[Any], masks: Sequence[Any]) -> Prepared:
    """Reads, checks and preprocesses pictures with their masks.

    The hole is made black first, then the sides are brought to multiples of 8 with Lanczos; the
    mask is resized the same way and marks what is then at least half white (mean of R, G and B).
    Soft masks are cut at that half.

    Args:
        images: what `read_image` takes, all of one size.
        masks: what `read_mask` takes; white = edit.

    Raises:
        TypeError, ValueError: what `read_image` and `read_mask` raise; sizes that differ, with
            both sizes; a mask that marks nothing; sides below 8.

    Warns:
        UserWarning: of a mask that marks more than 95 %, and of one too small for the branch.

    Source: BrushNet's StableDiffusionBrushNetPipeline and its callers' recipe.
    """
    pictures = [read_image(image) for image in images]
    whites = [read_mask(mask) for mask in masks]
    size = pictures[0].shape[:2]
    for i, (picture, white) in enumerate(zip(pictures, whites, strict=True)):
        _check_sizes(i, picture.shape[:2], white.shape[:2], size)
    holes = [_is_white(white) for white in whites]
    for i, hole in enumerate(holes):
        _check_share(i, hole, whites[i])
    small = tuple(side - side % SIDE_MULTIPLE for side in size)
    masked = [resize(picture * (1 - hole), small) for picture, hole in zip(pictures, holes)]
    edits = [_is_white(resize(white, small)) for white in whites]
    for i, edit in enumerate(edits):
        _check_cells(i, edit)
    return Prepared(*(np.stack(parts) for parts in (pictures, holes, masked, edits)))


def read_image(source: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a picture as RGB: turned as its EXIF data says, 16 bits brought to 8, alpha dropped.

    Args:
        source: PIL image of any mode but floats, path, or uint8 array [H, W, 3].

    Raises:
        TypeError: not a PIL image, a path or a uint8 array.
        ValueError: an array that is not [H, W, 3], no picture file, or too many pixels.
    """
    if isinstance(source, (str, Path, Image.Image)):
        return _opened(source)[..., :3]
    array = _array(source, "image", (np.uint8,), "scale it to 0..255 and convert it to uint8")
    if array.ndim != 3 or array.shape[-1] != 3:
        raise ValueError(f"expected an image [H, W, 3], got shape {array.shape}")
    return array


def read_mask(source: Any) -> UInt8[np.ndarray, "H W 3"]:
    """Reads a mask as RGB 0..255, white = edit.

    Where a mask has transparent parts, its alpha alone is the mask: opaque = edit, as in the brush
    layers of drawing programs, whatever the brush's colour.

    Args:
        source: PIL image of any mode but floats, path, or array [H, W] or [H, W, 1, 3 or 4]: bool,
            uint8 0..255, or floats in [0, 1].

    Raises:
        TypeError: not a PIL image, a path, or an array of these types.
        ValueError: an array of another shape, floats outside [0, 1], no picture file, too many
            pixels, or a picture with a transparent hole, whose polarity is not clear.
    """
    if isinstance(source, (str, Path, Image.Image)):
        return _without_alpha(_opened(source))
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
    if array.shape[-1] == 1:
        return np.broadcast_to(array, (*array.shape[:2], 3))
    return _without_alpha(array)


def resize(
    picture: UInt8[np.ndarray, "H W 3"], size: tuple[int, ...]
) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Resizes to (height, width) with Lanczos; the same size returns the same pixels."""
    if picture.shape[:2] == tuple(size):
        return picture
    image = Image.fromarray(np.ascontiguousarray(picture))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.LANCZOS))


def _is_white(mask: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 1"]:
    total = mask.sum(axis=-1, keepdims=True, dtype=np.uint16)
    return (2 * total >= 3 * 255).astype(np.uint8)


def _opened(source: str | Path | Image.Image) -> UInt8[np.ndarray, "H W C"]:
    """A picture file's or PIL image's pixels, RGB or RGBA."""
    if isinstance(source, Image.Image):
        return _pixels(source)
    try:
        with Image.open(source) as file:
            return _pixels(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{source}: {error}") from error
    except (OSError, SyntaxError) as error:  # no such file; no picture, or one cut short
        if getattr(error, "filename", None) is not None:
            raise
        raise ValueError(f"expected a picture file, got {source}: {error}") from error


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    _check_pixels(image.height, image.width)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        array = np.asarray(image)
        if array.min(initial=0) < 0 or array.max(initial=0) > 0xFFFF:
            raise ValueError(f"expected 16 bits a pixel, got {array.min()}..{array.max()}")
        image = Image.fromarray(np.rint(array / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError(
            "expected a picture of whole numbers, got floats (PIL's mode F), whose range is not "
            "known: scale it to 0..255 and convert it to uint8"
        )
    return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _without_alpha(array: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """A mask's colours, or its alpha in their place where parts are transparent."""
    colours, alpha = array[..., :3], array[..., 3:]
    if not alpha.size or alpha.min() == alpha.max():
        return colours
    visible = colours[alpha[..., 0] > 0]
    if len(np.unique(visible, axis=0)) > BRUSH_COLOURS:
        raise ValueError(
            "expected a mask, got what looks like a picture with a transparent hole: pass the "
            "picture as image, and as mask its hole in white"
        )
    return np.repeat(alpha, 3, axis=-1)


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


def _check_sizes(i: int, picture: tuple, mask: tuple, first: tuple) -> None:
    if picture != mask:
        raise ValueError(
            f"expected image and mask of one size, got image {picture[0]}x{picture[1]} and mask "
            f"{mask[0]}x{mask[1]} (height x width, sample {i})"
        )
    if picture != first:
        raise ValueError(
            f"expected all images of a batch in one size, got {first[0]}x{first[1]} for sample 0 "
            f"and {picture[0]}x{picture[1]} for sample {i} (height x width): edit them apart"
        )
    _check_pixels(*picture)
    if min(picture) < SIDE_MULTIPLE:
        raise ValueError(
            f"expected sides of at least {SIDE_MULTIPLE} pixels, got {picture[0]}x{picture[1]}"
        )


def _check_pixels(height: int, width: int) -> None:
    if height * width > LARGEST_PICTURE:
        raise ValueError(
            f"expected at most {LARGEST_PICTURE} pixels, got {height}x{width}: scale the picture "
            "down, or edit a part of it"
        )


def _check_share(i: int, hole: np.ndarray, white: np.ndarray) -> None:
    share = hole.mean()
    if share == 0:
        raise ValueError(
            f"the mask of sample {i} marks nothing: white (at least 128 of 255, or True) means "
            f"edit, and its brightest value is {white.max()}"
        )
    if share > INVERTED_SHARE:
        warnings.warn(
            f"the mask of sample {i} marks {share:.0%} of the picture for editing: white means "
            "edit; is it inverted?",
            stacklevel=4,
        )


def _check_cells(i: int, edit: np.ndarray) -> None:
    if not edit[::SIDE_MULTIPLE, ::SIDE_MULTIPLE].any():
        warnings.warn(
            f"the mask of sample {i} is too small for the branch, which reads it at every "
            f"{SIDE_MULTIPLE}th pixel and finds no hole: widen it",
            stacklevel=4,
        )
