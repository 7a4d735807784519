"""BrushNet for Stable Diffusion 1.5 with object-shaped masks: the published "segmentation" branch.

    python train.py configs/brushnet_sd15_segmentation.py --workdir runs/segmentation

Reads BrushData's tars (docs/running.md says where from); the base is downloaded; a folder
in the place of BASE serves as well. One step is 16 images, whatever the number of devices.
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
# Objects and, half of the time, all but the object.
HOLES = HoleConfig.of_objects()


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="brushnet_sd15_segmentation",
        objective=BrushNetObjective(base=BASE),
        data=BrushData(
            path="data/brushdata/train/*.tar",
            size=512,
            holes=HOLES,
            workers=8,  # a core prepares some 30 pictures of a megapixel a second
        ),
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
        export_every=10_000,  # the reference saves a branch as often
        validation=BrushData(path="data/brushdata/held_out/*.tar", size=512, holes=HOLES, pool=64),
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
