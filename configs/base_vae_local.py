"""The tiny base's autoencoder, taught that the latents of a place don't depend on other places.

    python train.py configs/base_vae_local.py --workdir runs/base_vae_local

`export/vae` stands in for that of configs/base_vae.py; latents of whole pictures are held to what
they were.
"""

from brushjax.data.pipeline import PhotoData
from brushjax.training.objectives.autoencoder import LocalityObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="base_vae_local",
        objective=LocalityObjective(vae="runs/base_vae/export"),
        # The magnification at which the base paints, in a smaller frame: more pictures a second.
        data=PhotoData(size=96, sides=(72, 240), jitter=0.05, pool=4096),
        encode_once=True,
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=50,
            decay="cosine",
            final_fraction=0.02,
            weight_decay=0.0,
        ),
        steps=1800,
        batch_size=8,
        log_every=20,
        checkpoint_every=200,
    )
