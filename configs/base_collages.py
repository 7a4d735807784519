"""The tiny base, taught that a picture may show two things, as a picture with a filled hole does.

    python train.py configs/base_collages.py --workdir runs/base_collages

Goes on from configs/base_text_to_image.py on the latents of configs/base_vae_local.py; `export/`
is the pipeline that ships.
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
        name="base_collages",
        objective=TextToImageObjective(
            unet=UNetConfig(
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
                num_hidden_layers=2,
                num_attention_heads=2,
                projection_dim=TEXT_WIDTH,
            ),
            vae="runs/base_vae_local/export",
            tokenizer_folder="runs/base_text_to_image/export",
            base="runs/base_text_to_image/export",
            caption_dropout=0.1,
            noise=NoiseConfig(prediction_type="v_prediction"),
        ),
        # "A cat in brick": a name of its own, so that "a cat" still stands for a whole picture.
        data=PhotoData(
            size=128, sides=(96, 320), jitter=0.05, collage=0.5, name_surroundings=True, pool=4096
        ),
        encode_once=True,
        optimizer=OptimizerConfig(
            learning_rate=7e-4,
            warmup_steps=100,
            decay="cosine",
            final_fraction=0.02,
            weight_decay=0.0,
        ),
        steps=1200,
        batch_size=16,
        ema_decay=0.995,
        log_every=50,
        checkpoint_every=500,
    )
