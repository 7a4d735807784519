"""Edit regions that nothing was trained for: boxes, and CLIP's choice among what they give."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from brushjax.pipelines.regions import Found, RegionEncoders, RegionFinder

SHARES = (0.375, 0.5, 0.75)  # of the picture's side
STRIDE = 2  # patches
FINALISTS = 3
TEXT_WEIGHT = 2.0


def boxes(grid: int) -> Float[np.ndarray, "n N"]:
    """Returns every box of the usual sides, two patches apart, as masks of a grid's patches."""
    sides = [max(1, round(grid * share)) for share in SHARES]
    masks = []
    for height in sides:
        for width in sides:
            for top in range(0, grid - height + 1, STRIDE):
                for left in range(0, grid - width + 1, STRIDE):
                    mask = np.zeros((grid, grid), np.float32)
                    mask[top : top + height, left : left + width] = 1
                    masks.append(mask.reshape(-1))
    return np.stack(masks)


def chosen(text: Float[Array, "*B"], picture: Float[Array, "*B"]) -> Array:
    """Returns which of the candidates is taken: of the three whose result is most like the target
    text, the one with the largest 2 x text + 1 x picture similarity.

    Args:
        text, picture: cosines of each result with the target text and the source picture. [n, ...]

    Source: the selection of Learnable_Regions' released code.
    """
    least = jnp.sort(text, axis=0)[-min(FINALISTS, len(text))]
    return jnp.where(text >= least, TEXT_WEIGHT * text + picture, -jnp.inf).argmax(axis=0)


@dataclasses.dataclass(frozen=True)
class ChosenBox:
    """The box that CLIP chooses: the baseline that needs no predictor.

    Attributes:
        encoders, models: as a `RegionFinder` has them; of the models CLIP's two towers are run.
    """

    encoders: RegionEncoders
    models: Mapping[str, Any]

    @classmethod
    def of(cls, finder: RegionFinder) -> ChosenBox:
        """Takes the CLIP of a predictor."""
        return cls(finder.encoders, finder.models)

    def find(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        donor: UInt8[np.ndarray, "H W 3"],
        target_caption: str,
    ) -> Found:
        """Returns the region, with 1 as its probability.

        Args:
            donor: an edit of the whole picture, of which each box takes a part.
            target_caption: what the picture shows after the edit.
        """
        place = self.encoders.placement
        masks = boxes(place.grid)
        text = self.models["clip_text"](jnp.asarray(self.encoders.captions([target_caption])))
        graph, params = nnx.split(self.models["clip_vision"])
        pair = (jnp.asarray(pixels, jnp.float32) / 127.5 - 1 for pixels in (image, donor))
        best = int(_choice(self.encoders, graph, params, *pair, masks, text.text_embeds[0]))
        patches = masks[best]
        spread = place.spread(jnp.asarray(patches)[None], *image.shape[:2], smooth=False)
        return Found(np.asarray(spread)[0, ..., 0] > 0.5, patches.reshape(place.grid, place.grid))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _choice(
    encoders: RegionEncoders,
    graph: Any,
    params: Any,
    image: Array,
    donor: Array,
    masks: Array,
    text: Array,
) -> Array:
    clip, place = nnx.merge(graph, params), encoders.placement

    def embed(pixels: Array) -> Array:
        return clip.embed(place.view(pixels[None]), encoders.patch_layer).image_embeds[0]

    def result(mask: Array) -> Array:
        cells = place.spread(mask[None], *image.shape[:2], smooth=False)[0]
        return embed(cells * donor + (1 - cells) * image)

    results = _unit(jax.lax.map(result, jnp.asarray(masks)))  # [n, E]
    return chosen(results @ _unit(text), results @ _unit(embed(image)))


def _unit(x: Array) -> Array:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
