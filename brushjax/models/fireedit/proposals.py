"""Region proposals: boxes that Groma's detector finds, and the selection among them, both with
static shapes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from brushjax.models.fireedit.detector import (
    IOU_THRESHOLD,
    MAX_REGIONS,
    SCORE_THRESHOLD,
    Detector,
    ProposerConfig,
)
from brushjax.nn import Rngs, conv, layer_norm

COCO_SHARE, SA1B_SHARE = 0.4, 0.6  # exponents of the two objectness scores in their product


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Proposals:
    """Boxes that may hold something.

    Attributes:
      boxes: centre x, centre y, width, height, as shares of the picture. [B, n, 4]
      scores: objectness in 0..1. [B, n]
    """

    boxes: Float[Array, "B n 4"]
    scores: Float[Array, "B n"]


class Perceiver(nnx.Module):
    """Projection of the features and detector, under Groma's name `perceiver`."""

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        project = conv(config.dino_dim, config.d_model, 1, rngs=rngs)
        norm = layer_norm(config.d_model, config.input_norm_eps, rngs=rngs)
        self.input_proj = nnx.List([nnx.List([project, norm])])
        self.ddetr_transformer = Detector(config, rngs=rngs)


class Proposer(nnx.Module):
    """Finds boxes that may hold something in a map of DINOv2's features.

    Source: Groma (arXiv 2404.13013), section 3.1; its `CustomDDETRModel`.
    Differs: docs/deviations.md#fireedit-proposer.
    """

    def __init__(self, config: ProposerConfig, *, rngs: Rngs):
        self.config = config
        self.perceiver = Perceiver(config, rngs=rngs)

    def __call__(self, features: Float[Array, "B h w C"]) -> Proposals:
        """Args:
          features: mean of the last four layers' hidden states, before the final norm.

        Raises:
          ValueError: for a map of fewer cells than there are queries.
        """
        detector = self.perceiver.ddetr_transformer
        encoded = detector.encode(self.project(features))
        states = detector.decode(encoded, (features.shape[1], features.shape[2]))
        last = len(states) - 1
        boxes = detector.boxes(states, encoded.reference, last)  # [B, Q, 4]
        coco = jax.nn.sigmoid(detector.class_embed_coco[last](states[last])[..., 0])  # [B, Q]
        sa1b = jax.nn.sigmoid(detector.class_embed_sa1b[last](states[last])[..., 0])
        return Proposals(boxes, coco**COCO_SHARE * sa1b**SA1B_SHARE)

    def project(self, features: Float[Array, "B h w C"]) -> Float[Array, "B h w D"]:
        """Brings features to the detector's width."""
        (project, norm), *_ = self.perceiver.input_proj
        return norm(project(features))


def corners(boxes: Float[Array, "*B 4"]) -> Float[Array, "*B 4"]:
    """Turns (centre x, centre y, width, height) into (left, top, right, bottom)."""
    centre, half = boxes[..., :2], boxes[..., 2:] * 0.5
    return jnp.concatenate([centre - half, centre + half], axis=-1)


def select(
    proposals: Proposals,
    count: int = MAX_REGIONS,
    *,
    iou: float | int = IOU_THRESHOLD,
    threshold: float | int = SCORE_THRESHOLD,
) -> tuple[Float[Array, "B count 4"], Bool[Array, "B count"]]:
    """Selects boxes that don't overlap much, best first.

    Args:
      count: boxes that come out, static.
      iou: a box is dropped if it shares more than this with a better one that is kept.
      threshold: only boxes that score more than this; 0 lets all through. If none does, the best
        one is taken.

    Returns:
      The boxes (0 where there are fewer), and True where there is one. Boxes and scores that are
      not finite count as absent.

    Source: Groma's `GromaModel.forward`; torchvision's `nms`.
    Differs: docs/deviations.md#fireedit-region-order.
    """
    chosen, mask = selected(proposals, count, iou=iou, threshold=threshold)
    boxes = jnp.take_along_axis(
        jnp.pad(proposals.boxes, ((0, 0), (0, 1), (0, 0))), chosen[..., None], axis=1
    )
    return jnp.where(mask[..., None], boxes, 0), mask


def selected(
    proposals: Proposals, count: int, *, iou: float | int, threshold: float | int
) -> tuple[Int[Array, "B count"], Bool[Array, "B count"]]:
    """Returns which proposals `select` takes; the number of proposals stands for none."""
    boxes, scores = proposals.boxes, proposals.scores
    batch, total = scores.shape
    if not total:
        return jnp.zeros((batch, count), jnp.int32), jnp.zeros((batch, count), bool)
    finite = jnp.isfinite(boxes).all(-1) & jnp.isfinite(scores)  # [B, n]
    rank = jnp.argsort(jnp.where(finite, -scores, jnp.inf), axis=1)  # best first; stable
    sort = lambda x: jnp.take_along_axis(x, rank, axis=1)  # noqa: E731
    finite, scores = sort(finite), sort(scores)
    boxes = jnp.take_along_axis(jnp.where(jnp.isfinite(boxes), boxes, 0), rank[..., None], axis=1)
    passed = finite & ((scores > threshold) if threshold else True)
    kept = jax.vmap(_kept, (0, 0, None))(boxes, passed, iou)
    nothing = finite & ~kept.any(1, keepdims=True) & (jnp.arange(total) == 0)
    kept = kept | nothing
    place = jnp.where(kept, jnp.cumsum(kept, axis=1) - 1, count)  # beyond the end: dropped
    chosen = jnp.full((batch, count), total, rank.dtype)
    chosen = chosen.at[jnp.arange(batch)[:, None], place].set(rank, mode="drop")
    return chosen, chosen < total


def _kept(boxes: Float[Array, "n 4"], passed: Bool[Array, " n"], iou: float | int) -> Array:
    """Returns which boxes, sorted best first, no better kept box covers."""
    x0, y0, x1, y1 = jnp.moveaxis(corners(boxes), -1, 0)
    area = (x1 - x0) * (y1 - y0)
    width = jnp.minimum(x1[:, None], x1) - jnp.maximum(x0[:, None], x0)
    height = jnp.minimum(y1[:, None], y1) - jnp.maximum(y0[:, None], y0)
    shared = jnp.maximum(width, 0) * jnp.maximum(height, 0)  # [n, n]
    joined = area[:, None] + area - shared
    # Two boxes without area share 0 / 0: neither covers the other.
    covers = (shared / jnp.where(joined > 0, joined, 1) > iou) & (joined > 0)
    later = jnp.arange(len(boxes)) > jnp.arange(len(boxes))[:, None]

    def keep(i: Array, kept: Array) -> Array:
        return kept & ~(kept[i] & covers[i] & later[i])

    return jax.lax.fori_loop(0, len(boxes), keep, passed)
