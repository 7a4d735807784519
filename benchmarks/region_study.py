"""What eq. 11 learns of regions that are known: planted in photographs, asked for both ways.

    python -m benchmarks.region_study --out runs/region_study

Trains the tiny CLIP of configs/region/tiny_clip.py and, on it, predictors by configs/region/tiny.py
and its variants, five seeds of each side by side. Each is measured on 512 held-out samples, no
pixel of which CLIP or predictor saw: intersection over union at p > 0.5 and the area under the ROC
curve (AUC) of the probabilities, over pixels; means over samples with 95 % intervals over pictures.
Beside them stand answers that need no training. Ended and started again, it goes on with the next
variant. `--table` prints what was measured so far, `--export VARIANT SEED DIR` writes a predictor,
`--rescore` measures the kept weights anew.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import brushjax
from benchmarks.region_answers import UNTRAINED, baselines, patches_of, scores, table
from benchmarks.region_kept import Kept
from benchmarks.region_latents import LatentRegions
from benchmarks.resident import Run, prepared, samples
from brushjax import config as configs
from brushjax.data.sets.collages import CaptionedCollages, PlantedRegions
from brushjax.files import whole_file, write_json
from brushjax.models import RegionPredictor
from brushjax.training.objectives.contract import Losses, Mean, build, parameters, placed_in
from brushjax.training.objectives.contrastive import ContrastiveObjective
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.training.recipe import TrainConfig

RECIPES = Path(__file__).parents[1] / "configs/region"
FEATURES = -1, "pixel", "cached"  # of most variants: their prepared samples are kept
HELD_OUT = PlantedRegions(pool=512, split="held_out", seed=1)


@dataclasses.dataclass(frozen=True)
class Labels(RegionObjective):
    """The ceiling: the same predictor on the same features, learnt from the true regions."""

    def loss(self, params, batch, keys):
        predictor = build(RegionPredictor, self._checked(), params["region"])
        names = ("source_patches", "instruction", "instruction_mask")
        regions = predictor(*(batch[name] for name in names))
        truth = patches_of(batch["region"], self.encoders.placement.grid)
        each = jax.nn.softplus(regions.logits) - regions.logits * truth
        overlap = Mean.over(self._overlap(regions, batch["region"]))
        return Losses({"labels": Mean.over(each)}, {"region_iou": overlap})


MAIN = "eq. 11, residual, concrete"
VARIANTS: dict[str, dict[str, Any]] = {
    MAIN: {},
    "labels": {"labels": True},
    "last layer's patches but one": {"layer": -2},
    "soft": {"gradient": "soft"},
    "straight-through": {"gradient": "straight-through"},
    "rloo": {"gradient": "rloo"},
    "literal": {"residual": False},
    "lambda_s 1": {"structure": 1.0},
    "lambda_s 2": {"structure": 2.0},
    "lambda_s 5": {"structure": 5.0},
    "without smoothing": {"smoothing": 0},
    "random start": {"start": False},
    "random start, without smoothing": {"start": False, "smoothing": 0},
    "literal, random start, without smoothing": {
        "residual": False,
        "start": False,
        "smoothing": 0,
    },
    "literal, labels": {"residual": False, "labels": True},
    "last layer's patches but one, labels": {"layer": -2, "labels": True},
    "without eq. 4 to 6": {"alpha": 0.0},
    "donors in latents": {"space": "latent"},
    "donors in latents, online": {"space": "latent", "donor": "online"},
}


def objective_of(config: TrainConfig) -> RegionObjective:
    """The objective of a recipe for regions."""
    objective = config.objective
    assert isinstance(objective, RegionObjective)
    return objective


def variant(config: TrainConfig, clip: Path, settings: dict[str, Any]) -> TrainConfig:
    """The recipe with other settings, as `VARIANTS` has them."""
    ours = objective_of(config)
    encoders = dataclasses.replace(
        ours.encoders,
        clip=str(clip),
        patch_layer=settings.get("layer", ours.encoders.patch_layer),
    )
    form = {name: settings[name] for name in ("residual", "smoothing") if name in settings}
    predictor = dataclasses.replace(ours.predictor, **form)
    losses = dataclasses.replace(
        ours.losses,
        structure=settings.get("structure", ours.losses.structure),
        alpha=settings.get("alpha", ours.losses.alpha),
    )
    named = {name: settings[name] for name in ("gradient", "space", "donor") if name in settings}
    path = dataclasses.replace(ours.path, **named)
    kind = LatentRegions if "space" in settings else RegionObjective
    kind = Labels if settings.get("labels") else kind
    start = settings.get("start", ours.starts_as_clip)
    objective = kind(encoders, predictor, losses, ours.terms, path, start)
    return dataclasses.replace(config, objective=objective)


# --- the study


@dataclasses.dataclass(frozen=True)
class Study:
    """Sizes of the study, and the folder of the CLIP that its objectives read configs from."""

    clip: TrainConfig
    region: TrainConfig
    folder: Path
    seeds: tuple[int, ...]
    workers: int
    every: int

    @functools.cached_property
    def main(self) -> TrainConfig:
        return variant(self.region, self.folder / "clip", {})

    def run(self, config: TrainConfig, seeds: tuple[int, ...]) -> Run:
        """A recipe's run."""
        return Run(config, seeds, self.every)

    def make(self, name: str) -> dict[str, np.ndarray]:
        """Samples of "clip", "train" or "held_out", kept beside the CLIP's configs."""
        file = self.folder / f"{name}.npz"
        if file.is_file():
            with np.load(file) as stored:
                return dict(stored)
        clip = self.clip.objective
        assert isinstance(clip, ContrastiveObjective)
        side = clip.vision.image_size
        settings = {
            "clip": (self.clip, self.clip.data),
            "clip_held_out": (self.clip, CaptionedCollages(split="held_out", pool=512, seed=1)),
            "train": (self.main, self.region.data),
            "held_out": (self.main, HELD_OUT),
        }
        config, data = settings[name]
        data = dataclasses.replace(data, size=side)
        made = samples(data, config.objective.encode, self.workers)
        with whole_file(file) as part, open(part, "wb") as target:
            np.savez(target, **made)  # pyright: ignore[reportArgumentType]
        return made


