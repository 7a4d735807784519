"""The networks, each in its own file; attribute names are those of the published checkpoints."""

from brushjax.models.brushnet import BrushNet, BrushNetConfig, keep_mask_condition
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig, CLIPTextOutput
from brushjax.models.encoders.llama import Llama, LlamaConfig
from brushjax.models.encoders.t5 import T5Config, T5Encoder
from brushjax.models.encoders.vit import (
    DINO,
    CLIPVision,
    ImageEmbeds,
    PlainViTConfig,
    ViTConfig,
    ViTOutput,
)
from brushjax.models.placement import Placement
from brushjax.models.region import RegionConfig, RegionPredictor, Regions, Threshold
from brushjax.models.scoring.image_reward import (
    AestheticConfig,
    AestheticHead,
    ImageReward,
    ImageRewardConfig,
)
from brushjax.models.scoring.lpips import LPIPS, LPIPSConfig, LPIPSOutput
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, Posterior, VAEConfig

__all__ = [
    "DINO",
    "LPIPS",
    "AestheticConfig",
    "AestheticHead",
    "AutoencoderKL",
    "BrushNet",
    "BrushNetConfig",
    "CLIPText",
    "CLIPTextConfig",
    "CLIPTextOutput",
    "CLIPVision",
    "ImageEmbeds",
    "ImageReward",
    "ImageRewardConfig",
    "LPIPSConfig",
    "LPIPSOutput",
    "Llama",
    "LlamaConfig",
    "Placement",
    "PlainViTConfig",
    "Posterior",
    "RegionConfig",
    "RegionPredictor",
    "Regions",
    "T5Config",
    "T5Encoder",
    "Threshold",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "ViTConfig",
    "ViTOutput",
    "keep_mask_condition",
]
