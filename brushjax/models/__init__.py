"""The networks, each in its own file; attribute names are those of the published checkpoints."""

from brushjax.models.brushnet import BrushNet, BrushNetConfig, keep_mask_condition
from brushjax.models.clip import CLIPText, CLIPTextConfig, CLIPTextOutput
from brushjax.models.unet import UNet, UNetConfig
from brushjax.models.vae import AutoencoderKL, Posterior, VAEConfig

__all__ = [
    "AutoencoderKL",
    "BrushNet",
    "BrushNetConfig",
    "CLIPText",
    "CLIPTextConfig",
    "CLIPTextOutput",
    "Posterior",
    "UNet",
    "UNetConfig",
    "VAEConfig",
    "keep_mask_condition",
]
