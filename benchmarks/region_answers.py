"""Answers to the planted-region task that need no training; scores of answers, and their table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax.metrics import region as metrics
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.models import RegionPredictor
from brushjax.models.placement import Placement
from brushjax.pipelines.proposals import boxes, chosen
from brushjax.training.objectives.contract import build, placed_in
from brushjax.training.objectives.region import cosine

BATCH = 64
UNTRAINED = (
    "everything",
    "random patches, the mean area",
    "untrained predictor",
    "boxes + CLIP's choice",
    "the true region on the grid",
)


def patches_of(region: Any, grid: int) -> jax.Array:
    """Returns the share of each patch that is in the region: [B, N]."""
    side = region.shape[1] // grid
    cells = jnp.asarray(region)[..., 0].astype(jnp.float32).reshape(-1, grid, side, grid, side)
    return cells.mean(axis=(2, 4)).reshape(len(region), -1)


def scores(place: Placement, probability: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Returns overlap at p > 0.5, AUC and area, [seeds, samples] each.

    Args:
      probability: [seeds, samples, N].
      truth: [samples, H, W].
    """
    size = truth.shape[1]

    def of(probability: np.ndarray) -> list[list[float]]:
        maps = np.asarray(place.spread(jnp.asarray(probability), size, size, smooth=False))[..., 0]
        pairs = list(zip(maps, truth, strict=True))
        return [
            [metrics.iou(found > 0.5, true) for found, true in pairs],
            [metrics.auc(found, true) for found, true in pairs],
            [metrics.area(found > 0.5) for found, _ in pairs],
        ]

    found = np.array([of(seed) for seed in probability])  # [seeds, 3, samples]
    rounded = np.round(found, 4).swapaxes(0, 1).tolist()
    return dict(zip(("iou", "auc", "area"), rounded, strict=True))


def chosen_boxes(objective: Any, frozen: Any, pool: Any) -> np.ndarray:
    """CLIP's choice among boxes: [samples, N]."""
    candidates = jnp.asarray(boxes(objective.encoders.placement.grid))

    @jax.jit
    def choose(frozen: Any, batch: Any) -> jax.Array:
        image, donor = (batch[name] / 127.5 - 1 for name in ("image", "donor"))

        def judge(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
            size = image.shape[1]
            cells = objective.encoders.placement.spread(mask[None], size, size, smooth=False)
            seen = objective._see(frozen, cells * donor + (1 - cells) * image)["image"]
            return cosine(seen, batch["target_text"]), cosine(seen, batch["source_image"])

        text, picture = jax.lax.map(judge, candidates)  # [boxes, B]
        return candidates[chosen(text, picture)]

    count = len(pool["id"])
    parts = [
        choose(frozen, {name: array[low : low + BATCH] for name, array in pool.items()})
        for low in range(0, count, BATCH)
    ]
    return np.concatenate([np.asarray(part) for part in parts])


def baselines(objective: Any, frozen: Any, pool: Any) -> dict[str, np.ndarray]:
    """Answers that nothing was trained for: [samples, N] each.

    Args:
      pool: the held-out samples, prepared.
    """
    rng = np.random.default_rng(0)
    truths = np.asarray(pool["region"])
    count, patches = len(truths), objective.encoders.placement.grid**2
    share = truths.mean()
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"region": placed_in(here, objective.shapes()["region"])}
    untrained = objective.load(jax.random.key(0), wanted)
    predictor = build(RegionPredictor, objective._checked(), untrained["region"])
    names = ("source_patches", "instruction", "instruction_mask")
    answers = (
        np.ones((count, patches), np.float32),
        (rng.random((count, patches)) < share).astype(np.float32),
        np.asarray(predictor(*(pool[name] for name in names)).probability),
        chosen_boxes(objective, frozen, pool),
        np.asarray(patches_of(truths, objective.encoders.placement.grid)),
    )
    return dict(zip(UNTRAINED, answers, strict=True))


# --- one table


def row(name: str, kept: dict[str, Any], inside: np.ndarray) -> str:
    """One line of the table: several seeds' samples are one sample's mean."""
    runs = {key: np.array(kept[key]) for key in ("iou", "auc", "area")}  # [seeds, samples]
    values = {key: run.mean(axis=0) for key, run in runs.items()}
    pictures = np.arange(len(inside)) // 2
    overlap, ranked = (Bootstrap().mean(values[key], pictures) for key in ("iou", "auc"))
    ways = [values["auc"][side].mean() for side in (inside, ~inside)]
    seeds = runs["iou"].mean(axis=1)
    spread = f"{np.std(seeds, ddof=1):.3f}" if len(seeds) > 1 else ""
    return (
        f"| {name} | {len(seeds)} | {overlap.value:.3f} [{overlap.low:.3f}, {overlap.high:.3f}] | "
        f"{spread} | {ranked.value:.3f} [{ranked.low:.3f}, {ranked.high:.3f}] | "
        f"{ways[0]:.2f}, {ways[1]:.2f} | {values['area'].mean():.2f} |"
    )


HEADER = """\
| | seeds | IoU | its deviation over seeds | AUC | pasted thing, surroundings | area |
|---|---|---|---|---|---|---|"""


def table(kept: dict[str, Any], variants: Iterable[str]) -> str:
    """The table of all that has been measured, as scores.json has it."""
    inside = np.array(kept["asked"]["inside"])
    rows = {name: kept[name] for name in (*UNTRAINED, *variants) if name in kept}
    return "\n".join([HEADER, *(row(name, found, inside) for name, found in rows.items())])
