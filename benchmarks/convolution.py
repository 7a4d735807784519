"""A convolution and its two gradients on a CPU: XLA's, ours and PyTorch's, taking turns in one job.

    python -m benchmarks.convolution [--rounds 5] [--latents 32] [--batch 1]

The shapes are those of SD1.5's UNet. Milliseconds of CPU time of one thread, the least of the
rounds; below them what each form would take for all of a UNet's 3 x 3 convolutions of one stride.
Needs the `test` extra.
"""

import argparse
import collections
import os
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from brushjax.models import UNet, UNetConfig
from brushjax.nn.convolution import convolve
from brushjax.nn.layers import Shapes

XLA = jax.lax.conv_general_dilated
FORMS = {"XLA": XLA, "here": convolve}


def shapes(latents):
    """Counts a UNet's 3 x 3 convolutions by (side, channels in, channels out)."""
    found = collections.Counter()

    def note(x, kernel, strides, padding, **options):
        if kernel.shape[:2] == (3, 3) and tuple(strides) == (1, 1):
            found[x.shape[1], *kernel.shape[2:]] += 1
        return XLA(x, kernel, strides, padding, **options)

    def run(x, text):
        unet = UNet(UNetConfig(), rngs=Shapes())
        for _, part in nnx.iter_modules(unet):
            if isinstance(part, nnx.Conv):
                part.conv_general_dilated = note
        return unet(x, jnp.zeros(1), text)

    jax.eval_shape(run, jnp.ones((1, latents, latents, 4)), jnp.ones((1, 77, 768)))
    return found


def least(run, rounds):
    """Returns the least CPU time of a call in milliseconds, the first apart, which compiles."""
    run()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        run()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def ours(form, x, kernel, gradient, rounds):
    """Times a form in JAX: forward, the input's gradient, the kernel's."""
    options = {
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
        "precision": None,
    }

    def apply(x, kernel):
        return form(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)

    runs = (
        jax.jit(apply),
        jax.jit(lambda x, k: jax.vjp(lambda x: apply(x, k), x)[1](gradient)),
        jax.jit(lambda x, k: jax.vjp(lambda k: apply(x, k), k)[1](gradient)),
    )
    return [least(lambda run=run: jax.block_until_ready(run(x, kernel)), rounds) for run in runs]


def theirs(x, kernel, gradient, rounds):
    """Times PyTorch, in its own order of axes."""
    x, gradient = (torch.from_numpy(np.moveaxis(v, 3, 1).copy()) for v in (x, gradient))
    kernel = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
    runs = [lambda: torch.nn.functional.conv2d(x, kernel, padding=1)]
    for mask in ([True, False, False], [False, True, False]):
        runs.append(
            lambda mask=mask: torch.ops.aten.convolution_backward(
                gradient, x, kernel, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
            )
        )
    return [least(run, rounds) for run in runs]


def main():
    """Times every shape and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--latents", type=int, default=32, help="side of the latents")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    total = collections.defaultdict(lambda: np.zeros(3))
    print(f"{'side, in, out':>16}  times  {'forward, input, kernel: ':>24}XLA | here | PyTorch")
    for (side, width_in, width_out), count in sorted(shapes(options.latents).items(), reverse=True):
        x, gradient = (
            random.standard_normal((options.batch, side, side, width), np.float32)
            for width in (width_in, width_out)
        )
        kernel = random.standard_normal((3, 3, width_in, width_out), np.float32)
        rows = {n: ours(f, x, kernel, gradient, options.rounds) for n, f in FORMS.items()}
        rows["PyTorch"] = theirs(x, kernel, gradient, options.rounds)
        for name, row in rows.items():
            total[name] += count * np.array(row)
        cells = " | ".join(" ".join(f"{ms:7.1f}" for ms in row) for row in rows.values())
        print(f"{side:4} {width_in:5} {width_out:5}  {count:5}  {cells}", flush=True)
    for name, row in total.items():
        print(f"all, {name:8}" + " ".join(f"{ms:9.0f}" for ms in row))


if __name__ == "__main__":
    main()
