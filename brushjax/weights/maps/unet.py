"""Names and shapes of the UNet: diffusers', and the original Stable Diffusion code's ("ldm")."""

from __future__ import annotations

from typing import Any

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

LDM_ROOT = "model.diffusion_model."

RESNET = (
    Leaf("norm1.", "in_layers.0."),
    Leaf("conv1.", "in_layers.2."),
    Leaf("time_emb_proj.", "emb_layers.1."),
    Leaf("norm2.", "out_layers.0."),
    Leaf("conv2.", "out_layers.3."),
    Leaf("conv_shortcut.", "skip_connection."),
)


def ldm_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of the original code's names, which number blocks through all levels."""
    down, up = config["down_block_types"], config["up_block_types"]
    layers = config.get("layers_per_block", 2)
    modules = [
        Module("time_embedding.linear_1.", "time_embed.0."),
        Module("time_embedding.linear_2.", "time_embed.2."),
        Module("add_embedding.linear_1.", "label_emb.0.0."),
        Module("add_embedding.linear_2.", "label_emb.0.2."),
        Module("conv_in.", "input_blocks.0.0."),
        Module("mid_block.resnets.0.", "middle_block.0.", RESNET),
        Module("mid_block.attentions.0.", "middle_block.1."),
        Module("mid_block.resnets.1.", "middle_block.2.", RESNET),
        Module("conv_norm_out.", "out.0."),
        Module("conv_out.", "out.2."),
    ]
    number = 1  # input block 0 is conv_in
    for i, kind in enumerate(down):
        for j in range(layers):
            modules += _layer(f"down_blocks.{i}", j, f"input_blocks.{number}", kind)
            number += 1
        if i < len(down) - 1:
            modules.append(
                Module(f"down_blocks.{i}.downsamplers.0.conv.", f"input_blocks.{number}.0.op.")
            )
            number += 1
    number = 0
    for i, kind in enumerate(up):
        for j in range(layers + 1):
            modules += _layer(f"up_blocks.{i}", j, f"output_blocks.{number}", kind)
            number += 1
        if i < len(up) - 1:  # the upsampler is the last member of the level's last block
            place = 2 if _has_attention(kind) else 1
            modules.append(
                Module(
                    f"up_blocks.{i}.upsamplers.0.conv.", f"output_blocks.{number - 1}.{place}.conv."
                )
            )
    return tuple(modules)


def _layer(block: str, j: int, theirs: str, kind: str) -> list[Module]:
    resnet = Module(f"{block}.resnets.{j}.", f"{theirs}.0.", RESNET)
    attention = Module(f"{block}.attentions.{j}.", f"{theirs}.1.")
    return [resnet, attention] if _has_attention(kind) else [resnet]


def _has_attention(kind: str) -> bool:
    return kind.startswith("CrossAttn")


# --- config from shapes
# --------------------------------------------------------------------------------

Level = tuple[int, int, int]  # (channels, number of resnets, transformer layers in each)


def ldm_levels(shapes: Shapes) -> list[Level]:
    """Reads the levels off the original code's names."""
    levels: list[Level] = [(0, 0, 0)]
    number = 1
    while True:
        block = f"input_blocks.{number}."
        if f"{block}0.op.weight" in shapes:
            levels.append((0, 0, 0))
        elif f"{block}0.in_layers.2.weight" in shapes:
            channels = shapes[f"{block}0.in_layers.2.weight"][0]
            levels[-1] = (
                channels,
                levels[-1][1] + 1,
                count(shapes, f"{block}1.transformer_blocks."),
            )
        else:
            return levels
        number += 1


def diffusers_levels(shapes: Shapes) -> list[Level]:
    """Reads the levels off the published names."""
    levels = []
    for i in range(count(shapes, "down_blocks.")):
        block = f"down_blocks.{i}."
        channels = shapes[f"{block}resnets.0.conv1.weight"][0]
        depth = count(shapes, f"{block}attentions.0.transformer_blocks.")
        levels.append((channels, count(shapes, f"{block}resnets."), depth))
    return levels


