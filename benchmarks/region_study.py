"""What eq. 11 learns of regions that are known: planted in photographs, asked for both ways.

    python train.py configs/region/tiny_clip.py --workdir runs/tiny_clip
    python -m benchmarks.region_study --clip runs/tiny_clip/export --out runs/region_study

Trains predictors by configs/region/tiny.py and its variants, one after the other, and measures each
on 512 held-out samples, no pixel of which CLIP or predictor saw: intersection over union at p > 0.5
and the area under the ROC curve (AUC) of the probabilities, over pixels, means over samples with
95 % intervals over pictures. Beside them stand answers that need no training. Ended and started
again, it goes on where it was.
"""

import argparse
import dataclasses
import functools
import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import brushjax
from brushjax import config as configs
from brushjax import sharding
from brushjax.data.sets.collages import PlantedRegions
from brushjax.files import whole_file
from brushjax.metrics import region as metrics
from brushjax.metrics.bootstrap import Bootstrap
from brushjax.training.batches import fill_pool
from brushjax.training.loop import run
from brushjax.training.objectives.contract import Losses, Mean, placed_in
from brushjax.training.objectives.region import cosine
from brushjax.training.objectives.region_objective import RegionObjective

RECIPE = Path(__file__).parents[1] / "configs/region/tiny.py"
HELD_OUT = PlantedRegions(pool=512, split="held_out", seed=1)
BATCH = 64


@dataclasses.dataclass(frozen=True)
class Labels(RegionObjective):
    """The ceiling: the same predictor on the same features, learnt from the true regions."""

    def loss(self, params, batch, keys):
        regions = _predictor(self, params)(
            batch["source_patches"], batch["instruction"], batch["instruction_mask"]
        )
        truth = _patches(batch["region"], self.encoders.placement.grid)
        each = jax.nn.softplus(regions.logits) - regions.logits * truth
        overlap = Mean.over(self._overlap(regions, batch["region"]))
        return Losses({"labels": Mean.over(each)}, {"region_iou": overlap})


def _predictor(objective, params):
    from brushjax.models import RegionPredictor
    from brushjax.training.objectives.contract import build

    return build(RegionPredictor, objective._checked(), params["region"])


def _patches(region, grid):
    """The share of each patch that is in the region."""
    side = region.shape[1] // grid
    cells = region[..., 0].astype(jnp.float32).reshape(-1, grid, side, grid, side)
    return cells.mean(axis=(2, 4)).reshape(len(region), -1)


VARIANTS = {
    "eq. 11, residual": {},
    "labels": {"labels": True},
    "literal": {"residual": False},
    "last layer's patches": {"layer": -1},
    "straight-through": {"gradient": "straight-through"},
    "lambda_s 1": {"structure": 1.0},
    "lambda_s 5": {"structure": 5.0},
    "literal, labels": {"residual": False, "labels": True},
    "concrete": {"gradient": "concrete"},
    "rloo": {"gradient": "rloo"},
}


def variant(config, clip, settings):
    """The recipe's objective with other settings, as `VARIANTS` has them."""
    objective = config.objective
    encoders = dataclasses.replace(
        objective.encoders, clip=str(clip), patch_layer=settings.get("layer", -2)
    )
    fields = {
        "encoders": encoders,
        "predictor": dataclasses.replace(
            objective.predictor, residual=settings.get("residual", True)
        ),
        "losses": dataclasses.replace(
            objective.losses, structure=settings.get("structure", objective.losses.structure)
        ),
        "terms": objective.terms,
        "path": dataclasses.replace(objective.path, gradient=settings.get("gradient", "soft")),
    }
    return (Labels if settings.get("labels") else RegionObjective)(**fields)


# --- measuring


@functools.cache
def held_out(objective):
    """The held-out samples, prepared, and the frozen parameters."""
    mesh = sharding.make_mesh(None, jax.devices()[:1])
    here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    wanted = placed_in(here, objective.shapes())
    frozen = {name: part for name, part in wanted.items() if name != "region"}
    frozen = objective.load(jax.random.key(0), frozen)
    return fill_pool(objective, frozen, HELD_OUT.source(objective.encode), mesh, BATCH), frozen


def chunks(pool):
    return [pool[range(low, low + BATCH)] for low in range(0, len(pool), BATCH)]


def probabilities(objective, predictor):
    """[samples, N] of the held-out samples."""

    @jax.jit
    def predict(batch):
        names = ("source_patches", "instruction", "instruction_mask")
        return predictor(*(batch[name] for name in names)).probability

    pool, _ = held_out(objective)
    return np.concatenate([np.asarray(predict(_there(batch))) for batch in chunks(pool)])


def _there(batch):
    return {name: jnp.asarray(array) for name, array in batch.items() if name != "id"}


def scores(objective, probability):
    """Each sample's overlap, AUC and area, and whether the pasted thing was asked for."""
    truths = held_out(objective)[0].arrays["region"][..., 0] > 0
    size = truths.shape[1]
    spread = objective.encoders.placement.spread
    maps = np.asarray(spread(jnp.asarray(probability), size, size, smooth=False))[..., 0]
    pairs = list(zip(maps, truths, strict=True))
    return {
        "iou": np.array([metrics.iou(p > 0.5, truth) for p, truth in pairs]),
        "auc": np.array([metrics.auc(p, truth) for p, truth in pairs]),
        "area": np.array([metrics.area(p > 0.5) for p, _ in pairs]),
        "inside": truths.mean(axis=(1, 2)) <= 0.5,
    }


