"""The region predictor at full size: CLIP ViT-L/14, FLAN-T5-base, five million edits in 256s.

    python train.py configs/region/predictor.py --workdir runs/predictor --data.path edits

docs/regions.md says how edits are made. `export/` holds region/ and encoders.json, which
`python -m brushjax edit --method region --region` takes.
"""

from brushjax.data.sets.region_edits import RegionEdits
from brushjax.models.region import RegionConfig
from brushjax.training.objectives.region import RegionLosses
from brushjax.training.objectives.region_objective import RegionObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe; what the paper does not give is our choice."""
    return TrainConfig(
        name="region_predictor",
        objective=RegionObjective(
            predictor=RegionConfig(residual=True),  # the literal form hardly learns by eq. 11
            losses=RegionLosses(normalize_before_difference=True),
        ),
        data=RegionEdits(path=""),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_steps=1000, decay="cosine"),
        steps=19_531,  # one epoch of five million
        batch_size=256,
        compute_dtype="bfloat16",
        log_every=50,
        checkpoint_every=1000,
    )
