"""A BrushNet branch for the tiny base that ships with the package: minutes on a laptop.

    python train.py configs/quickstart.py --workdir runs/quickstart

Ends with samples/fill.png (image | mask | results | truth), samples/table.md and export/brushnet.
"""

from brushjax.data.pipeline import PhotoData
from brushjax.evaluation.benchmarks.held_out import HeldOut
from brushjax.evaluation.branch import BranchEvaluation, Sampling
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="quickstart",
        objective=BrushNetObjective(
            edge_gain=4.0,  # in a run this short seams go last
        ),
        # Nearly all samples are collages: only there does the caption say what the rest doesn't.
        data=PhotoData(size=128, sides=(96, 320), collage=0.9, pool=2048),
        encode_once=True,
        optimizer=OptimizerConfig(
            learning_rate=2e-3,  # 200 times the released branch, for a small model; 4e-3 diverges
            warmup_steps=50,
            decay="cosine",
            final_fraction=0.05,
        ),
        steps=1500,
        batch_size=8,
        log_every=10,
        checkpoint_every=100,
        evaluators=(
            BranchEvaluation(
                held_out=HeldOut(8, PhotoData(size=128, split="held_out", seed=1)),
                steering=None,  # configs/eval/quickstart.py measures it
                sampling=Sampling(steps=20, guidance=4.0),  # 7.5 bleaches a model this small
                batch_size=8,
                strips=8,
            ),
        ),
    )
