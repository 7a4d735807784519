"""Answers to the planted-region task that need no training; scores of answers, and their table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from brushjax.metrics import region as metrics
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.models import CLIPText, RegionPredictor
from brushjax.models.placement import Placement
from brushjax.models.region import smoothed
from brushjax.pipelines.proposals import boxes, chosen
from brushjax.training.objectives.contract import build, placed_in
from brushjax.training.objectives.region import cosine, unit

BATCH = 64
UNTRAINED = (
    "everything",
    "random patches, the mean area",
    "untrained predictor",
    "boxes + CLIP's choice",
    "CLIP's patches, by the captions' difference",
    "CLIP's patches, by the thing's name",
    "CLIP's patches, by the captions' difference, smoothed",
    "CLIP's patches, by the thing's name, smoothed",
    "the true region on the grid",
)


def patches_of(region: Any, grid: int) -> jax.Array:
    """Returns the share of each patch that is in the region: [B, N]."""
    side = region.shape[1] // grid
    cells = jnp.asarray(region)[..., 0].astype(jnp.float32).reshape(-1, grid, side, grid, side)
    return cells.mean(axis=(2, 4)).reshape(len(region), -1)


def scores(place: Placement, probability: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Returns overlap at p > 0.5, AUC and area, [seeds, samples] each, of the maps that regions are
    cut from, see `Placement.pixels`.

    Args:
      probability: [seeds, samples, N].
      truth: [samples, H, W].
    """
    size = truth.shape[1]

    def of(probability: np.ndarray) -> list[list[float]]:
        maps = np.asarray(place.pixels(jnp.asarray(probability), size, size))
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


def by_words(pool: Any, words: jax.Array, smoothing: int = 0) -> np.ndarray:
    """How well each patch agrees with a text's direction, from 0 to 1 within a picture: [B, N].

    Args:
      words: [B, D].
      smoothing: as a predictor's, see `RegionConfig`.
    """
    found = jnp.einsum("bnd,bd->bn", unit(pool["source_patches"]), words)
    for _ in range(smoothing):
        found = smoothed(found)
    low, high = found.min(axis=1, keepdims=True), found.max(axis=1, keepdims=True)
    return np.asarray((found - low) / (high - low))


def named(objective: Any, frozen: Any, things: Iterable[str]) -> jax.Array:
    """CLIP's embeddings of "a photo of a THING": [B, D]."""
    ids = objective.encoders.captions([f"a photo of a {thing}" for thing in things])
    text = build(CLIPText, objective.encoders.text, frozen["clip_text"])
    embeds = text(jnp.asarray(ids)).text_embeds
    assert embeds is not None
    return unit(embeds)


def baselines(
    objective: Any, frozen: Any, pool: Any, things: Iterable[str]
) -> dict[str, np.ndarray]:
    """Answers that no predictor was trained for: [samples, N] each.

    Args:
      pool: the held-out samples, prepared.
      things: what each sample's instruction asks for.
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
    changed = unit(pool["source_text"]) - unit(pool["target_text"])
    called = named(objective, frozen, things)
    answers = (
        np.ones((count, patches), np.float32),
        (rng.random((count, patches)) < share).astype(np.float32),
        np.asarray(predictor(*(pool[name] for name in names)).probability),
        chosen_boxes(objective, frozen, pool),
        by_words(pool, changed),
        by_words(pool, called),
        by_words(pool, changed, smoothing=1),
        by_words(pool, called, smoothing=1),
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
    count = len(runs["iou"])
    spread = {key: f" ({_deviation(runs[key])})" if count > 1 else "" for key in ("iou", "auc")}
    return (
        f"| {name} | {count} | "
        f"{overlap.value:.3f} [{overlap.low:.3f}, {overlap.high:.3f}]{spread['iou']} | "
        f"{ranked.value:.3f} [{ranked.low:.3f}, {ranked.high:.3f}]{spread['auc']} | "
        f"{ways[0]:.2f}, {ways[1]:.2f} | {values['area'].mean():.2f} |"
    )


def _deviation(run: np.ndarray) -> str:
    """The standard deviation of the seeds' means."""
    return f"{np.std(run.mean(axis=1), ddof=1):.3f}"


HEADER = """\
| | seeds | IoU (its deviation over seeds) | AUC (likewise) | pasted thing, surroundings | area |
|---|---|---|---|---|---|"""


def table(kept: dict[str, Any], variants: Iterable[str]) -> str:
    """The table of all that has been measured, as scores.json has it."""
    inside = np.array(kept["asked"]["inside"])
    rows = {name: kept[name] for name in (*UNTRAINED, *variants) if name in kept}
    return "\n".join([HEADER, *(row(name, found, inside) for name, found in rows.items())])
