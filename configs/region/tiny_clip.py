"""A tiny CLIP of the shipped photographs, at 64 pixels, whose patches a region predictor reads.

    python train.py configs/region/tiny_clip.py --workdir runs/tiny_clip

A quarter of an hour on one core; `export/` holds both towers and their tokenizer.
"""

from brushjax.data.sets.collages import CaptionedCollages
from brushjax.models.encoders.clip import CLIPTextConfig
from brushjax.models.encoders.vit import ViTConfig
from brushjax.training.objectives.brushnet import SHIPPED_BASE
from brushjax.training.objectives.contrastive import ContrastiveObjective
from brushjax.training.optimizers import OptimizerConfig
from brushjax.training.recipe import TrainConfig


def get_config() -> TrainConfig:
    """Returns the recipe."""
    return TrainConfig(
        name="tiny_clip",
        objective=ContrastiveObjective(
            vision=ViTConfig(
                hidden_size=96,
                intermediate_size=192,
                num_hidden_layers=3,
                num_attention_heads=2,  # four of 24 each take 1.5 times as long on a CPU
                image_size=64,
                patch_size=8,
                projection_dim=96,
            ),
            text=CLIPTextConfig(
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=32,
                projection_dim=96,
                architectures=("CLIPTextModelWithProjection",),
            ),
            tokenizer_folder=str(SHIPPED_BASE),
            patches=1.0,
        ),
        data=CaptionedCollages(pool=32_768, jitter=0.1),
        optimizer=OptimizerConfig(
            learning_rate=2e-3,
            warmup_steps=40,
            decay="cosine",
            final_fraction=0.02,
            weight_decay=0.05,
        ),
        steps=1600,
        batch_size=64,
        ema_decay=0.99,
        log_every=50,
        checkpoint_every=400,
    )
