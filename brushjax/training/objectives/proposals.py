"""What a proposer learns from: the boxes of the things in a picture."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from brushjax.models.fireedit.detector import cell_centres
from brushjax.training.objectives.contract import Mean


def proposal_error(
    proposer: Any,
    features: Float[Array, "B h w C"],
    boxes: Float[Array, "B R 4"],
    mask: Bool[Array, "B R"],
) -> Mean:
    """Returns the error of a proposer's scores and boxes, of encoder and decoder alike.

    A cell whose centre lies in a thing is to propose that thing's box, the smallest where several
    hold it; the other cells propose nothing. `select` drops the doubles, so nothing is matched one
    to one.

    Args:
      features: as the proposer takes them.
      boxes: of the things, centre x, centre y, width and height as shares of the picture.

    Differs: docs/deviations.md#fireedit-proposer-training.
    """
    detector = proposer.perceiver.ddetr_transformer
    size = (features.shape[1], features.shape[2])
    encoded = detector.encode(proposer.project(features))
    states = detector.decode(encoded, size)
    holds, wanted = assigned(jnp.asarray(cell_centres(*size)), boxes, mask)  # [B, N], [B, N, 4]
    error = _error(encoded.scores, jax.nn.sigmoid(encoded.boxes), holds, wanted)
    there = jnp.take_along_axis(holds, encoded.chosen, axis=1)  # of the cell a query starts from
    target = jnp.take_along_axis(wanted, encoded.chosen[..., None], axis=1)
    last = len(states) - 1
    found = detector.boxes(states, encoded.reference, last)
    for heads in (detector.class_embed_coco, detector.class_embed_sa1b):
        error = error + _error(heads[last](states[last])[..., 0], found, there, target)
    return Mean(error.sum(), jnp.float32(len(features)))


def assigned(
    centres: Float[Array, "N 2"], boxes: Float[Array, "B R 4"], mask: Bool[Array, "B R"]
) -> tuple[Bool[Array, "B N"], Float[Array, "B N 4"]]:
    """Returns which cells lie in a thing, and the box of the smallest thing that each lies in."""
    offsets = jnp.abs(centres[None, :, None] - boxes[:, None, :, :2])  # [B, N, R, 2]
    within = (offsets < boxes[:, None, :, 2:] / 2).all(-1) & mask[:, None]
    area = jnp.where(within, (boxes[..., 2] * boxes[..., 3])[:, None], jnp.inf)
    smallest = jnp.take_along_axis(boxes, area.argmin(-1)[..., None], axis=1)
    return within.any(-1), smallest


def _error(
    logits: Float[Array, "B N"],
    found: Float[Array, "B N 4"],
    holds: Bool[Array, "B N"],
    wanted: Float[Array, "B N 4"],
) -> Float[Array, " B"]:
    """Cross-entropy of the scores, and the boxes' distance where there is something."""
    logits, found = logits.astype(jnp.float32), found.astype(jnp.float32)
    score = (jax.nn.softplus(logits) - logits * holds).mean(1)
    away = jnp.abs(found - wanted).sum(-1)
    # At a border cell's start, infinite, the sigmoid is 1 without a slope.
    return score + jnp.where(holds, away, 0).sum(1) / jnp.maximum(holds.sum(1), 1)
