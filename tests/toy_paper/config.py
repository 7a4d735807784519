"""The toy paper's recipe: `python train.py tests/toy_paper/config.py --workdir DIR`."""

from brushjax.data.pipeline import PhotoData
from brushjax.evaluation.benchmarks.held_out import HeldOut
from brushjax.evaluation.methods.baselines import Copy
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Sweep
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig
from tests.toy_paper.method import Toy
from tests.toy_paper.objective import ToyObjective

SIZE = 32


def get_config() -> TrainConfig:
    """Returns the recipe."""
    held_out = PhotoData(size=SIZE, sides=(64, 128), split="held_out", seed=1)
    return TrainConfig(
        name="toy",
        objective=ToyObjective(),
        data=PhotoData(size=SIZE, sides=(64, 128), pool=32),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        steps=40,
        batch_size=8,
        log_every=10,
        evaluators=(
            Sweep(
                benchmarks=(HeldOut(4, held_out),),
                methods=(Toy(), Copy()),
                profiles=("clean",),
                batch_size=8,
                shown=Shown(2, 1),
            ),
        ),
    )