def boxes(grid):
    """Every box of a third to three quarters of the side, two patches apart: [boxes, N]."""
    sides = [round(grid * share) for share in (0.375, 0.5, 0.75)]
    masks = []
    for height in sides:
        for width in sides:
            for top in range(0, grid - height + 1, 2):
                for left in range(0, grid - width + 1, 2):
                    mask = np.zeros((grid, grid), np.float32)
                    mask[top : top + height, left : left + width] = 1
                    masks.append(mask.reshape(-1))
    return np.stack(masks)


def chosen_boxes(objective):
    """The predecessor's rule over the boxes: of the three whose result is most like the target
    text, the one with the largest 2 x text + 1 x picture similarity."""
    candidates = jnp.asarray(boxes(objective.encoders.placement.grid))
    pool, frozen = held_out(objective)

    @jax.jit
    def choose(frozen, batch):
        image, donor = (batch[name] / 127.5 - 1 for name in ("image", "donor"))

        def judge(mask):
            size = image.shape[1]
            cells = objective.encoders.placement.spread(mask[None], size, size, smooth=False)
            seen = objective._see(frozen, cells * donor + (1 - cells) * image)["image"]
            return cosine(seen, batch["target_text"]), cosine(seen, batch["source_image"])

        text, picture = jax.lax.map(judge, candidates)  # [boxes, B]
        third = jnp.sort(text, axis=0)[-3]
        return candidates[jnp.where(text >= third, 2 * text + picture, -jnp.inf).argmax(axis=0)]

    batches = tqdm(chunks(pool), desc="boxes", unit="batch")
    return np.concatenate([np.asarray(choose(frozen, _there(batch))) for batch in batches])


def baselines(objective):
    """Answers that nothing was trained for."""
    rng = np.random.default_rng(0)
    truths = held_out(objective)[0].arrays["region"]
    count, patches = len(truths), objective.encoders.placement.grid**2
    share = truths.mean()
    untrained = objective.load(
        jax.random.key(0), {"region": placed_in(_here(), objective.shapes()["region"])}
    )
    return {
        "everything": np.ones((count, patches), np.float32),
        "random patches, the mean area": (rng.random((count, patches)) < share).astype(np.float32),
        "untrained predictor": probabilities(objective, _predictor(objective, untrained)),
        "boxes + CLIP's choice": chosen_boxes(objective),
        "the true region on the grid": np.asarray(
            _patches(jnp.asarray(truths), objective.encoders.placement.grid)
        ),
    }


def _here():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


# --- one table


def row(name, runs):
    """One line of the table: several seeds' samples are one sample's mean."""
    values = {key: np.mean([run[key] for run in runs], axis=0) for key in runs[0]}
    pictures = np.arange(len(values["iou"])) // 2
    overlap, ranked = (Bootstrap().mean(values[key], pictures) for key in ("iou", "auc"))
    inside = values["inside"] > 0.5
    ways = [values["auc"][side].mean() for side in (inside, ~inside)]
    seeds = [run["iou"].mean() for run in runs]
    spread = f"{np.std(seeds, ddof=1):.3f}" if len(runs) > 1 else ""
    return (
        f"| {name} | {len(runs)} | {overlap.value:.3f} [{overlap.low:.3f}, {overlap.high:.3f}] | "
        f"{spread} | {ranked.value:.3f} [{ranked.low:.3f}, {ranked.high:.3f}] | "
        f"{ways[0]:.2f}, {ways[1]:.2f} | {values['area'].mean():.2f} |"
    )


HEADER = """\
| | seeds | IoU | its deviation over seeds | AUC | pasted thing, surroundings | area |
|---|---|---|---|---|---|---|"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clip", type=Path, required=True, help="export of tiny_clip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="0: the recipe's")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    config = configs.load(RECIPE)
    steps = options.steps or config.steps
    main_objective = variant(config, options.clip, {})
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "baselines.npz"
    if not file.is_file():
        with whole_file(file) as unfinished, open(unfinished, "wb") as target:
            np.savez(target, **baselines(main_objective))
    for name in options.variants:
        for seed in range(options.seeds):
            objective = variant(config, options.clip, VARIANTS[name])
            settings = dataclasses.replace(
                config, objective=objective, seed=seed, steps=steps, validation=None
            )
            folder = options.out / f"{name.replace(' ', '_')}-{seed}"
            if not (folder / "scores.npz").is_file():
                export = run(settings, folder)
                if export is None:
                    return
                predictor = brushjax.load("region", export)
                found = scores(objective, probabilities(objective, predictor))
                with whole_file(folder / "scores.npz") as part, open(part, "wb") as target:
                    np.savez(target, **found)
            (options.out / "table.md").write_text(table(main_objective, options.out))
    print(table(main_objective, options.out))


def table(objective, out):
    """The table of all that has been measured."""
    lines = [HEADER]
    with np.load(out / "baselines.npz") as stored:
        lines += [row(name, [scores(objective, stored[name])]) for name in stored]
    for name in VARIANTS:
        files = sorted(out.glob(f"{name.replace(' ', '_')}-[0-9]*/scores.npz"))
        if files:
            lines.append(row(name, [dict(np.load(file)) for file in files]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
