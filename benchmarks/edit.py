"""What the exact savings of an edit are worth, one by one and together, in one process.

    python -m benchmarks.edit [--latents 32] [--steps 4] [--rounds 5] [--batch 4] [--each]

A UNet and a branch of SD1.5's form at a fifth of its width run the guided loop with no saving and
with all, or also with each alone; the programs take turns. Prints milliseconds a step, the ratio to
the naive loop, counted FLOPs, and how far the latents are from the naive ones. On a CPU less is won
with a batch of 1: two samples keep two cores busier than one does.
"""

import argparse
import dataclasses
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.edit_sides import SCHEDULER
from brushjax.diffusion.samplers import make_sampler
from brushjax.inference.engine.edit import denoise
from brushjax.inference.engine.options import NAIVE, Condition, EditInputs, EditOptions, Savings
from brushjax.inference.engine.predict import Predictor
from brushjax.inference.engine.program import padded_inputs
from brushjax.models import BrushNet, BrushNetConfig, UNet, UNetConfig
from brushjax.nn import Keys
from brushjax.training.scale.program import flops, trace

BODY = {
    "block_out_channels": (64, 128, 256, 256),
    "cross_attention_dim": 128,
    "attention_head_dim": 4,
}


def build(kind, config, seed):
    """Makes a network whose weights are all random, the taps' too."""
    graph, state = nnx.split(nnx.eval_shape(lambda: kind(config, rngs=Keys(0))))
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        values = random.standard_normal(leaf.shape).astype(np.float32)
        if path[-1].key == "kernel":
            return values / np.sqrt(np.prod(leaf.shape[:-1]), dtype=np.float32)
        return 0.1 * values + np.float32(path[-1].key == "scale")

    return graph, jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))


def make_inputs(options):
    """Draws the inputs of a guided edit, and the branch's condition."""
    random = np.random.default_rng(0)
    size = (options.batch, options.latents, options.latents)
    noise, condition = (random.standard_normal((*size, c), np.float32) for c in (4, 5))
    text = random.standard_normal((2, options.batch, 77, 128), np.float32)
    inputs = EditInputs(
        masked=None,
        masks=None,
        noise=noise,
        conditions=(Condition(text[1]), Condition(text[0])),
        guidance=np.float32(7.5),
        scales=np.ones(options.steps, np.float32),
    )
    return inputs, condition


def counted(graphs, params, condition, inputs, savings):
    """FLOPs of one guided step: of its trace, without what is computed once an edit."""

    def prepare(params, condition, inputs, x, step):
        unet, branch = (nnx.merge(g, p) for g, p in zip(graphs, params, strict=True))
        options = EditOptions(savings=savings)
        predict = Predictor(unet, branch, condition, inputs, jnp.array([7.0]), options)
        table = jax.tree.map(lambda rows: rows[0], predict.per_step)
        return predict(x, jnp.float32(7), table) if step else predict.per_step, predict._text

    one = dataclasses.replace(inputs, scales=inputs.scales[:1], guidance=inputs.guidance[:1])
    shapes = jax.eval_shape(lambda: (params, condition, one, inputs.noise))
    whole, ahead = (
        flops(trace(lambda *a, step=step: prepare(*a, step), *shapes)) for step in (True, False)
    )
    return whole - ahead


def main():
    """Times the programs in turns and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--latents", type=int, default=32, help="side of the latents")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--each", action="store_true", help="every saving alone, too")
    options = parser.parse_args()
    names = [field.name for field in dataclasses.fields(Savings)]
    kinds = {"naive": NAIVE}
    if options.each:
        kinds |= {name: dataclasses.replace(NAIVE, **{name: True}) for name in names}
    kinds["all"] = Savings()

    pairs = [(UNet, UNetConfig(**BODY)), (BrushNet, BrushNetConfig(**BODY))]
    built = [build(*pair, seed) for seed, pair in enumerate(pairs)]
    graphs, params = [graph for graph, _ in built], jax.device_put([p for _, p in built])
    inputs, condition = make_inputs(options)
    exact = make_sampler("ddim", SCHEDULER, options.steps)
    sampler, inputs = exact.padded(), padded_inputs(inputs, exact)

    def loop(params, condition, sampler, inputs, savings):
        unet, branch = (nnx.merge(g, p) for g, p in zip(graphs, params, strict=True))
        return denoise(unet, branch, condition, sampler, inputs, EditOptions(savings=savings))

    compiled = jax.jit(loop, static_argnums=4)
    arguments = (params, condition, sampler, inputs)
    latents = {name: np.asarray(compiled(*arguments, kind)) for name, kind in kinds.items()}
    seconds = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, kind in kinds.items():
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments, kind))
            seconds[name].append(time.perf_counter() - start)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {jax.devices()[0].platform}")
    print(
        f"{'saving':12} {'ms a step':>10} {'naive / it':>10} {'GFLOP a step':>13} {'distance':>9}"
    )
    base = statistics.median(seconds["naive"])
    for name, kind in kinds.items():
        middle = statistics.median(seconds[name])
        ratios = [a / b for a, b in zip(seconds["naive"], seconds[name], strict=True)]
        work = counted(graphs, params, condition, inputs, kind) / 1e9
        distance = np.abs(latents[name] - latents["naive"]).max() / latents["naive"].std()
        print(
            f"{name:12} {1e3 * middle / options.steps:10.1f} {base / middle:10.3f} {work:13.2f} "
            f"{distance:9.1e}   (rounds: {min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