def train_clip(study: Study, kept: Kept) -> Any:
    """Returns the CLIP's parameters, trained unless they are kept."""
    if kept.params("clip"):
        return jax.tree.map(jnp.asarray, kept.params("clip"))
    pool = {name: jnp.asarray(array) for name, array in study.make("clip").items()}
    run = study.run(study.clip, (study.clip.seed,))
    began = time.monotonic()

    def report(step: int, metrics: Any) -> None:
        shown = ", ".join(f"{name} {values[0]:.3f}" for name, values in metrics.items())
        print(f"clip {step} ({time.monotonic() - began:.0f} s): {shown}", flush=True)

    kept.add("clip", jax.tree.map(lambda leaf: leaf[0], run({}, pool, report=report)))
    params = jax.tree.map(jnp.asarray, kept.params("clip"))  # in half precision, as it is handed on
    held_out = {name: jnp.asarray(array) for name, array in study.make("clip_held_out").items()}
    objective = study.clip.objective
    keys = jax.random.split(jax.random.key(0), len(held_out["id"]))

    @jax.jit
    def found(params: Any, batch: Any) -> jax.Array:
        return objective.loss(params, objective.across(batch), keys).logged["found"].value

    share = found(params, held_out)
    print(f"clip: the right caption of 512 held-out ones and as many wrong: {share:.3f}")
    return params


def clip_of(folder: Path) -> Any:
    """The parameters of a CLIP that a run exported."""
    kinds = ("clip_vision", "clip_text")
    return {kind: parameters(brushjax.load(kind, folder)) for kind in kinds}


def measured(config: TrainConfig, params: Any, held_out: Any) -> np.ndarray:
    """Probabilities of the held-out samples: [seeds, samples, N]."""
    inner = objective_of(config)._checked()

    @jax.jit
    def predict(params: Any, batch: Any) -> jax.Array:
        names = ("source_patches", "instruction", "instruction_mask")

        def one(params: Any) -> jax.Array:
            predictor = build(RegionPredictor, inner, params["region"])
            return predictor(*(batch[name] for name in names)).probability

        return jax.lax.map(one, params)

    return np.asarray(predict(params, held_out))


