"""What fills regions, behind the one interface of `brushjax.pipelines.generators`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from brushjax.inference.blended import BlendedLatents
from brushjax.inference.inpaint import Inpainter
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.models.brushnet import CELL
from brushjax.pipelines.generators import Capabilities, Masks, Pictures


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
