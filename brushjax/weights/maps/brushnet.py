"""Names and shapes of the BrushNet branch; all published files use the diffusers names."""

from __future__ import annotations

from typing import Any

from brushjax.weights.maps.unet import config_of_levels, diffusers_levels
from brushjax.weights.rules import Dialect, Shapes, WeightMap, WeightsError

# What ComfyUI-BrushNet counts, by substring, to recognise a file: down taps, mid tap, up taps ->
# tensors in all.
COMFYUI_FAMILIES = {(24, 2, 30): 322, (18, 2, 22): 252}


def infer(shapes: Shapes) -> dict[str, Any]:
    """Tells the config of the published, attention-free branch from its shapes."""
    if any(".attentions." in name for name in shapes):
        raise WeightsError("a branch with attention needs its config. Pass config= (--config).")
    config = config_of_levels(diffusers_levels(shapes))
    config |= {
        "_class_name": "BrushNetModel",
        "in_channels": 4,
        "conditioning_channels": shapes["conv_in_condition.weight"][1] - 4,
        "mid_block_type": "MidBlock2D",
    }
    added = shapes.get("add_embedding.linear_1.weight")
    if added is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": added[1],
        }
    return config


def check_comfyui(names: list[str]) -> None:
    """Raises WeightsError unless ComfyUI-BrushNet would recognise a file with these names."""
    parts = ("brushnet_down_block", "brushnet_mid_block", "brushnet_up_block")
    down, mid, up = (sum(part in name for name in names) for part in parts)
    counts = (down, mid, up)
    expected = COMFYUI_FAMILIES.get(counts)
    if expected != len(names):
        families = " or ".join(
            f"{total} tensors with taps {taps}" for taps, total in COMFYUI_FAMILIES.items()
        )
        raise WeightsError(
            f"ComfyUI-BrushNet would not recognise this branch: expected {families}, "
            f"got {len(names)} tensors with taps {counts}. Use the diffusers layout."
        )


BRUSHNET = WeightMap(
    kind="brushnet",
    folder="brushnet",
    stem="diffusion_pytorch_model",
    classes=("BrushNetModel",),
    model=("brushjax.models.brushnet", "BrushNet", "BrushNetConfig"),
    dialects=(Dialect("diffusers", "", "brushnet_mid_block.weight", infer),),
    ldm_dialect=lambda config, kinds: None,
)
