"""A training step of the full-size region predictor on this machine's CPU, of random weights.

    python -m benchmarks.region_step                 configs/region/predictor.py, batch 2, float32
    python -m benchmarks.region_step --batch 8 --steps 5

CLIP ViT-L/14 and FLAN-T5-base read each sample, and CLIP judges the mixture (eq. 11). Prints
seconds of wall clock and of CPU time a step, samples a second, and the process's peak memory.
"""

import argparse
import dataclasses
import os
import time
from pathlib import Path

import jax

from benchmarks.train_sides import resident
from brushjax import config as configs
from brushjax.training.plan import make_plan
from brushjax.training.scale.ahead import step_shapes
from brushjax.training.step import step_of

RECIPE = Path(__file__).parents[1] / "configs/region/predictor.py"


def filled(tree, seed):
    """Random numbers of a tree's shapes, zeros where they are whole."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(structure, [one(*pair) for pair in zip(keys, leaves, strict=True)])


def one(key, leaf):
    if not jax.numpy.issubdtype(leaf.dtype, jax.numpy.floating):
        return jax.numpy.zeros(leaf.shape, leaf.dtype)
    return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="after one that is not counted")
    options = parser.parse_args()
    config = configs.load(RECIPE)
    config = dataclasses.replace(config, batch_size=options.batch, compute_dtype="float32")
    plan = make_plan(config, jax.devices()[:1])
    state, frozen, batch = (
        filled(tree, seed) for seed, tree in enumerate(step_shapes(config, plan))
    )
    state["optimizer"] = jax.tree.map(abs, state["optimizer"])  # second moments are positive
    step = step_of(config, plan)
    for number in range(options.steps + 1):
        wall, cpu = time.monotonic(), time.process_time()
        state, metrics = step(state, frozen, batch)
        loss = float(metrics["loss"])
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        note = " (compiles)" if number == 0 else f", {options.batch / wall:.3f} samples/s"
        print(f"step {number}: loss {loss:.3f}, {wall:.1f} s, {cpu:.1f} s of CPU{note}", flush=True)
    print(f"{os.cpu_count()} cores, peak {resident() / 2**30:.1f} GiB")


if __name__ == "__main__":
    main()
