"""The region editor: an instruction gives the region, an Inpainter fills it; other generators."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from brushjax.inference.blended import BlendedLatents
from brushjax.inference.images import read_image
from brushjax.inference.inpaint import Inpainter, InpaintResult
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.models.brushnet import CELL
from brushjax.models.region import Threshold
from brushjax.pipelines.generators import Capabilities, Masks, Pictures
from brushjax.pipelines.regions import OTSU, SHIPPED_REGION, Found, RegionFinder


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
        threshold: which pixels are the region.

    Source: "Beyond Editing Pairs", figure 2 and section 4.
    """

    finder: RegionFinder
    painter: Callable[..., InpaintResult]
    threshold: Threshold = OTSU

    @classmethod
    def load(
        cls,
        region: str | Path = SHIPPED_REGION,
        base: str | Path | None = None,
        brushnet: str | Path | None = None,
        dtype: Any = jnp.float32,
        threshold: Threshold = OTSU,
    ) -> RegionEditor:
        """Loads the export of a region predictor's run, and what paints.

        Args:
            region: folder with region/ and encoders.json; else the small one that ships.
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
            ValueError: without a target caption; where no pixel is in the region.
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


# --- what fills regions, behind the one interface of brushjax.pipelines.generators


@dataclasses.dataclass(frozen=True)
class BrushNetGenerator:
    """A base with a BrushNet branch, which sees the picture around the region.

    Source: "Beyond Editing Pairs", appendix A: any generator; here that of BrushEdit.
    """

    painter: Inpainter
    capabilities: Capabilities = dataclasses.field(
        default_factory=lambda: Capabilities(granularity=CELL)
    )

    def __call__(
        self, images: Pictures, mask: Masks, prompts: Sequence[str], keys: Array, settings: Any
    ) -> Pictures:
        white = list(mask * np.uint8(255))
        seeds = seeds_of(keys)
        return self.painter(images, white, list(prompts), seed=seeds, settings=how(settings)).images


@dataclasses.dataclass(frozen=True)
class LatentGenerator:
    """A base alone: its latents are blended with the source's (eq. 22 and 23), or, where its UNet
    has nine channels, it reads mask and masked picture itself.

    Source: "Beyond Editing Pairs", appendix A, eq. 16 to 23.
    """

    painter: BlendedLatents

    @property
    def capabilities(self) -> Capabilities:
        """Whether the UNet reads the mask."""
        return Capabilities(native_inpaint=self.painter.reads_mask, granularity=CELL)

    @classmethod
    def from_parts(cls, parts: Mapping[str, Any]) -> LatentGenerator:
        """Takes arguments of `Inpainter.from_parts` besides the branch."""
        return cls(BlendedLatents(parts))

    def __call__(
        self, images: Pictures, mask: Masks, prompts: Sequence[str], keys: Array, settings: Any
    ) -> Pictures:
        holes = [np.asarray(hole, bool) for hole in mask]
        seeds = seeds_of(keys)
        return self.painter(list(images), holes, list(prompts), seeds, how(settings))


def how(settings: InpaintSettings | None) -> InpaintSettings:
    """Returns settings without a blend of their own: `generate` blends for all generators."""
    return (settings or InpaintSettings()).changed(blend="none")


def seeds_of(keys: Array) -> list[int]:
    """Returns the seed of each key, below 2^31."""
    bits = jax.vmap(lambda key: jax.random.bits(key, dtype=np.uint32))(keys)
    return [int(seed) >> 1 for seed in np.asarray(bits)]
