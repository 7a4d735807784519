"""From the start of a process to its first picture: cold, with a warm cache, with saved programs.

    python -m benchmarks.edit_start [--size 128] [--width 64] [--repeats 3]

Every start is a process of its own, with a cache in a temporary folder: empty, filled by the one
before, and filled together with saved programs, which also spare tracing. Networks are of SD1.5's
form, at a fifth of its width by default (320 is the full one), with random weights; making the
weights is not counted. Prints seconds and their ratio to the cold start.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def child(options):
    """Makes the first picture and prints the seconds that it took, imports included."""
    started = time.perf_counter()
    import jax
    import numpy as np

    from benchmarks.edit import build
    from benchmarks.edit_sides import SCHEDULER
    from brushjax.diffusion.samplers import make_sampler
    from brushjax.inference.engine.edit import Graphs
    from brushjax.inference.engine.options import Condition, EditInputs
    from brushjax.inference.engine.program import EditProgram
    from brushjax.models import AutoencoderKL, BrushNet, BrushNetConfig, UNet, UNetConfig, VAEConfig

    imported = time.perf_counter() - started
    width = options.width
    body = {"block_out_channels": (width, 2 * width, 4 * width, 4 * width)}
    body |= {"cross_attention_dim": 2 * width, "attention_head_dim": 4}
    vae = VAEConfig(block_out_channels=(width,) * 4)
    kinds = {"unet": (UNet, UNetConfig(**body)), "brushnet": (BrushNet, BrushNetConfig(**body))}
    kinds["vae"] = (AutoencoderKL, vae)
    parts = {name: build(*kind, 0) for name, kind in kinds.items()}
    graphs = Graphs(**{name: graph for name, (graph, _) in parts.items()})
    params = jax.device_put({name: values for name, (_, values) in parts.items()})
    random, size, steps = np.random.default_rng(0), options.size, 2
    text = random.standard_normal((2, 1, 77, 2 * width), np.float32)
    inputs = EditInputs(
        masked=np.zeros((1, size, size, 3), np.uint8),
        masks=np.ones((1, size, size, 1), np.uint8),
        noise=random.standard_normal((1, size // 8, size // 8, 4), np.float32),
        conditions=(Condition(text[1]), Condition(text[0])),
        guidance=np.float32(7.5),
        scales=np.ones(steps, np.float32),
    )
    start = time.perf_counter()
    program = EditProgram(graphs, params, saved=options.saved)
    program(make_sampler("ddim", SCHEDULER, steps), inputs)
    first = time.perf_counter() - start
    start = time.perf_counter()
    program(make_sampler("ddim", SCHEDULER, steps), inputs)
    again = time.perf_counter() - start
    print(json.dumps({"import": imported, "first": first, "again": again}))


def launch(options, cache, saved=None):
    """Runs a child and returns its figures."""
    env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "true"}
    env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-m", "benchmarks.edit_start", "--child"]
    command += ["--size", str(options.size), "--width", str(options.width)]
    command += ["--saved", str(saved)] if saved else []
    done = subprocess.run(command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main():
    """Starts the children and prints the table; or is one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=128, help="side of the picture")
    parser.add_argument("--width", type=int, default=64, help="of the first level")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--saved", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    rows = {"cold": [], "warm cache": [], "saved programs": []}
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            rows["cold"].append(launch(options, folder / "cache"))
            rows["warm cache"].append(launch(options, folder / "cache"))
            launch(options, folder / "unused", folder / "saved")  # fills the folder
            rows["saved programs"].append(launch(options, folder / "unused", folder / "saved"))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    cold = statistics.median(row["first"] for row in rows["cold"])
    for name, figures in rows.items():
        first, again, imported = (
            statistics.median(row[key] for row in figures) for key in ("first", "again", "import")
        )
        print(
            f"{name:15} first picture {first:6.2f} s ({first / cold:.2f} of cold), the second "
            f"{again:.2f} s; imports {imported:.1f} s"
        )


if __name__ == "__main__":
    main()
