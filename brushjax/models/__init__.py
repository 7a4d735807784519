"""The networks, each in its own file; attribute names are those of the published checkpoints."""

from brushjax.models.brushnet import BrushNet, BrushNetConfig, keep_mask_condition
from brushjax.models.encoders.clip import CLIPText, CLIPTextConfig, CLIPTextOutput
from brushjax.models.encoders.vit import DINO, CLIPVision, PlainViTConfig, ViTConfig, ViTOutput
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
    "ImageReward",
    "ImageRewardConfig",
    "LPIPSConfig",
    "LPIPSOutput",
    "PlainViTConfig",
    "Posterior",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "ViTConfig",
    "ViTOutput",
    "keep_mask_condition",
]
