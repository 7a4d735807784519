"""FireEdit's second stage at the smallest width, to compare meshes with and to kill; the folder
that TINY_FIREEDIT names has its parts (tests/tiny_fireedit.py)."""

import os

from brushjax.data.sets.told_edits import ToldEdits
from brushjax.sharding import LANGUAGE_MODEL
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig
from tests import tiny_fireedit


def get_config():
    return TrainConfig(
        name="tiny_edits",
        objective=tiny_fireedit.objective(os.environ["TINY_FIREEDIT"]),
        data=ToldEdits(size=32, pool=32, questions=0.25),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        frozen_rules=LANGUAGE_MODEL,
        steps=20,
        batch_size=8,
        log_every=1,
        checkpoint_every=4,
        keep=10,
    )
