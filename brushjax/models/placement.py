"""How a picture of any size lies in an encoder's square input, and its patches in the picture."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brushjax.metrics.preprocess import CLIP_MEAN, CLIP_STD
from brushjax.metrics.resample import resample_matrix

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Every pixel of the picture has a patch: there is no crop, which would lose the border.

    Attributes:
      side: of the encoder's input, pixels.
      patch: side of a patch, pixels of the input.
      fit: "squash" stretches the picture to the square; "letterbox" keeps its shape, in the middle
        of the square, with CLIP's mean colour beside it.

    Differs: docs/deviations.md, region-resize.
    """

    side: int
    patch: int
    fit: Literal["squash", "letterbox"] = "squash"

    def __post_init__(self) -> None:
        if self.side % self.patch:
            raise ValueError(
                f"expected a side divisible by the patch, got {self.side} and {self.patch}"
            )

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    def box(self, height: int, width: int) -> Box:
        """Returns (top, bottom, left, right) of a picture within the square, pixels."""
        if self.fit == "squash":
            return 0, self.side, 0, self.side
        longest = max(height, width)
        tall, wide = (max(1, round(self.side * size / longest)) for size in (height, width))
        top, left = (self.side - tall) // 2, (self.side - wide) // 2
        return top, top + tall, left, left + wide

    def view(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B S S 3"]:
        """Returns what CLIP sees of pictures in [-1, 1]: resized, and normalised with its own mean
        and deviation. Differentiable; bicubic, antialiased, and not rounded to whole values."""
        top, bottom, left, right = self.box(*images.shape[1:3])
        images = resized(images, bottom - top, right - left)
        values = (images + 1) / 2 - jnp.asarray(CLIP_MEAN, images.dtype)
        values = values / jnp.asarray(CLIP_STD, images.dtype)
        rows, columns = (top, self.side - bottom), (left, self.side - right)
        return jnp.pad(values, ((0, 0), rows, columns, (0, 0)))

    def spread(
        self, patches: Float[Array, "B N"], height: int, width: int, *, smooth: bool
    ) -> Float[Array, "B H W 1"]:
        """Brings a value per patch to a picture, or to its latent.

        Args:
          patches: row by row.
          height, width: of the picture or latent, in its own cells.
          smooth: bilinear between the patches' centres, the outermost that show any of the
            picture repeated; otherwise each cell takes the value of the patch that its centre
            lies in.
        """
        grid = self.grid
        if patches.shape[1] != grid**2:
            raise ValueError(f"expected {grid} x {grid} patches, got {patches.shape[1]}")
        top, bottom, left, right = self.box(height, width)
        rows = self._weights(height, top, bottom, smooth).astype(patches.dtype)
        columns = self._weights(width, left, right, smooth).astype(patches.dtype)
        square = patches.reshape(-1, grid, grid)
        spread = jnp.einsum("yi,xj,bij->byx", rows, columns, square, precision="highest")
        return spread[..., None]

    def pixels(
        self, probability: Float[Array, "B N"], height: int, width: int
    ) -> Float[Array, "B H W"]:
        """Returns the probability of each pixel of a picture, which regions are cut from."""
        return self.spread(probability, height, width, smooth=True)[..., 0]

    def _weights(
        self, size: int, start: int, stop: int, smooth: bool
    ) -> Float[np.ndarray, "size grid"]:
        """Returns what each cell of one axis takes of each patch."""
        centres = (start + (np.arange(size) + 0.5) / size * (stop - start)) / self.patch
        patches = np.arange(self.grid)
        if not smooth:
            return (np.floor(centres)[:, None] == patches).astype(np.float64)
        first, last = start // self.patch, (stop - 1) // self.patch
        centres = np.clip(centres - 0.5, first, last)
        return np.maximum(1 - np.abs(centres[:, None] - patches), 0)


def resized(
    images: Float[Array, "B H W C"], height: int, width: int
) -> Float[Array, "B height width C"]:
    """Stretches pictures: bicubic, antialiased, and not rounded to whole values."""
    if images.shape[1:3] == (height, width):
        return images
    rows, columns = (
        jnp.asarray(resample_matrix(old, new, "bicubic", antialias=True), images.dtype)
        for old, new in zip(images.shape[1:3], (height, width), strict=True)
    )
    return jnp.einsum("yi,xj,bijc->byxc", rows, columns, images, precision="highest")