def study_variants(study: Study, kept: Kept, names: list[str], ahead: int) -> None:
    """Trains and measures the variants, in their order, and the answers without training."""
    configs_of = {
        name: variant(study.region, study.folder / "clip", VARIANTS[name]) for name in names
    }
    runs = {name: study.run(config, study.seeds) for name, config in configs_of.items()}
    arrays = {name: study.make(name) for name in ("train", "held_out")}
    with concurrent.futures.ThreadPoolExecutor(max(1, ahead)) as compiling:
        programs = {}
        if ahead:  # while CLIP is trained
            programs = {
                name: compiling.submit(_compiled, run, arrays["train"])
                for name, run in runs.items()
            }
        clip = train_clip(study, kept)
        study.clip.objective.export(clip, study.folder / "clip", {})  # some start as it
        frozen = {name: clip[name] for name in ("clip_vision", "clip_text")}
        truth = arrays["held_out"]["region"][..., 0] > 0
        if "asked" not in kept.scores:
            kept.add("asked", found={"inside": (truth.mean(axis=(1, 2)) <= 0.5).tolist()})
        pools: dict[Any, dict[str, Any]] = {}
        for name, run in runs.items():
            began, objective = time.monotonic(), objective_of(configs_of[name])
            known = _frozen(objective, frozen)
            key = objective.encoders.patch_layer, objective.path.space, objective.path.donor
            if key not in pools:
                pools = {k: pool for k, pool in pools.items() if k == FEATURES}  # the others: gone
                pools[key] = {split: prepared(objective, known, arrays[split]) for split in arrays}
            program = programs[name].result() if ahead else None
            waited = time.monotonic() - began
            params = run(known, pools[key]["train"], program)
            probability = measured(configs_of[name], params, pools[key]["held_out"])
            trained = time.monotonic() - began
            kept.add(name, params, scores(objective.encoders.placement, probability, truth))
            print(
                f"{name}: {waited:.1f} s of preparing, {trained:.1f} s; {_short(kept, name)}",
                flush=True,
            )
        if UNTRAINED[0] not in kept.scores:
            score_untrained(study, kept, frozen)


def score_untrained(study: Study, kept: Kept, frozen: Any) -> None:
    """Measures the answers that need no training."""
    objective, arrays = objective_of(study.main), study.make("held_out")
    held_out = prepared(objective, frozen, arrays)
    answers = baselines(objective, frozen, held_out, asked_for(HELD_OUT))
    truth = arrays["region"][..., 0] > 0
    for name, probability in answers.items():
        kept.add(name, found=scores(objective.encoders.placement, probability[None], truth))
        print(f"{name}: {_short(kept, name)}")


def rescore(study: Study, kept: Kept) -> None:
    """Measures the variants whose weights are kept anew."""
    held_out, clip = study.make("held_out"), jax.tree.map(jnp.asarray, kept.params("clip"))
    truth = held_out["region"][..., 0] > 0
    pools: dict[int, Any] = {}
    for name in VARIANTS:
        params = jax.tree.map(jnp.asarray, kept.params(name))
        if params:
            config = variant(study.region, study.folder / "clip", VARIANTS[name])
            layer = objective_of(config).encoders.patch_layer
            if layer not in pools:
                plain = variant(study.region, study.folder / "clip", {"layer": layer})
                pools[layer] = prepared(plain.objective, clip, held_out)
            probability = measured(config, params, pools[layer])
            place = objective_of(config).encoders.placement
            kept.add(name, found=scores(place, probability, truth))
            print(f"{name}: {_short(kept, name)}", flush=True)


def asked_for(data: PlantedRegions) -> list[str]:
    """What each sample's instruction, "replace the THING with ...", names."""
    source = data.source(lambda record: {})
    instructions = (source.record(n).instruction for n in range(data.pool))
    return [text.split(" with ")[0].removeprefix("replace the ") for text in instructions]


def _short(kept: Kept, name: str) -> str:
    return ", ".join(
        f"{key} {np.mean(kept.scores[name][key]):.3f}" for key in ("iou", "auc", "area")
    )


