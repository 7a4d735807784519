"""Loading a full-size Stable Diffusion 1.5 UNet: time against PyTorch on the same file, and peak memory.

    python benchmarks/load.py [FOLDER]     # needs torch and 3.5 GB of disk; keeps its file in FOLDER

Each way of loading runs in a process of its own, in turns, with the file in the system's cache. Peak
memory is VmHWM, the largest resident size the system saw, with Python and all libraries in it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROUNDS = 3
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
            out[...] = np.random.default_rng(0).standard_normal(self.shape, np.float32)

    config = UNetConfig.sd15().to_dict()
    _, structs = abstract_model("unet", config)
    tensors: dict[str, Tensor] = {}
    for path, struct in structs.items():
        axes = checkpoint_axes(path, len(struct.shape))
        tensors[checkpoint_name(path)] = Random(tuple(struct.shape[axis] for axis in axes))
    write_safetensors(folder / STEM, tensors, None, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder / STEM


def with_brushjax(folder: str) -> float:
    """Loads the model into JAX arrays."""
    import jax

    import brushjax

    jax.devices()
    start = time.perf_counter()
    jax.block_until_ready(brushjax.load("unet", folder))
    return time.perf_counter() - start


def with_torch(folder: str) -> float:
    """Loads the tensors with safetensors into memory of their own, as a model holds them."""
    from safetensors.torch import load_file

    start = time.perf_counter()
    tensors = {name: value.clone() for name, value in load_file(f"{folder}/{STEM}").items()}
    assert tensors
    return time.perf_counter() - start


def with_diffusers(folder: str) -> float:
    """Loads the model with diffusers' from_pretrained."""
    from diffusers import UNet2DConditionModel

    start = time.perf_counter()
    model = UNet2DConditionModel.from_pretrained(folder)
    sum(
        float(value.sum()) for value in model.parameters()
    )  # from the disk to memory, by touching it
    return time.perf_counter() - start


WAYS = {
    "brushjax": with_brushjax,
    "safetensors+torch": with_torch,
    "diffusers": with_diffusers,
}


def main() -> None:
    """Runs all ways in turns and prints the ratios."""
    if len(sys.argv) == 3 and sys.argv[1] in WAYS:
        seconds = WAYS[sys.argv[1]](sys.argv[2])
        status = Path("/proc/self/status").read_text()
        peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
        print(json.dumps({"seconds": seconds, "peak": peak}))
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
        reference = min(row["seconds"] for row in results["safetensors+torch"])
        for way, rows in results.items():
            seconds = min(row["seconds"] for row in rows)
            peak = max(row["peak"] for row in rows)
            print(
                f"{way:18} {seconds:6.2f} s (best of {ROUNDS}) = {seconds / reference:.2f} x torch's;"
                f" peak {peak / 1e9:.2f} GB = {peak / size:.3f} x the file"
            )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
