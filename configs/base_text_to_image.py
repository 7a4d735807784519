"""The tiny base's text encoder and UNet, from the photographs that ship with the package.

    python -m brushjax tokenizer --out runs/base_tokenizer
    python train.py configs/base_vae.py --workdir runs/base_vae
    python train.py configs/base_text_to_image.py --workdir runs/base_text_to_image

`export/` is then a whole pipeline in diffusers layout.
"""

from brushjax.data.pipeline import PhotoData
from brushjax.models.encoders.clip import CLIPTextConfig
from brushjax.models.unet import UNetConfig
from brushjax.training.objectives.denoising import NoiseConfig
from brushjax.training.objectives.text_to_image import TextToImageObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig

TEXT_WIDTH = 64


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="base_text_to_image",
        objective=TextToImageObjective(
            unet=UNetConfig(
                # Latents of 16, 8 and 4 cells a side; 3.8 M parameters, so that the base stays
                # below 12 MB as float16.
                block_out_channels=(48, 96, 112),
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=TEXT_WIDTH,
                attention_head_dim=4,
                norm_num_groups=16,
            ),
            text_encoder=CLIPTextConfig(
                hidden_size=TEXT_WIDTH,
                intermediate_size=2 * TEXT_WIDTH,
                num_hidden_layers=2,  # captions of a few words
                num_attention_heads=2,
                projection_dim=TEXT_WIDTH,
            ),
            vae="runs/base_vae/export",
            tokenizer_folder="runs/base_tokenizer",
            caption_dropout=0.1,
            # Velocity, as Stable Diffusion 2: where noise prevails its loss still sees the
            # picture, so that a short run learns which colours belong to a caption.
            noise=NoiseConfig(prediction_type="v_prediction"),
        ),
        # A pool is encoded once: the steps then never run the autoencoder.
        data=PhotoData(size=128, sides=(96, 320), jitter=0.05, pool=4096),
        encode_once=True,
        optimizer=OptimizerConfig(
            learning_rate=1.5e-3,
            warmup_steps=100,
            decay="cosine",
            final_fraction=0.02,
            weight_decay=0.0,
        ),
        steps=5000,
        batch_size=16,
        ema_decay=0.999,
        log_every=50,
        checkpoint_every=500,
    )
