"""The opt-in approximations: speed and distance from the exact edit, in one table.

    python -m benchmarks.approximations [--brushnet runs/quickstart/export] [--steps 50]

Edits photos' holes with the small base in the package, or another, and a branch: the one given, or
the base's own convolutions behind random taps. Prints the median seconds of an edit, the ratio to
the exact one, the PSNR of the pictures inside the hole against the exact ones, and the distance of
the latents in their standard deviations.
"""

import argparse
import os
import statistics
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import brushjax
from brushjax.diffusion.samplers import make_sampler
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.engine.edit import Graphs, seeded_noise
from brushjax.inference.engine.options import Condition, EditInputs
from brushjax.inference.engine.program import EditProgram
from brushjax.inference.images import prepare

BASE = Path(brushjax.__file__).parent / "assets/base"
SETTINGS = {
    "exact": (Approximations(), {}),
    "guidance in the middle half": (Approximations(guidance_start=0.25, guidance_end=0.75), {}),
    "guidance from 20 % to 100 %": (Approximations(guidance_start=0.2), {}),
    "branch off after 60 %": (Approximations(branch_end=0.6), {}),
    "deep features every 2nd step": (Approximations(reuse_every=2), {}),
    "deep features every 3rd step": (Approximations(reuse_every=3), {}),
    "the same, two fresh layers": (Approximations(reuse_every=3, fresh_layers=2), {}),
    "20 steps": (Approximations(), {"steps": 20}),
    "20 steps, every 2nd": (Approximations(reuse_every=2), {"steps": 20}),
    "LCM, 8 steps": (Approximations(), {"scheduler": "lcm", "steps": 8, "guidance": 1.0}),
}


def load_program(options):
    """Loads networks, and gives a branch without training taps that do something."""
    unet = brushjax.load("unet", options.base)
    if options.brushnet:
        branch = brushjax.load("brushnet", options.brushnet)
    else:
        branch = brushjax.models.BrushNet.from_unet(unet)
        random = np.random.default_rng(0)
        for name in ("brushnet_down_blocks", "brushnet_mid_block", "brushnet_up_blocks"):
            state = nnx.state(getattr(branch, name))
            for path, leaf in nnx.to_flat_state(state):
                if path[-1] == "kernel":
                    width = leaf.shape[-1]
                    taps = random.standard_normal(leaf.shape, np.float32) / np.sqrt(width)
                    leaf.set_value(0.2 * taps)
            nnx.update(getattr(branch, name), state)
    parts = {"unet": unet, "brushnet": branch, "vae": brushjax.load("vae", options.base)}
    split = {name: nnx.split(part) for name, part in parts.items()}
    graphs = Graphs(**{name: graph for name, (graph, _) in split.items()})
    return EditProgram(graphs, {n: nnx.to_pure_dict(state) for n, (_, state) in split.items()})


def make_inputs(options):
    """Pictures with a round hole, prompts, and the seeds' noise."""
    from brushjax.data.text import Tokenizer

    random, side = np.random.default_rng(0), options.size
    grid = np.mgrid[:side, :side] / side
    pictures = []
    for _ in range(options.pictures):  # soft gradients stand in for photos
        waves = random.uniform(0, 6, (3, 2)) @ grid.reshape(2, -1) + random.uniform(0, 6, (3, 1))
        pictures.append((127 + 100 * np.sin(waves)).T.reshape(side, side, 3).astype(np.uint8))
    hole = (np.square(grid - 0.5).sum(axis=0) < 0.06).astype(np.uint8) * 255
    prepared = prepare(pictures, [hole] * len(pictures))
    text = brushjax.load("clip_text", options.base)
    tokenize = Tokenizer.load(options.base / "tokenizer", text.config.max_position_embeddings)
    ids = np.asarray(tokenize([options.prompt, ""]), np.int32)
    features = np.asarray(jax.jit(text)(ids).last_hidden_state)
    seeds = np.arange(len(pictures), dtype=np.uint32)
    context, negative = (np.repeat(row[None], len(pictures), axis=0) for row in features)
    noise = np.asarray(seeded_noise(seeds, (side // 8, side // 8, 4)))
    return prepared, {
        "masked": prepared.masked,
        "masks": prepared.masks,
        "noise": noise,
        "conditions": (Condition(negative), Condition(context)),
        "seeds": seeds,
    }


def psnr(pictures, exact, holes):
    """Of the pixels inside the holes, in dB."""
    inside = np.repeat(holes == 1, 3, axis=-1)
    error = np.square(pictures[inside].astype(float) - exact[inside]).mean()
    return 10 * np.log10(255**2 / max(error, 1e-10))


def main():
    """Runs every setting in turns and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=BASE, help="pipeline folder")
    parser.add_argument("--brushnet", type=Path, help="branch; random taps without it")
    parser.add_argument("--prompt", default="a red circle")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    program, (prepared, given) = load_program(options), make_inputs(options)
    config = options.base / "scheduler"
    seconds, results = {name: [] for name in SETTINGS}, {}
    for turn in range(options.rounds + 1):  # the first compiles
        for name, (approximations, changes) in SETTINGS.items():
            sampler = make_sampler(
                changes.get("scheduler", "unipc"), config, changes.get("steps", options.steps)
            )
            guidance = changes.get("guidance", options.guidance)
            inputs = EditInputs(
                **given | {"conditions": given["conditions"][0 if guidance > 1 else 1 :]},
                guidance=np.float32(guidance),
                scales=np.ones(sampler.steps, np.float32),
            )
            start = time.perf_counter()
            results[name] = program(sampler, inputs, approximations=approximations)
            if turn:
                seconds[name].append(time.perf_counter() - start)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {jax.devices()[0].platform}")
    print(f"{'setting':30} {'s an edit':>9} {'speed-up':>8} {'PSNR, dB':>8} {'distance':>9}")
    exact, pictures = results["exact"]
    base = statistics.median(seconds["exact"])
    for name, (latents, changed) in results.items():
        distance = np.sqrt(np.square(latents - exact).mean()) / exact.std()
        middle = statistics.median(seconds[name])
        quality = psnr(changed, pictures, prepared.masks)
        print(f"{name:30} {middle:9.3f} {base / middle:8.2f} {quality:8.1f} {distance:9.3f}")


if __name__ == "__main__":
    main()
