"""The one reader of pictures: files, bytes and PIL images become 8-bit RGB.

Only the raster formats of FORMATS are opened; the size that a file states is checked before
anything is decoded; whatever a decoder raises becomes a Fault with its cause. Colours are sRGB: an
embedded profile is applied here, so that no profile travels on with the pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms

from brushjax.data.faults import Fault, as_fault

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "AVIF", "BMP")
ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".tif", ".tiff", ".gif", ".avif", ".bmp")
MOST_PIXELS = 1 << 27  # 134 million: more is an attack or a mistake, and would fill the memory
ORIENTATION = 0x0112  # of EXIF's tags
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_GREY = ("1", "L", "LA", "La")
_PROFILED = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile: PIL's mode


@dataclasses.dataclass(frozen=True)
class Picture:
    """A decoded picture, upright.

    Attributes:
        pixels: RGB, transparent parts laid over white: what networks see.
        colours: RGB as stored, whatever lies below transparent parts.
        alpha: opacity 0..255; None where everything is opaque.
        notes: causes out of `brushjax.data.faults.MENDED`, what was converted.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    colours: UInt8[np.ndarray, "H W 3"]
    alpha: UInt8[np.ndarray, "H W"] | None
    notes: tuple[str, ...] = ()


def decode(data: bytes, most: int = MOST_PIXELS) -> Picture:
    """Decodes a picture file; of several frames or pages the first.

    Args:
      data: the file's content, in one of FORMATS.
      most: pixels, beyond which it is refused undecoded.
    Raises: Fault if there is no data, no complete picture in it, or too many pixels.
    """
    image = opened(data, most)
    with as_fault("broken image"), image:
        return converted(image)


def opened(data: bytes, most: int = MOST_PIXELS) -> Image.Image:
    """Reads the header of a picture file; the pixels are decoded when they are asked for.

    Raises: Fault if it is none of FORMATS, or states more than `most` pixels.
    """
    if not data:
        raise Fault("empty image", "0 bytes")
    try:
        with as_fault("broken image"):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Fault as fault:
        if isinstance(fault.__cause__, Image.DecompressionBombError):
            raise Fault("oversized image", fault.found) from fault
        if isinstance(fault.__cause__, Image.UnidentifiedImageError):
            what = f"{len(data)} bytes that are no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
            raise Fault("broken image", what) from fault
        raise
    width, height = image.size
    if width * height > most:
        raise Fault(
            "oversized image",
            f"expected at most {most} pixels, got {height}x{width} (height x width)",
        )
    return image


def upright_size(data: bytes) -> tuple[int, int]:
    """Returns (height, width) that `decode` would give, from the header alone.

    Raises: Fault as `opened`.
    """
    with opened(data) as image:
        width, height = image.size
        turn, _ = _turn(image)
        # Pillow turns a TIFF by itself, and states the turned size.
        sideways = image.format != "TIFF" and turn in [_TURNS[value] for value in _SIDEWAYS]
        return (width, height) if sideways else (height, width)


def converted(image: Image.Image) -> Picture:
    """Turns a PIL image upright and brings it to 8-bit sRGB.

    Of 16 bits the upper byte is kept.

    Raises: ValueError for floats and for whole numbers beyond 16 bits, whose scale is not known.
        What a decoder raises passes.
    """
    deep = image.mode.startswith("I") or any(";16" in str(tile) for tile in _tiles(image))
    notes = ["16-bit image"] if deep else []
    image.load()
    profile = image.info.get("icc_profile")
    turn, broken = _turn(image)
    notes += ["broken EXIF"] * broken
    image = _eight_bits(image)
    if turn is not None:
        image = image.transpose(turn)
    grey = image.mode in _GREY
    if image.mode == "CMYK" or (grey and not deep):
        notes.append("CMYK image" if image.mode == "CMYK" else "greyscale image")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        alpha = None if alpha.min(initial=255) == 255 else alpha
        notes.append("alpha image")
        image = image.convert("RGB")
    if profile:
        image, note = _in_srgb(image, profile, grey)
        notes += note
    colours = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    if alpha is None:
        return Picture(colours, colours, None, tuple(notes))
    return Picture(over_white(colours, alpha), colours, alpha, tuple(notes))


def over_white(
    colours: UInt8[np.ndarray, "H W 3"], alpha: UInt8[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Lays colours over a white ground."""
    opaque = alpha[..., None].astype(np.uint16)
    mixed = colours * opaque + 255 * (255 - opaque)  # at most 255 * 255
    return ((mixed + 127) // 255).astype(np.uint8)


def _tiles(image: Image.Image) -> list[Any]:
    """The decoder's settings for each part of a file, among them the stored depth."""
    return list(getattr(image, "tile", None) or [])


def _turn(image: Image.Image) -> tuple[Image.Transpose | None, bool]:
    """How EXIF says that a picture is to be turned, and whether its EXIF can't be read.

    Pillow's own exif_transpose writes the data anew, and fails at tags of a wrong type.
    """
    try:
        with as_fault("broken image"):
            return _TURNS.get(image.getexif().get(ORIENTATION, 1)), False
    except Fault:  # counted by the note that is made of it
        return None, True


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError(
            "expected a picture of whole numbers, got floats (PIL's mode F), whose range is not "
            "known: scale it to 0..255 and convert it to uint8"
        )
    if not image.mode.startswith("I"):
        return image
    array = np.asarray(image)
    low, high = array.min(initial=0), array.max(initial=0)
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"expected 16 bits a pixel, got {low}..{high}")
    return Image.fromarray((array >> 8).astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes, grey: bool) -> tuple[Image.Image, list[str]]:
    """Applies a profile; one that can't be read, or is of other colours, is left out."""
    try:
        with as_fault("broken image"):
            mode, transform = _transform(profile)
            if mode == "L" and grey:
                image = image.convert("L")
            if image.mode != mode:
                return image, ["broken profile"]
            if transform is None:
                return image, []
            return transform.apply(image), ["colour profile"]
    except Fault:  # counted by the note that is made of it
        return image, ["broken profile"]


@functools.lru_cache(maxsize=32)
def _transform(profile: bytes) -> tuple[str, Any]:
    """PIL's mode that a profile is for, and the way to sRGB; None where it is sRGB itself."""
    read = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    about: Any = read.profile
    mode = _PROFILED[about.xcolor_space.strip()]
    if mode == "RGB" and "sRGB" in (about.profile_description or ""):
        return mode, None
    return mode, ImageCms.buildTransform(read, ImageCms.createProfile("sRGB"), mode, "RGB")
