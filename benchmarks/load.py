"""Loading a full-size Stable Diffusion 1.5 UNet: time against PyTorch, and peak memory.

    python benchmarks/load.py [FOLDER]     # needs torch, 3.5 GB of disk; keeps its file in FOLDER

Each way of loading runs in a process of its own, in turns, on the same file in the system's cache.
Peak memory is VmHWM, the largest resident size the system saw, Python and all libraries included.
A ratio is the median over rounds of neighbours in time; CPU seconds are those of all threads.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROUNDS = 5
STEM = "diffusion_pytorch_model.safetensors"


def write_random(folder: Path) -> Path:
    """Writes the weights once, without holding more than one tensor."""
    from brushjax.models import UNetConfig
    from brushjax.weights.loading import abstract_model
    from brushjax.weights.rules import checkpoint_axes, checkpoint_name
    from brushjax.weights.store import Tensor, write_safetensors

    class Random(Tensor):
        def __init__(self, shape: tuple[int, ...]):
            self.shape, self.dtype = shape, np.dtype(np.float32)

        def fill(self, out: np.ndarray) -> None:
            out[...] = np.random.default_rng(0).random(self.shape, np.float32)

    config = UNetConfig.sd15().to_dict()
    _, structs = abstract_model("unet", config)
    tensors: dict[str, Tensor] = {}
    for path, struct in structs.items():
        axes = checkpoint_axes(path, len(struct.shape))
        tensors[checkpoint_name(path)] = Random(tuple(struct.shape[axis] for axis in axes))
    write_safetensors(folder / STEM, tensors, None, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder / STEM


@contextlib.contextmanager
def clock() -> Iterator[dict[str, float]]:
    """Times a block: wall-clock and CPU seconds."""
    times: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield times
    times |= {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def with_brushjax(folder: str) -> dict[str, float]:
    """Loads the model into JAX arrays."""
    import jax
    from flax import nnx

    import brushjax.models
    import brushjax.weights

    jax.devices()
    with clock() as times:  # with building the model, without imports
        model = brushjax.weights.load("unet", folder)
        jax.block_until_ready(jax.tree.leaves(nnx.state(model)))
    return times


def with_torch(folder: str) -> dict[str, float]:
    """Loads the tensors with safetensors into memory of their own, as a model holds them."""
    from safetensors.torch import load_file

    with clock() as times:
        tensors = {name: value.clone() for name, value in load_file(f"{folder}/{STEM}").items()}
    assert tensors
    return times


WAYS = {"brushjax": with_brushjax, "safetensors+torch": with_torch}


def main() -> None:
    """Runs all ways in turns and prints the ratios."""
    if len(sys.argv) == 3 and sys.argv[1] in WAYS:
        times = WAYS[sys.argv[1]](sys.argv[2])
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        print(json.dumps({**times, "peak": peak}))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / STEM
        if not file.exists():
            write_random(folder)
        size = file.stat().st_size
        print(f"file: {size / 1e9:.3f} GB float32")
        results: dict[str, list[dict]] = {way: [] for way in WAYS}
        for _ in range(ROUNDS):
            for way, rows in results.items():
                command = [sys.executable, __file__, way, str(folder)]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                rows.append(json.loads(output.splitlines()[-1]))
        reference = results["safetensors+torch"]
        for way, rows in results.items():
            print(f"{way}:")
            for key, unit in (("wall", "s"), ("cpu", "CPU s")):
                ratio = statistics.median(row[key] / r[key] for row, r in zip(rows, reference))
                best = min(row[key] for row in rows)
                print(f"  {best:6.2f} {unit:5} best, median ratio {ratio:.2f} x safetensors+torch")
            peak = max(row["peak"] for row in rows)
            print(f"  {peak / 1e9:6.2f} GB peak = {peak / size:.3f} x the file")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
