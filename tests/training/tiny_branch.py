"""A branch of the shipped base on small pictures: the recipe of the comparisons between meshes."""

from brushjax.data.pipeline import PhotoData
from brushjax.training.brushnet import BrushNetObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config():
    return TrainConfig(
        name="tiny_branch",
        objective=BrushNetObjective(),
        data=PhotoData(size=32, sides=(96, 320), pool=16),
        encode_once=True,
        optimizer=OptimizerConfig(learning_rate=1e-5),  # the reference's
        steps=30,
        batch_size=8,
        log_every=1,
        checkpoint_every=10,
        keep=10,
    )
