"""A BrushNet branch for pictures of your own, at 512 pixels on a Stable Diffusion 1.5 base.

    python train.py configs/own_photos.py --data.path DIR --workdir runs/own

DIR holds pictures with captions (docs/data.md says in which forms). Some are held out: the
validation loss is measured on them, and samples/ shows them, inpainted by the branch of each
export and by the untrained one. To try it on a laptop first, with the tiny base of the package:

    python train.py configs/own_photos.py --data.path DIR --workdir runs/try --objective.base "" \\
        --data.size 128 --compute_dtype float32 --rematerialise nothing --steps 300 \\
        --optimizer.learning_rate 1e-3 --optimizer.warmup_steps 20
"""

from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sets.held_out import HeldOutPart
from brushjax.evaluation.benchmarks.own import OwnHeldOut
from brushjax.evaluation.branch import BranchEvaluation, Sampling
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig

BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="own_photos",
        # A branch to go on from, published or your own, saves most of the steps: objective.branch.
        objective=BrushNetObjective(base=BASE),
        data=BrushData(
            size=512,
            split="train",
            held_out_share=0.1,
            workers=2,
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-5,  # of the reference's commands
            warmup_steps=200,
            weight_decay=0.01,
            clip_norm=1.0,
        ),
        steps=20_000,
        batch_size=8,
        compute_dtype="bfloat16",
        rematerialise="layers",  # 0.3 GB a sample instead of 7: it fits beside the state on 16 GB
        log_every=10,
        checkpoint_every=500,
        export_every=2000,
        validation=HeldOutPart(pool=32),
        validate_every=500,
        best="validation/loss",
        nonfinite="skip",
        evaluators=(
            BranchEvaluation(
                held_out=OwnHeldOut(4),
                steering=None,
                sampling=Sampling(steps=20, guidance=7.5),
                batch_size=4,
                strips=4,
            ),
        ),
    )
