"""Parts of a pipeline: whether they belong together, and as arguments of compiled programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from brushjax.models.brushnet import CELL, BrushNet
from brushjax.models.encoders.clip import CLIPText
from brushjax.models.unet import UNet
from brushjax.models.vae import AutoencoderKL
from brushjax.typing import Params

ONE_FAMILY = "base and branch must be of one family, Stable Diffusion 1.x, 2.x or XL"


def graphs_and_weights(
    models: Mapping[str, nnx.Module],
) -> tuple[dict[str, nnx.GraphDef], dict[str, Params]]:
    """Returns what each network computes, which is hashable, and its weights as pure dicts."""
    split = {name: nnx.split(model) for name, model in models.items()}
    graphs = {name: graph for name, (graph, _) in split.items()}
    return graphs, {name: nnx.to_pure_dict(state) for name, (_, state) in split.items()}


def check_parts(
    unet: UNet, brushnet: BrushNet, vae: AutoencoderKL, text_encoders: Sequence[CLIPText]
) -> None:
    """Raises ValueError for parts that don't belong together.

    Args:
        text_encoders: none, where text features are given instead of prompts; one; or XL's two.
    """
    wide: Any = unet.config
    branch: Any = brushnet.config
    added = ("addition_embed_type", "projection_class_embeddings_input_dim")
    checks = [
        ("a UNet with 4 input channels", wide.in_channels, 4),
        (
            f"a branch as wide as the UNet ({ONE_FAMILY})",
            branch.block_out_channels,
            wide.block_out_channels,
        ),
        (
            f"a branch with the UNet's added conditions ({ONE_FAMILY})",
            *([getattr(config, name) for name in added] for config in (branch, wide)),
        ),
        ("a branch for 5 condition channels", branch.conditioning_channels, 5),
        ("a branch that takes latents", branch.conditioning_encoder, "vae"),
        ("a VAE of 8 pixels a cell", vae.factor, CELL),
    ]
    if text_encoders:
        checks += _text_checks(wide, text_encoders)
    for what, got, expected in checks:
        if got != expected:
            raise ValueError(f"expected {what}: {expected}, got {got}")


def _text_checks(unet: Any, encoders: Sequence[CLIPText]) -> list[tuple[str, Any, Any]]:
    xl = unet.addition_embed_type is not None
    width = sum(encoder.config.hidden_size for encoder in encoders)
    checks: list[tuple[str, Any, Any]] = [
        ("two text encoders for SDXL, one for the others", len(encoders), 1 + xl),
        ("text features as wide as the UNet's cross-attention", width, unet.cross_attention_dim),
    ]
    if xl:
        checks.append(("a second encoder with projection", encoders[-1].config.with_projection, 1))
    return checks
