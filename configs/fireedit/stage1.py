"""FireEdit's first stage: the [IMG] tokens learn to say what a caption says, without pictures.

    python train.py configs/fireedit/stage1.py --workdir runs/fireedit/stage1

Reads captions, one a line, or CC12M's lines of address and caption. FireEdit says nothing of such a
stage; the numbers are those of SmartEdit (arXiv 2312.06739), whose code it builds on.
"""

from brushjax.data.sets.captions import Captions
from brushjax.sharding import LANGUAGE_MODEL, MeshShape
from brushjax.training.objectives.alignment import AlignmentObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="fireedit_stage1",
        # TATI too: else the UNet meets noise when stage 2 begins.
        objective=AlignmentObjective(resampler=True),
        data=Captions(path="data/cc12m/*.tsv"),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,  # SmartEdit, stage 1
            warmup_steps=6000,  # SmartEdit: 4 % of the steps; constant after it, as its runs were
            weight_decay=0.0,  # SmartEdit
            clip_norm=1.0,  # of transformers' trainer, which SmartEdit uses
        ),
        steps=150_000,  # SmartEdit
        batch_size=128,  # SmartEdit: 16 on each of 8 GPUs
        compute_dtype="bfloat16",
        rematerialise="layers",
        mesh=MeshShape(data=-1, fsdp=1, tensor=1),  # of 16 GB a device: tensor=4
        frozen_rules=LANGUAGE_MODEL,
        log_every=50,
        checkpoint_every=2000,
        nonfinite="skip",
    )
