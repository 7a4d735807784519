"""The rows of docs/pod_sizes.md: the step on cached latents, compiled for absent slices.

    python -m benchmarks.pod_sizes v5e-256 --per-chip 8
    python -m benchmarks.pod_sizes v5e-8 --per-chip 4 --replicated
    python -m benchmarks.pod_sizes v5p-128 --per-chip 8 --sdxl

Minutes of two cores and 5 to 8 GB of memory each. Needs the extra `tpu`.
"""

import argparse
import dataclasses
import os

import numpy as np

BASES = {
    "sd15": ("stable-diffusion-v1-5/stable-diffusion-v1-5", 512),
    "sdxl": ("stabilityai/stable-diffusion-xl-base-1.0", 1024),
}


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Data of which only the shapes count."""

    size: int = 512
    pool: int = 1

    def shapes(self):
        """Returns a sample of zeros."""
        image = np.zeros((self.size, self.size, 3), np.uint8)
        ids = np.zeros(77, np.int32)
        return {"image": image, "mask": image[..., :1], "token_ids": ids, "id": np.int32(0)}


def recipe(base, size, batch, **changes):
    """Returns the recipe of a branch on cached latents, in bfloat16."""
    from brushjax.training.objectives.brushnet import BrushNetObjective
    from brushjax.training.optimizers import OptimizerConfig
    from brushjax.training.recipe import TrainConfig

    return TrainConfig(
        name="sizes",
        objective=BrushNetObjective(base=base),
        data=Shapes(size),
        optimizer=OptimizerConfig(learning_rate=1e-5),
        steps=1000,
        batch_size=batch,
        encode_once=True,
        compute_dtype="bfloat16",
        **changes,
    )


def main():
    """Compiles one row and prints what is known of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("slice", help="as it is rented: v5e-256, v6e-8, v5p-128 ...")
    parser.add_argument("--per-chip", type=int, default=8, help="samples")
    parser.add_argument("--sdxl", action="store_true", help="SDXL at 1024 pixels, not SD1.5 at 512")
    parser.add_argument("--replicated", action="store_true", help="the state whole on every chip")
    parser.add_argument("--cut-frozen", type=int, default=1, help="chips that share frozen weights")
    parser.add_argument("--rematerialise", default="nothing")
    parser.add_argument("--text", help="file that gets the compiled program's text")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs

    from brushjax.sharding import MeshShape
    from brushjax.training.recipe import FULLY_SHARDED
    from brushjax.training.scale import ahead, ahead_report

    chips = len(ahead.slice_devices(options.slice))
    changes = {"rematerialise": options.rematerialise}
    if options.replicated:
        changes["optimizer_rules"] = ()
    if options.cut_frozen > 1:
        changes |= {"mesh": MeshShape(fsdp=options.cut_frozen), "frozen_rules": FULLY_SHARDED}
    base, size = BASES["sdxl" if options.sdxl else "sd15"]
    config = recipe(base, size, options.per_chip * chips, **changes)
    program = ahead.compile_for(config, options.slice)
    print(ahead_report.describe(program))
    if options.text:
        with open(options.text, "w") as file:
            file.write(program.text)


if __name__ == "__main__":
    main()
