"""The tiny base's autoencoder, taught that a hole leaves the latents around it as they are.

    python train.py configs/base_vae_holes.py --workdir runs/base_vae_holes

`export/vae` stands in for that of configs/base_vae.py; latents of whole pictures stay the same.
"""

from brushjax.data.pipeline import PhotoData
from brushjax.training.autoencoder import HoleObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="base_vae_holes",
        objective=HoleObjective(vae="runs/base_vae/export"),
        # Pictures and holes as the branch will meet them: the share of black is what disturbs.
        data=PhotoData(size=128, sides=(96, 320), jitter=0.05, collage=0.25, pool=2048),
        encode_once=True,
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            warmup_steps=50,
            decay="cosine",
            final_fraction=0.02,
            weight_decay=0.0,
        ),
        steps=1000,
        batch_size=8,
        log_every=20,
        checkpoint_every=200,
    )