def _frozen(objective: RegionObjective, clip: Any) -> Any:
    """All frozen parameters of an objective, whose CLIP is there already."""
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    missing = objective.shapes().keys() - clip.keys() - {"region"}
    wanted = {name: placed_in(here, objective.shapes()[name]) for name in missing}
    return {**clip, **objective.load(jax.random.key(0), wanted)}


def _compiled(run: Run, arrays: Any) -> Any:
    objective = run.config.objective
    shapes = objective.shapes()
    frozen = {name: part for name, part in shapes.items() if name != "region"}
    batch = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), arrays)
    pool = jax.eval_shape(objective.prepare, frozen, batch) | {"id": batch["id"]}
    return run.compiled(run.shapes(), frozen, pool)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clip", type=Path, help="export of tiny_clip; else it is trained here")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="that make samples; 0: one a core")
    parser.add_argument("--ahead", type=int, default=0, help="threads that compile beforehand")
    parser.add_argument("--scratch", type=Path, help="keeps samples for the next start")
    parser.add_argument(
        "--samples-only", action="store_true", help="fill the scratch folder, and end"
    )
    parser.add_argument("--table", action="store_true", help="print what was measured, and end")
    parser.add_argument("--rescore", action="store_true", help="measure kept weights anew, and end")
    parser.add_argument("--export", nargs=3, metavar=("VARIANT", "SEED", "DIR"))
    for name in ("steps", "clip-steps", "pool", "clip-pool", "every"):
        parser.add_argument(f"--{name}", type=int, default=0, help="0: the recipe's")
    options = parser.parse_args()
    kept = Kept(options.out)
    if options.table:
        print(table(kept.scores, VARIANTS))
        return
    with tempfile.TemporaryDirectory() as temporary:
        study = made(options, Path(options.scratch or temporary))
        if options.samples_only:
            for name in ("clip", "clip_held_out", "train", "held_out"):
                study.make(name)
            return
        if options.export:
            name, seed, folder = options.export
            export(study, kept, name, int(seed), Path(folder))
            return
        if options.rescore:
            rescore(study, kept)
            score_untrained(study, kept, jax.tree.map(jnp.asarray, kept.params("clip")))
            print(table(kept.scores, VARIANTS))
            return
        if options.clip and not kept.params("clip"):
            kept.add("clip", clip_of(options.clip))
        left = [name for name in options.variants if name not in kept.scores]
        study_variants(study, kept, left, options.ahead)
    print(table(kept.scores, VARIANTS))


def made(options: argparse.Namespace, folder: Path) -> Study:
    """The study that the command line asks for; writes an untrained CLIP's configs."""
    clip, region = (configs.load(RECIPES / f"{name}.py") for name in ("tiny_clip", "tiny"))
    clip = _resized(clip, options.clip_steps, options.clip_pool)
    region = _resized(region, options.steps, options.pool)
    start = folder / "clip"
    if not start.is_dir():
        shapes = clip.objective.shapes()
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
        clip.objective.export(zeros, start, {})
    seeds = tuple(range(options.first_seed, options.first_seed + options.seeds))
    return Study(clip, region, folder, seeds, options.workers, options.every or 100)


def _resized(config: TrainConfig, steps: int, pool: int) -> TrainConfig:
    steps = steps or config.steps
    pool = pool or config.data.pool or steps * config.batch_size  # no end of new ones
    data = dataclasses.replace(config.data, pool=pool)
    warmup = min(config.optimizer.warmup_steps, steps)
    optimizer = dataclasses.replace(config.optimizer, warmup_steps=warmup)
    return dataclasses.replace(config, steps=steps, data=data, optimizer=optimizer, validation=None)


def export(study: Study, kept: Kept, name: str, seed: int, folder: Path) -> None:
    """Writes one predictor and its CLIP, as `RegionFinder.load` reads them."""
    study.clip.objective.export(kept.params("clip"), folder / "clip", {})
    config = variant(study.region, folder / "clip", VARIANTS[name])
    params = jax.tree.map(lambda leaf: leaf[seed], kept.params(name))
    config.objective.export(params, folder, {})
    encoders = json.loads((folder / "encoders.json").read_text())
    write_json(folder / "encoders.json", encoders | {"clip": "clip"})


if __name__ == "__main__":
    main()
