"""The losses that train a region predictor, one value a sample, in at least float32."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

SHORTEST = 1e-6  # of a product of lengths, or of one length: below it a direction is undefined

Embeds = Float[Array | np.ndarray, "B D"]
Patches = Float[Array | np.ndarray, "B N E"]
Losses = dict[str, Float[Array, " B"]]


def length(x: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """Returns the Euclidean length of each vector; its gradient at zero is zero, not NaN."""
    squares = jnp.square(x).sum(axis=-1)
    there = squares > 0
    return jnp.where(there, jnp.sqrt(jnp.where(there, squares, 1)), 0)


def unit(x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
    """Returns vectors of length 1, and shorter ones where there is no direction."""
    return x / jnp.maximum(length(x), SHORTEST)[..., None]


def cosine(x: Float[Array, "*B D"], y: Float[Array, "*B D"]) -> Float[Array, "*B"]:
    """Returns the cosine of the angle between vectors, 0 where one of them is zero."""
    return (x * y).sum(axis=-1) / jnp.maximum(length(x) * length(y), SHORTEST)


def similarities(patches: Float[Array, "B N D"]) -> Float[Array, "B N N"]:
    """Returns the cosine of each pair of patches: Sim of eq. 9."""
    lengths = length(patches)  # [B, N]
    pairs = jnp.einsum("bid,bjd->bij", patches, patches, precision="highest")
    return pairs / jnp.maximum(lengths[:, :, None] * lengths[:, None, :], SHORTEST)


@dataclasses.dataclass(frozen=True)
class RegionLosses:
    """The losses of eq. 4 to 11 for each sample of a batch; over samples they are averaged.

    Attributes:
      alpha: weight of semantic alignment, eq. 6.
      beta: weight of CLIP's supervision, eq. 10.
      guidance, direction, structure: weights within eq. 10.
      normalize_before_difference: embeddings are brought to length 1 before eq. 8 subtracts them.
      structure_reduction: "mean" over the N x N pairs of patches, or "sum" as eq. 9 prints it,
        which is N x N times as much.

    Source: "Beyond Editing Pairs", section 3.3.
    Differs: docs/deviations.md, region-losses and region-directions.
    """

    alpha: float = 1.0
    beta: float = 1.0
    guidance: float = 1.0
    direction: float = 1.0
    structure: float = 1.0
    normalize_before_difference: bool = False
    structure_reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        if self.structure_reduction not in ("mean", "sum"):
            raise ValueError(
                f"expected structure_reduction 'mean' or 'sum', got {self.structure_reduction!r}"
            )

    def __call__(
        self,
        *,
        semantic_edited: Embeds,
        semantic_original: Embeds,
        source_text: Embeds,
        target_text: Embeds,
        source_image: Embeds,
        result_image: Embeds,
        source_patches: Patches,
        result_patches: Patches,
    ) -> Losses:
        """Returns each loss and their weighted sum.

        Args:
          semantic_edited, semantic_original: f_sem of F_Editedimg and of F_img.
          source_text, target_text: T_o and T_e, not normalised, as all embeddings here.
          source_image, result_image: I_ori and I_res.
          source_patches, result_patches: F_img and F_res.

        Returns:
          sem_edited (eq. 4), sem_original (5), clip_g (7), clip_d (8), clip_s (9) without their
          weights, and total (11). The cosine losses lie in 0..2, clip_s as a mean in 0..4.
        """
        target, source = _precise(target_text), _precise(source_text)
        result, original = _precise(result_image), _precise(source_image)
        losses = {
            "sem_edited": 1 - cosine(_precise(semantic_edited), target),
            "sem_original": 1 - cosine(_precise(semantic_original), source),
            "clip_g": 1 - cosine(result, target),
            "clip_d": 1 - self._agreement(result, original, target, source),
            "clip_s": self._restructured(_precise(source_patches), _precise(result_patches)),
        }
        clip = (
            self.guidance * losses["clip_g"]
            + self.direction * losses["clip_d"]
            + self.structure * losses["clip_s"]
        )
        semantic = losses["sem_edited"] + losses["sem_original"]
        return losses | {"total": self.alpha * semantic + self.beta * clip}

    def _agreement(self, result: Array, original: Array, target: Array, source: Array) -> Array:
        if self.normalize_before_difference:
            result, original, target, source = map(unit, (result, original, target, source))
        return cosine(result - original, target - source)

    def _restructured(self, source: Array, result: Array) -> Array:
        squares = jnp.square(similarities(source) - similarities(result))  # [B, N, N]
        mean = self.structure_reduction == "mean"
        return squares.mean(axis=(1, 2)) if mean else squares.sum(axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class RegionTerms:
    """Terms that the paper does not have: off by default, measured and logged always.

    Attributes:
      area: weight of how far the mean probability lies outside `least_area` .. `most_area`.
      total_variation: weight of the mean step between neighbouring patches, both ways added.
      entropy: weight of the mean binary entropy of a patch, nats.
      contrastive: weight of telling the batch's target texts apart by f_sem(F_E), nats.
      temperature: of the contrastive term.

    Differs: docs/deviations.md, region-terms.
    """

    area: float = 0.0
    least_area: float = 0.02
    most_area: float = 0.5
    total_variation: float = 0.0
    entropy: float = 0.0
    contrastive: float = 0.0
    temperature: float = 0.07

    def __call__(
        self,
        logits: Float[Array, "B N"],
        semantic_edited: Embeds,
        target_text: Embeds,
    ) -> Losses:
        """Returns region_area (a share, no loss), region_outside, region_variation, region_entropy
        and region_contrast without their weights, and total.

        Args:
          logits: of a square grid's patches, row by row.
        """
        logits = _precise(logits)
        probability = jax.nn.sigmoid(logits)
        area = probability.mean(axis=1)
        outside = jax.nn.relu(self.least_area - area) + jax.nn.relu(area - self.most_area)
        entropy = (jax.nn.softplus(logits) - logits * probability).mean(axis=1)
        contrast = self._contrast(_precise(semantic_edited), _precise(target_text))
        variation = _variation(probability)
        total = (
            self.area * outside
            + self.total_variation * variation
            + self.entropy * entropy
            + self.contrastive * contrast
        )
        return {
            "region_area": area,
            "region_outside": outside,
            "region_variation": variation,
            "region_entropy": entropy,
            "region_contrast": contrast,
            "total": total,
        }

    def _contrast(self, edited: Array, target: Array) -> Array:
        """Returns the cross-entropy of each sample's own target text among the batch's; its value
        therefore depends on the batch that it is computed in."""
        scores = jnp.einsum("id,jd->ij", unit(edited), unit(target), precision="highest")
        return -jnp.diagonal(jax.nn.log_softmax(scores / self.temperature, axis=1))


def _variation(patches: Array) -> Array:
    grid = round(patches.shape[1] ** 0.5)
    if grid**2 != patches.shape[1]:
        raise ValueError(f"expected the patches of a square grid, got {patches.shape[1]}")
    square = patches.reshape(-1, grid, grid)
    down, right = jnp.diff(square, axis=1), jnp.diff(square, axis=2)
    return jnp.abs(down).mean(axis=(1, 2)) + jnp.abs(right).mean(axis=(1, 2))


def _precise(x: Array | np.ndarray) -> Array:
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
