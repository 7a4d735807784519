"""What an edit gives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from brushjax.inference.settings import keeps_transparency, write_picture


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
