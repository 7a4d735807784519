"""Guided steps of SD1.5 with a branch, in PyTorch and here, taking turns in one job.

    python -m benchmarks.edit_full_size                CPU: float32, 64 x 64 latents, 2 steps a
                                                       round; needs 15 GB of memory
    python -m benchmarks.edit_full_size --latents 8 --rounds 1 --steps 1 --tiny --busy
    python -m benchmarks.edit_full_size --device gpu --steps 50 --batch 1      whole edits, bfloat16
    python -m benchmarks.edit_full_size --device gpu --steps 50 --batch 8

PyTorch runs what the reference pipeline runs: branch and UNet, composed from diffusers' classes, on
both halves of guidance. On a CPU both sides have the same weights, inputs and DDIM steps, and the
script checks that the latents agree. On a GPU edits are whole, from the masked picture to the new
one, and PyTorch runs twice: eager, and with torch.compile and channels_last. The sides are
processes that wait for each other: their rounds alternate, on the same cores. Needs the `test`
extra.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.train_step import H200, Side, calibrate

EXACT = {"step": 2000.2e9, "vae": 1116.7e9 + 2514.5e9}  # FLOPs of our edit at 512 px, counted


def alternate(options):
    """Runs the rounds; returns {side: [figures of an edit]}, without the first, which compiles."""
    names = ["torch", "jax"] if options.device == "cpu" else ["torch", "torch_compiled", "jax"]
    names = [name for name in names if options.only in ("", name)]
    sides = [Side(name, options, "benchmarks.edit_sides") for name in names]
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
    """Prints seconds, peaks and ratios; on a GPU also the share of the chip's peak."""
    wall = {name: statistics.median(one["wall"] for one in row) for name, row in rows.items()}
    for name, row in rows.items():
        least = min(one["wall"] for one in row)
        cpu = statistics.median(one["cpu"] for one in row)
        steps, edits = options.steps, options.batch
        print(
            f"{name:14} {wall[name] / steps:.3f} s a step (least {least / steps:.3f}), "
            f"{cpu / steps:.3f} CPU s; {1e3 * wall[name] / edits:.1f} ms an image; "
            f"first {first[name]['wall']:.1f} s; peak {row[-1]['peak'] / 2**30:.2f} GiB"
        )
        if options.device == "gpu" and options.latents == 64:
            work = edits * (steps * EXACT["step"] + EXACT["vae"])
            share = work / wall[name] / (options.peak * 1e12)
            print(f"{'':14} {100 * share:.1f} % of {options.peak:g} TFLOP/s, by our FLOPs")
    for name in rows:
        if name != "jax" and "jax" in rows:
            print(f"throughput, ours / {name}: {wall[name] / wall['jax']:.2f}")


def compare(folder):
    """Prints how far the sides' latents are apart, if both left some.

    Raises:
      SystemExit: if they computed different things.
    """
    latents = {path.stem: np.load(path) for path in Path(folder).glob("*.npy")}
    if len(latents) == 2:
        error = np.abs(latents["jax"] - latents["torch"]).max() / latents["torch"].std()
        print(f"largest difference of the latents, in standard deviations: {error:.1e}")
        if not error < 1e-3:
            raise SystemExit("expected the same latents on both sides: the work differs")


def main():
    """Runs the sides in turns and prints the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--latents", type=int, default=64, help="side of the latents")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2, help="of an edit, one edit a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", choices=["", "torch", "torch_compiled", "jax"], default="")
    parser.add_argument("--peak", type=float, default=H200, help="TFLOP/s to take a share of")
    parser.add_argument("--profile", help="folder for a trace of our last edit")
    parser.add_argument("--tiny", action="store_true", help="narrow models, to try the script")
    parser.add_argument("--busy", action="store_true", help="run although the machine is busy")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    if load > os.cpu_count() / 2 and options.device == "cpu" and not options.busy:
        raise SystemExit(f"expected an idle machine; its load is {load:.1f} (--busy runs anyway)")
    with tempfile.TemporaryDirectory() as folder:
        options.folder = folder
        report(options, *alternate(options))
        compare(folder)


if __name__ == "__main__":
    main()