def count(shapes: Shapes, prefix: str) -> int:
    """Counts the different numbers that follow a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def config_of_levels(levels: list[Level]) -> dict[str, Any]:
    """Returns the settings that the levels decide. The original code always uses 32 norm groups."""
    channels = [level[0] for level in levels]
    if any(width % 32 for width in channels) or len({level[1] for level in levels}) > 1:
        raise WeightsError(
            f"the config cannot be told from the shapes: levels of (channels, resnets, transformer "
            f"layers) {levels} "
            f"are none of Stable Diffusion 1, 2 or XL. Pass config= (--config) with the model's "
            f"config.json."
        )
    return {
        "block_out_channels": channels,
        "layers_per_block": levels[0][1],
        "norm_num_groups": 32,
        "down_block_types": [
            "CrossAttnDownBlock2D" if level[2] else "DownBlock2D" for level in levels
        ],
        "up_block_types": [
            "CrossAttnUpBlock2D" if level[2] else "UpBlock2D" for level in reversed(levels)
        ],
    }


def _attention_config(shapes: Shapes, levels: list[Level]) -> dict[str, Any]:
    """Tells the attention settings. Head counts are in no shape: they follow Stability's two
    conventions.

    Version 1 has 8 heads everywhere and 1x1 convolutions around its transformers; version 2 and XL
    have linear layers there and heads of width 64.
    """
    context = next(shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight"))
    linear = (
        len(next(shape for name, shape in shapes.items() if name.endswith(".proj_in.weight"))) == 2
    )
    depths = [level[2] or 1 for level in levels]
    heads = [level[0] // 64 for level in levels] if linear else 8
    if isinstance(heads, list) and 0 in heads:
        raise WeightsError(
            "the number of heads cannot be told from the shapes. Pass config= (--config)."
        )
    second = [s[1] for name, s in shapes.items() if name.endswith("attn2.to_k_ip.weight")]
    return {
        **({"visual_cross_attention_dim": second[0]} if second else {}),
        "cross_attention_dim": context,
        "attention_head_dim": heads,
        "use_linear_projection": linear,
        "transformer_layers_per_block": depths if max(depths) > 1 else 1,
    }


def _config(shapes: Shapes, levels: list[Level], names: tuple[str, str, str]) -> dict[str, Any]:
    conv_in, conv_out, added = (shapes.get(f"{name}.weight") for name in names)
    if conv_in is None or conv_out is None:
        raise WeightsError(
            f"the UNet is incomplete: {names[0]}.weight or {names[1]}.weight is missing."
        )
    config: dict[str, Any] = {"_class_name": "UNet2DConditionModel"}
    config |= {"in_channels": conv_in[1], "out_channels": conv_out[0], "sample_size": 64}
    config |= config_of_levels(levels) | _attention_config(shapes, levels)
    if added is not None:  # XL: pooled text and six numbers, each embedded in 256 values
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": added[1],
            "sample_size": 128,
        }
    return config


def infer_ldm(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from a file in the original code's names."""
    return _config(shapes, ldm_levels(shapes), ("input_blocks.0.0", "out.2", "label_emb.0.0"))


def infer_diffusers(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from a file in the published names."""
    return _config(
        shapes, diffusers_levels(shapes), ("conv_in", "conv_out", "add_embedding.linear_1")
    )


LDM = Dialect("ldm", LDM_ROOT, "input_blocks.0.0.weight", infer_ldm, ldm_modules)

UNET = WeightMap(
    kind="unet",
    folder="unet",
    stem="diffusion_pytorch_model",
    classes=("UNet2DConditionModel",),
    model=("brushjax.models.unet", "UNet", "UNetConfig"),
    dialects=(
        Dialect("diffusers", "", "down_blocks.0.resnets.0.conv1.weight", infer_diffusers),
        LDM,
        Dialect("ldm", "", "input_blocks.0.0.weight", infer_ldm, ldm_modules),
    ),
    ldm_dialect=lambda config, kinds: LDM,
    # Diffusers' names for a second stream in a loaded UNet.
    aliases=(Alias(r"\.attn2\.processor\.to_([kv])_ip\.0\.", r".attn2.to_\1_ip."),),
    ignored=(
        Ignored(
            r"^model_ema\.",
            "the training run's moving average; the weights that were published are used",
        ),
    ),
)
