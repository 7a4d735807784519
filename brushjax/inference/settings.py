"""What a picture was made with, kept in the picture's own file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from brushjax.data.faults import Fault, as_fault
from brushjax.data.sources.pictures import opened
from brushjax.files import whole_file

WITH_ALPHA = ("PNG", "WEBP", "TIFF", "AVIF")
KEY = "brushjax"  # of the text chunk, which other programs skip


def write_picture(
    path: Path, picture: UInt8[np.ndarray, "H W _c"], settings: Mapping[str, Any] | None = None
) -> bool:
    """Writes a picture in the format that its ending names; it is there only once it is complete.

    Args:
        picture: RGB, or RGBA where `keeps_transparency`; sRGB, so without a profile.
        settings: for a PNG, written into it as JSON.

    Returns:
        Whether the settings were written; only a PNG has a place for them.
    """
    format = picture_format(path)
    extra: dict[str, Any] = {}
    if format == "PNG" and settings is not None:
        info = PngInfo()
        info.add_itxt(KEY, json.dumps(settings, ensure_ascii=False))
        extra["pnginfo"] = info
    if format == "JPEG":
        extra["quality"] = 95
    with whole_file(path) as unfinished:
        Image.fromarray(np.ascontiguousarray(picture)).save(unfinished, format, **extra)
    return "pnginfo" in extra


def picture_format(path: Path) -> str:
    """Returns Pillow's name of the format that a file's ending asks for.

    Raises:
        ValueError: an ending that names no format for pictures.
    """
    format = Image.registered_extensions().get(path.suffix.lower())
    if format not in Image.SAVE:
        raise ValueError(
            f"expected a picture's name such as {path.stem or 'out'}.png, got {str(path)!r}"
        )
    return format


def keeps_transparency(path: Path) -> bool:
    """Returns whether the format of a file's ending has a place for opacity."""
    return picture_format(path) in WITH_ALPHA


def read_settings(path: Path) -> dict[str, Any]:
    """Reads what `write_picture` wrote into a PNG.

    Raises:
        ValueError: no picture, or one without settings.
    """
    try:
        with as_fault("broken image"), opened(path.read_bytes()) as file:
            text = getattr(file, "text", {}).get(KEY)
    except (OSError, Fault) as error:
        raise ValueError(f"expected a PNG with settings at {path}: {error}") from error
    if text is None:
        raise ValueError(
            f"{path} holds no settings: expected a PNG that `python -m brushjax inpaint` wrote, "
            "unchanged by other programs"
        )
    return json.loads(text)
