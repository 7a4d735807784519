"""The tiny base's autoencoder, from the photographs that ship with the package.

    python train.py configs/base_vae.py --workdir runs/base_vae

`export/vae` is then what configs/base_text_to_image.py reads.
"""

from brushjax.data.pipeline import PhotoData
from brushjax.models.vae import VAEConfig
from brushjax.training.objectives.autoencoder import AutoencoderObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="base_vae",
        objective=AutoencoderObjective(
            VAEConfig(
                block_out_channels=(16, 32, 64, 96),  # wide where pixels are few: CPU time
                layers_per_block=1,
                norm_num_groups=8,  # 16 channels can't be cut into the usual 32
            ),
            kl_weight=1e-4,  # 100 times Rombach et al.: a smoother latent, as the tiny UNet is weak
        ),
        # Half the side of what the base paints, at the same magnification: the autoencoder is
        # convolutional, and four times the crops a second teach it more than larger ones.
        data=PhotoData(size=64, sides=(48, 160), jitter=0.1),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=50,
            decay="cosine",
            final_fraction=0.02,
            weight_decay=0.0,
        ),
        steps=2600,
        batch_size=16,
        ema_decay=0.998,
        log_every=20,
        checkpoint_every=200,
    )
