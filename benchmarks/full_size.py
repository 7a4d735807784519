"""SD1.5's UNet and branch at full size in float32, in PyTorch and here, on the same random weights.

    python -m benchmarks.full_size [--latents 32] [--repeats 3]

Prints the largest error in units of the output's standard deviation, and for each side the seconds
of a forward pass (median, wall clock and CPU) and the peak of resident memory. The sides run one
after the other in processes of their own, so that a peak is theirs alone; each draws the weights
tensor by tensor from the names. Needs 8 GB of memory and the `test` extra.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.random_weights import Weights, weight

SETTINGS = {
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}


def draw_inputs(size):
    """Draws sample, timestep, context and condition, feature maps NCHW."""
    rng = np.random.default_rng(0)
    sample, condition = (rng.standard_normal((1, c, size, size), np.float32) for c in (4, 5))
    return sample, np.array([500]), rng.standard_normal((1, 77, 768), np.float32), condition


def measure(forward, repeats):
    """Returns what `forward` gave, and the median of its seconds, wall clock and CPU."""
    wall, cpu = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        out = forward()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return out, {"wall": statistics.median(wall), "cpu": statistics.median(cpu)}


def run_torch(size, repeats):
    """Runs diffusers' UNet block by block with the composed branch's residuals."""
    import torch
    from diffusers import UNet2DConditionModel

    from tests.torch_reference import TorchBranch, injected

    def build(name, kind, **settings):
        with torch.device("meta"):
            model = kind(**settings)
        for module in model.modules():
            for key, parameter in module.named_parameters(recurse=False):
                empty = torch.nn.Parameter(torch.empty(parameter.shape), requires_grad=False)
                setattr(module, key, empty)
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weight(name, key, tuple(parameter.shape))))
        return model.eval()

    unet = build("unet", UNet2DConditionModel, **SETTINGS)
    branch = build("branch", TorchBranch, **SETTINGS)
    sample, timestep, context, condition = map(torch.from_numpy, draw_inputs(size))

    @torch.inference_mode()
    def forward():
        down, mid, up = residuals = branch(sample, timestep, condition)
        return [injected(unet, sample, timestep, context, residuals), *down, mid, *up]

    start = time.perf_counter()
    forward()
    first = time.perf_counter() - start
    outputs, seconds = measure(forward, repeats)
    return [x.numpy() for x in outputs], seconds | {"first": first}


def run_jax(size, repeats):
    """Runs the models of this package in one compiled program."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from brushjax.models import BrushNet, BrushNetConfig, UNet, UNetConfig
    from brushjax.nn import Keys
    from tests.support import fill, nhwc, torch_names

    def build(name, kind, config):
        names = torch_names(nnx.eval_shape(lambda: kind(config, rngs=Keys(0))))
        return fill(kind, config, Weights(name, {key: shape for key, (_, shape) in names.items()}))

    unet = build("unet", UNet, UNetConfig.sd15())
    branch = build("branch", BrushNet, BrushNetConfig.sd15())
    sample, timestep, context, condition = draw_inputs(size)
    inputs = nhwc(sample), jnp.asarray(timestep), jnp.asarray(context), nhwc(condition)

    @jax.jit
    def run(unet, branch, sample, timestep, context, condition):
        residuals = branch(sample, timestep, condition)
        out = unet(sample, timestep, context, residuals)
        return [out, *residuals.down, residuals.mid, *residuals.up]

    def forward():
        return jax.block_until_ready(run(unet, branch, *inputs))

    start = time.perf_counter()
    forward()
    first = time.perf_counter() - start
    outputs, seconds = measure(forward, repeats)
    return [np.asarray(x).transpose(0, 3, 1, 2) for x in outputs], seconds | {"first": first}


def run_side(side, folder, size, repeats):
    """Runs one side in this process and leaves its outputs and figures in `folder`."""
    outputs, figures = {"torch": run_torch, "jax": run_jax}[side](size, repeats)
    figures["peak_bytes"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.savez(folder / f"{side}.npz", *outputs)
    (folder / f"{side}.json").write_text(json.dumps(figures))


def compare(size=32, repeats=3):
    """Runs both sides; returns the errors of output and maps, and both sides' figures.

    Raises:
      subprocess.CalledProcessError: if a side fails.
    """
    # The CPU on both sides, and none of the flags that the tests set for faster compilation.
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    env["JAX_PLATFORMS"] = "cpu"
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = ["--latents", str(size), "--repeats", str(repeats), "--folder", name]
        for side in ("torch", "jax"):
            command = [sys.executable, "-m", "benchmarks.full_size", "--side", side, *options]
            subprocess.run(command, cwd=root, env=env, check=True)
        figures = {
            side: json.loads((folder / f"{side}.json").read_text()) for side in ("torch", "jax")
        }
        ours, reference = (np.load(folder / f"{side}.npz") for side in ("jax", "torch"))
        errors = [
            float(np.abs(ours[key] - reference[key]).max() / reference[key].std())
            for key in reference.files
        ]
    return {"output": errors[0], "maps": errors[1:]} | figures


def main():
    """Prints the comparison, or runs one side of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latents", type=int, default=32, help="side of the latents")
    parser.add_argument("--repeats", type=int, default=3, help="timed forward passes")
    parser.add_argument("--side", choices=["torch", "jax"], help="run one side only")
    parser.add_argument("--folder", type=Path, help="where one side leaves its outputs")
    options = parser.parse_args()
    if options.side:
        run_side(options.side, options.folder, options.latents, options.repeats)
        return
    result = compare(options.latents, options.repeats)
    print(f"error of the output, in its standard deviations: {result['output']:.1e}")
    print(f"largest error of the {len(result['maps'])} maps: {max(result['maps']):.1e}")
    for side in ("torch", "jax"):
        row = result[side]
        print(
            f"{side:5s}  forward {row['wall']:.2f} s wall, {row['cpu']:.2f} s CPU; first call "
            f"{row['first']:.1f} s; peak {row['peak_bytes'] / 2**30:.2f} GiB"
        )
    ratio = result["jax"]["cpu"] / result["torch"]["cpu"]
    print(f"ours / PyTorch: {ratio:.2f} in CPU seconds")


if __name__ == "__main__":
    main()
