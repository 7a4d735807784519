"""BrushNet for Stable Diffusion XL at 1024 pixels, with every kind of mask.

    python train.py configs/brushnet_sdxl.py --workdir runs/sdxl

The branch sees the sizes and crops that SDXL is conditioned on; its state is cut over the devices
and layers are computed again in the backward pass, so that a sample fits beside the frozen UNet.
"""

from brushjax.data.masks.holes import HoleConfig
from brushjax.data.sets.brushdata import BrushData
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="brushnet_sdxl",
        objective=BrushNetObjective(base="stabilityai/stable-diffusion-xl-base-1.0"),
        data=BrushData(path="data/brushdata/train/*.tar", size=1024, holes=HoleConfig(), workers=8),
        optimizer=OptimizerConfig(
            learning_rate=1e-5,  # of the reference's commands
            warmup_steps=500,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        steps=430_000,
        batch_size=32,  # 1 on each of 8 devices, accumulated 4 times (the reference's command)
        compute_dtype="bfloat16",  # its autoencoder overflows in float16, not in bfloat16
        rematerialise="layers",
        log_every=50,
        checkpoint_every=1000,
        export_every=10_000,
        validation=BrushData(path="data/brushdata/held_out/*.tar", size=1024, pool=64),
        validate_every=1000,
        validation_batches=2,
        best="validation/loss",
        nonfinite="skip",
    )
