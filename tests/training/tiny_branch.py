"""A branch on small pictures, to compare meshes with; the tests give it a base that is tiny."""

from brushjax.data.pipeline import PhotoData
from brushjax.training.objectives.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config():
    return TrainConfig(
        name="tiny_branch",
        objective=BrushNetObjective(),
        data=PhotoData(size=32, sides=(32, 64), pool=16),
        encode_once=True,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        steps=30,
        batch_size=8,
        log_every=1,
        checkpoint_every=10,
        keep=10,
    )
