"""BrushEdit for Stable Diffusion 1.5: one branch for every kind of mask.

    python train.py configs/brushedit_sd15.py --workdir runs/brushedit

Objects, strokes, boxes, widened and half-drawn masks, and holes with nothing but background in
them, which teach removal (BrushEdit, section V-A, "BrushData-v2"; its shares are not published).
"""

from brushjax.data.masks.holes import HoleConfig
from brushjax.data.pipeline import PhotoData
from brushjax.data.sets.brushdata import BrushData
from brushjax.evaluation.benchmarks.held_out import HeldOut
from brushjax.evaluation.branch import BranchEvaluation, Sampling
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="brushedit_sd15",
        objective=BrushNetObjective(base=BASE),
        data=BrushData(path="data/brushdata/train/*.tar", size=512, holes=HoleConfig(), workers=8),
        optimizer=OptimizerConfig(
            learning_rate=1e-5,  # of the reference's commands
            warmup_steps=500,  # the reference asks for it, but its constant schedule ignores it
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        steps=430_000,  # BrushEdit, section V-B
        batch_size=16,  # 2 on each of 8 devices, as the reference's commands
        compute_dtype="bfloat16",
        log_every=50,
        checkpoint_every=1000,
        export_every=10_000,
        validation=BrushData(path="data/brushdata/held_out/*.tar", size=512, pool=64),
        validate_every=1000,
        best="validation/loss",
        nonfinite="skip",
        evaluators=(
            BranchEvaluation(  # the same pictures every time: samples/, PSNR outside the hole
                held_out=HeldOut(8, PhotoData(size=512, split="held_out", seed=1)),
                steering=None,
                sampling=Sampling(steps=20, guidance=7.5),  # the reference validates so
                batch_size=4,  # fits beside the state on a chip of 16 GB
                strips=8,
            ),
        ),
    )
