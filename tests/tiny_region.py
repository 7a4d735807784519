"""The smallest region predictor with its CLIP, of random weights."""

import shutil

import jax

import brushjax
from brushjax.models import CLIPText, CLIPTextConfig, CLIPVision, RegionConfig, ViTConfig
from brushjax.pipelines.bases import SHIPPED_BASE
from brushjax.pipelines.regions import RegionEncoders
from brushjax.training.objectives.contract import placed_in
from brushjax.training.objectives.region_objective import RegionObjective
from tests.inference.conftest import filled

VISION = ViTConfig(32, 64, 2, 2, image_size=32, patch_size=8, projection_dim=24)
TEXT = CLIPTextConfig(
    vocab_size=746,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=32,
    projection_dim=24,
    bos_token_id=744,
    eos_token_id=745,
    architectures=("CLIPTextModelWithProjection",),
)


def export(folder):
    """Fills a folder as training leaves it; both towers and their tokenizer lie in it."""
    brushjax.save(filled(CLIPVision, VISION, 0), folder / "clip_vision")
    brushjax.save(filled(CLIPText, TEXT, 1), folder / "text_encoder")
    shutil.copytree(SHIPPED_BASE / "tokenizer", folder / "tokenizer")
    encoders = RegionEncoders(str(folder), "", "clip_text", 32, -2)
    objective = RegionObjective(encoders, RegionConfig(24, 16, residual=True))
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = placed_in(here, objective.shapes()["region"])
    objective.export(objective.load(jax.random.key(0), {"region": wanted}), folder, {})
    return folder
