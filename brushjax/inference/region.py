"""The region editor: an instruction gives the region of a picture, and an Inpainter fills it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from brushjax.inference.images import read_image
from brushjax.inference.inpaint import Inpainter, InpaintResult
from brushjax.models.region import Threshold
from brushjax.pipelines.regions import OTSU, Found, RegionFinder


@dataclasses.dataclass(frozen=True)
class RegionResult:
    """What an edit of a region gives.

    Attributes:
        image: the edited picture, RGB 0..255 at the input's own size.
        found: the region that was filled, and the patches' probabilities.
    """

    image: UInt8[np.ndarray, "H W 3"]
    found: Found


@dataclasses.dataclass(frozen=True)
class RegionEditor:
    """Finds what an instruction is about, and paints it anew after the caption of the result.

    Attributes:
        finder: predictor and encoders.
        painter: an Inpainter, which fills regions.
        threshold: which patches are the region.

    Source: "Beyond Editing Pairs", figure 2 and section 4.
    """

    finder: RegionFinder
    painter: Callable[..., InpaintResult]
    threshold: Threshold = OTSU

    @classmethod
    def load(
        cls,
        region: str | Path,
        base: str | Path | None = None,
        brushnet: str | Path | None = None,
        dtype: Any = jnp.float32,
        threshold: Threshold = OTSU,
    ) -> RegionEditor:
        """Loads the export of a region predictor's run, and what paints.

        Args:
            region: folder with region/ and encoders.json.
            base, brushnet: as `Inpainter.load` takes them.
        """
        painter = Inpainter.load(base, brushnet, dtype)
        return cls(RegionFinder.load(region, dtype), painter, threshold)

    def __call__(
        self,
        image: Any,
        instruction: str,
        *,
        target_caption: str,
        source_caption: str = "",
        seed: int = 0,
        blend: str = "paste",
        **sampling: Any,
    ) -> RegionResult:
        """Edits one picture.

        Args:
            image: what `brushjax.inference.images.read_image` reads.
            instruction: finds the region.
            target_caption: what the picture shows after the edit: the painter's prompt.
            source_caption: what it shows before; nothing here reads it.
            blend: "paste" keeps every pixel outside the region.
            sampling: further arguments of the painter, such as steps and guidance.

        Raises:
            ValueError: without a target caption; where no patch is the region.
        """
        del source_caption  # editors are called with both captions
        if not target_caption:
            raise ValueError(
                "expected target_caption, which says what the picture shows after the edit; "
                "an instructor of brushjax.agents makes one of an instruction"
            )
        picture = read_image(image)
        found = self.finder.find(picture, instruction, self.threshold)
        mask = found.region * np.uint8(255)
        result = self.painter(picture, mask, target_caption, seed=seed, blend=blend, **sampling)
        return RegionResult(result.images[0], found)
