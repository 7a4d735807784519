"""Does the quickstart's branch beat the untrained one, and does the prompt steer?

python evaluate.py configs/eval/quickstart.py --out runs/eval --weights runs/quickstart/export

Without --weights it is the branch that the package ships.
"""

from brushjax.data.pipeline import PhotoData
from brushjax.evaluation.benchmarks.held_out import HeldOut, Steering
from brushjax.evaluation.branch import BranchEvaluation, Sampling


def get_config() -> BranchEvaluation:
    """Returns the evaluation."""
    return BranchEvaluation(
        held_out=HeldOut(
            count=64,  # intervals of about a tenth of the mean
            data=PhotoData(size=128, split="held_out", seed=1),
        ),
        steering=Steering(
            count=64,
            # Real held-out crops of these eight are told apart without an error, also after the
            # tiny autoencoder (which turns gravel into brick); chance is 1 in 8.
            classes=(
                "galaxies",
                "flower",
                "sky",
                "foliage",
                "retina",
                "wood",
                "brick",
                "temple",
            ),
            hole=64,  # a quarter of the picture: three quarters still speak for the true class
        ),
        sampling=Sampling(
            steps=20,  # UniPC's; the papers' 50 would take 2.5 times as long
            guidance=4.0,  # the papers' 7.5 bleaches the colours of a model this small
        ),
        seeds=(0, 1),
        baselines=True,
        batch_size=16,
    )
