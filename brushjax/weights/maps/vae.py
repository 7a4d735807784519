"""Names and shapes of the autoencoder: diffusers', older ones, and the original code's ("ldm")."""

from __future__ import annotations

from typing import Any

from brushjax.weights.maps.unet import count
from brushjax.weights.rules import (
    Alias,
    Dialect,
    Ignored,
    Leaf,
    Module,
    Shapes,
    WeightMap,
    WeightsError,
)

LDM_ROOT = "first_stage_model."

RESNET = (
    Leaf("norm1.", "norm1."),
    Leaf("conv1.", "conv1."),
    Leaf("norm2.", "norm2."),
    Leaf("conv2.", "conv2."),
    Leaf("conv_shortcut.", "nin_shortcut."),
)
ATTENTION = (
    Leaf("group_norm.", "norm."),
    Leaf("to_q.", "q.", "conv1x1"),
    Leaf("to_k.", "k.", "conv1x1"),
    Leaf("to_v.", "v.", "conv1x1"),
    Leaf("to_out.0.", "proj_out.", "conv1x1"),
)


def ldm_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of the original code's names, which number decoder levels from the image."""
    levels = len(config["block_out_channels"])
    layers = config.get("layers_per_block", 1)
    modules = [Module("quant_conv.", "quant_conv."), Module("post_quant_conv.", "post_quant_conv.")]
    for part in ("encoder", "decoder"):
        modules += [
            Module(f"{part}.conv_in.", f"{part}.conv_in."),
            Module(f"{part}.mid_block.resnets.0.", f"{part}.mid.block_1.", RESNET),
            Module(f"{part}.mid_block.attentions.0.", f"{part}.mid.attn_1.", ATTENTION),
            Module(f"{part}.mid_block.resnets.1.", f"{part}.mid.block_2.", RESNET),
            Module(f"{part}.conv_norm_out.", f"{part}.norm_out."),
            Module(f"{part}.conv_out.", f"{part}.conv_out."),
        ]
    for i in range(levels):
        down, up = f"encoder.down.{i}", f"decoder.up.{levels - 1 - i}"
        for j in range(layers):
            modules.append(
                Module(f"encoder.down_blocks.{i}.resnets.{j}.", f"{down}.block.{j}.", RESNET)
            )
        for j in range(layers + 1):
            modules.append(
                Module(f"decoder.up_blocks.{i}.resnets.{j}.", f"{up}.block.{j}.", RESNET)
            )
        modules.append(
            Module(f"encoder.down_blocks.{i}.downsamplers.0.conv.", f"{down}.downsample.conv.")
        )
        modules.append(Module(f"decoder.up_blocks.{i}.upsamplers.0.conv.", f"{up}.upsample.conv."))
    return tuple(modules)


def _config(shapes: Shapes, blocks: str, layers: str) -> dict[str, Any]:
    levels = count(shapes, blocks)
    channels = [shapes[f"{blocks}{i}.{layers}0.conv1.weight"][0] for i in range(levels)]
    if any(width % 32 for width in channels):
        raise WeightsError(
            f"the config cannot be told from the shapes: levels of {channels} channels do not "
            f"split into the usual 32 norm groups. Pass config= (--config) with the model's "
            f"config.json."
        )
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "block_out_channels": channels,
        "layers_per_block": count(shapes, f"{blocks}0.{layers}"),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "sample_size": 512,
    }


def infer_ldm(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from a file in the original code's names."""
    return _config(shapes, "encoder.down.", "block.")


def infer_diffusers(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from a file in the published names."""
    return _config(shapes, "encoder.down_blocks.", "resnets.")


LDM = Dialect("ldm", LDM_ROOT, "encoder.down.0.block.0.conv1.weight", infer_ldm, ldm_modules)

VAE = WeightMap(
    kind="vae",
    folder="vae",
    stem="diffusion_pytorch_model",
    classes=("AutoencoderKL",),
    model=("brushjax.models.vae", "AutoencoderKL", "VAEConfig"),
    dialects=(
        Dialect("diffusers", "", "encoder.down_blocks.0.resnets.0.conv1.weight", infer_diffusers),
        LDM,
        Dialect("ldm", "", "encoder.down.0.block.0.conv1.weight", infer_ldm, ldm_modules),
    ),
    ldm_dialect=lambda config, kinds: LDM,
    aliases=(
        Alias(r"(mid_block\.attentions\.\d+)\.query\.", r"\1.to_q."),
        Alias(r"(mid_block\.attentions\.\d+)\.key\.", r"\1.to_k."),
        Alias(r"(mid_block\.attentions\.\d+)\.value\.", r"\1.to_v."),
        Alias(r"(mid_block\.attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    ),
    ignored=(
        Ignored(
            r"^(first_stage_model\.)?loss\.",
            "the discriminator and perceptual loss of the VAE's own training",
        ),
        Ignored(
            r"^model_ema\.",
            "the training run's moving average; the weights that were published are used",
        ),
    ),
    flat=r"mid_block\.attentions\.\d+\.to_(q|k|v|out\.0)\.weight$",
)
