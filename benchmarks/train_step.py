"""A training step of SD1.5's branch, in PyTorch and here, taking turns in one job.

    python -m benchmarks.train_step                  CPU: float32, 32 x 32 latents, batch 1, forward
                                                     and backward pass; needs 20 GB of memory
    python -m benchmarks.train_step --latents 8 --rounds 1 --tiny --busy      does it run at all?
    python -m benchmarks.train_step --device gpu --batch 16                   whole steps at 512 px
    python -m benchmarks.train_step --device gpu --batch 32 --only jax        for the best batch

On the CPU both sides have the same weights and inputs, and the script checks that loss and
gradient agree. On a GPU both run whole steps: cached latents, CLIP, bfloat16 compute, AdamW on
float32 parameters; PyTorch with torch.compile and its fused attention and optimizer. The sides are
processes that wait for each other: their rounds alternate, on the same cores. Needs the `test`
extra.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("torch", "jax")
H200 = 790.0  # TFLOP/s of large bfloat16 products, measured; published: 989


class Side:
    """A process that runs one step whenever it is asked to."""

    def __init__(self, name, options, module="benchmarks.train_sides"):
        self.name = name
        env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
        env |= {"OMP_NUM_THREADS": str(options.threads), "MKL_NUM_THREADS": str(options.threads)}
        env["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the other side needs memory too
        if options.device == "cpu":
            env["JAX_PLATFORMS"] = "cpu"
        settings = json.dumps(vars(options))
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, name, settings],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self):
        """Runs a step; returns its loss, gradient norm, seconds (wall and CPU) and peak bytes."""
        print("step", file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} side ended early; its error stands above")
        return json.loads(line)

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def calibrate(size=2048):
    """Returns the GFLOP/s of a float32 product of numpy, to see whether the machine drifts."""
    matrix = np.ones((size, size), np.float32)
    start = time.perf_counter()
    matrix @ matrix
    return 2e-9 * size**3 / (time.perf_counter() - start)


def alternate(options):
    """Runs the rounds; returns {side: [figures of a step]}, without the first, which compiles."""
    sides = [Side(name, options) for name in SIDES if options.only in ("", name)]
    first = {side.name: side.ask() for side in sides}
    rows = {side.name: [] for side in sides}
    for turn in range(options.rounds):
        for side in sides:
            rows[side.name].append(side.ask())
        seconds = "  ".join(f"{name} {row[-1]['wall']:.3f} s" for name, row in rows.items())
        print(f"round {turn + 1}: {seconds}  (sgemm {calibrate():.0f} GFLOP/s)", flush=True)
    for side in sides:
        side.close()
    return first, rows


def report(options, first, rows):
    """Prints medians, minima, peaks and, of both sides, the ratio."""
    wall = {}
    for name, steps in rows.items():
        wall[name] = statistics.median(step["wall"] for step in steps)
        least = min(step["wall"] for step in steps)
        cpu = statistics.median(step["cpu"] for step in steps)
        print(
            f"{name:5}  {wall[name]:.3f} s a step (least {least:.3f}), {cpu:.3f} CPU s, "
            f"{options.batch / wall[name]:.2f} images/s; first step {first[name]['wall']:.1f} s; "
            f"peak {steps[-1]['peak'] / 2**30:.2f} GiB"
        )
        if options.device == "gpu":
            work = first["jax"]["useful"] if "jax" in first else 0.0
            share = work / wall[name] / (options.peak * 1e12)
            print(f"       {100 * share:.1f} % of {options.peak:g} TFLOP/s in useful work")
    if len(rows) == 2:
        print(f"throughput, ours / PyTorch: {wall['torch'] / wall['jax']:.2f}")
    if len(rows) == 2 and options.device == "cpu":
        for key in ("loss", "gradient_norm"):
            ours, theirs = (rows[name][-1][key] for name in ("jax", "torch"))
            print(f"{key}: {ours:.6g} and {theirs:.6g}")
            if abs(ours - theirs) > 1e-4 * abs(theirs):
                raise SystemExit(f"expected the same {key} on both sides: the work differs")


def main():
    """Runs both sides in turns and prints the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--latents", type=int, help="side of the latents (cpu: 32, gpu: 64)")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["", *SIDES], default="", help="run one side alone")
    parser.add_argument("--rematerialise", default="nothing", help="of our side, on a GPU")
    parser.add_argument("--peak", type=float, default=H200, help="TFLOP/s to take a share of")
    parser.add_argument("--tiny", action="store_true", help="narrow models, to try the script")
    parser.add_argument("--busy", action="store_true", help="run although the machine is busy")
    options = parser.parse_args()
    options.latents = options.latents or {"cpu": 32, "gpu": 64}[options.device]
    load = os.getloadavg()[0]
    if load > os.cpu_count() / 2 and options.device == "cpu" and not options.busy:
        raise SystemExit(f"expected an idle machine; its load is {load:.1f} (--busy runs anyway)")
    report(options, *alternate(options))


if __name__ == "__main__":
    main()
