"""What an edit gives, and the picture files that it is kept in, with what it was made with."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from brushjax.data.faults import Fault, as_fault
from brushjax.data.sources.pictures import opened
from brushjax.files import whole_file

WITH_ALPHA = ("PNG", "WEBP", "TIFF", "AVIF")
KEY = "brushjax"  # of the text chunk, which other programs skip


@dataclasses.dataclass(frozen=True, repr=False)
class InpaintResult:
    """What an edit gives.

    Attributes:
        images: RGB 0..255 at the input's own size, blended.
        latents: final scaled latents, of the sides that were worked on.
        seconds: wall time of the whole call.
        transparent: RGBA with the inputs' opacity outside the masks; None where all were opaque.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    latents: Float[np.ndarray, "B h w C"]
    seconds: float
    transparent: UInt8[np.ndarray, "B H W 4"] | None = None

    def __repr__(self) -> str:
        count, height, width = self.images.shape[:3]
        pictures = f"{count} image{'s' * (count > 1)} of {height}x{width}"
        return f"InpaintResult({pictures}, latents {self.latents.shape}, {self.seconds:.1f} s)"

    def layers(self, i: int) -> UInt8[np.ndarray, "H W 4"] | None:
        """Sample i in RGBA; None where it is opaque."""
        if self.transparent is None or self.transparent[i, ..., 3].min() == 255:
            return None
        return self.transparent[i]

    @property
    def pil(self) -> list[Image.Image]:
        """The images as PIL's, in RGBA where they have transparent parts."""
        found = (self.layers(i) for i in range(len(self.images)))
        return [
            Image.fromarray(image if layers is None else layers)
            for image, layers in zip(self.images, found)
        ]

    def save(self, path: str | Path) -> list[Path]:
        """Writes the images in the format of the path's ending; opacity is kept where it can be.

        Args:
            path: out.png; of several images, out_0.png, out_1.png and so on.

        Returns:
            The files written.

        Raises:
            ValueError: an ending that names no format for pictures.
            OSError: the file can't be written; nothing half-written stays.
        """
        path = Path(path)
        paths = [path]
        if len(self.images) > 1:
            paths = [path.with_stem(f"{path.stem}_{i}") for i in range(len(self.images))]
        for i, file in enumerate(paths):
            layers = self.layers(i) if keeps_transparency(file) else None
            write_picture(file, self.images[i] if layers is None else layers)
        return paths


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
    ending = path.suffix.lower()
    Image.preinit()  # the common formats; to import all of them takes a tenth of a second
    format = Image.EXTENSION.get(ending) or Image.registered_extensions().get(ending)
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
