"""A region predictor over the tiny CLIP, learnt by eq. 11 from planted regions of the photographs.

    python train.py configs/region/tiny.py --workdir runs/tiny_region

Needs runs/tiny_clip of configs/region/tiny_clip.py. The true regions are measured against, never
learnt from.
"""

from brushjax.data.sets.collages import PlantedRegions
from brushjax.models.region import RegionConfig
from brushjax.pipelines.regions import RegionEncoders
from brushjax.training.objectives.region import RegionLosses
from brushjax.training.objectives.region_masks import MaskPath
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="tiny_region",
        objective=RegionObjective(
            encoders=RegionEncoders(
                clip="runs/tiny_clip/export",
                reader="",  # CLIP's own text encoder
                reader_kind="clip_text",
                instruction_length=32,
            ),
            predictor=RegionConfig(width=96, instruction_width=64, residual=True, smoothing=1),
            losses=RegionLosses(structure=3.0, normalize_before_difference=True),
            path=MaskPath(gradient="concrete"),
            starts_as_clip=True,
        ),
        data=PlantedRegions(pool=4096, jitter=0.1),
        encode_once=True,
        optimizer=OptimizerConfig(
            learning_rate=3e-3,
            warmup_steps=50,
            decay="cosine",
            final_fraction=0.02,
        ),
        steps=1200,
        batch_size=32,
        log_every=50,
        checkpoint_every=400,
        validation=PlantedRegions(pool=512, split="held_out", seed=1),
        validation_batches=16,
    )
