"""Names and shapes of vision transformers: transformers' CLIP, OpenCLIP's, and timm's with what
follows it (DINO, DINOv2, BLIP), and transformers' ViT and Dinov2.

Checkpoint names here are those of transformers' CLIP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from brushjax.weights.maps.clip import OPEN_CLIP_LAYER
from brushjax.weights.maps.unet import count
from brushjax.weights.rules import Dialect, Ignored, Leaf, Module, Shapes, WeightMap, WeightsError

LAYERS = "vision_model.encoder.layers."
EMBEDDINGS = "vision_model.embeddings."
HEAD_WIDTH = 64  # of every published transformer here but OpenCLIP's widest, which have 16 heads

LEAD1, LEAD2 = Leaf("", "", "lead1"), Leaf("", "", "lead2")
TIMM_LAYER = (
    Leaf("layer_norm1.", "norm1."),
    Leaf("layer_norm2.", "norm2."),
    Leaf("self_attn.q_proj.", "attn.qkv.", part=(0, 3)),
    Leaf("self_attn.k_proj.", "attn.qkv.", part=(1, 3)),
    Leaf("self_attn.v_proj.", "attn.qkv.", part=(2, 3)),
    Leaf("self_attn.out_proj.", "attn.proj."),
    Leaf("mlp.", "mlp."),
    Leaf("layer_scale1.lambda1", "ls1.gamma"),
    Leaf("layer_scale2.lambda1", "ls2.gamma"),
)
VIT_LAYER = (
    Leaf("layer_norm1.", "layernorm_before."),
    Leaf("layer_norm2.", "layernorm_after."),
    Leaf("self_attn.q_proj.", "attention.attention.query."),
    Leaf("self_attn.k_proj.", "attention.attention.key."),
    Leaf("self_attn.v_proj.", "attention.attention.value."),
    Leaf("self_attn.out_proj.", "attention.output.dense."),
    Leaf("mlp.fc1.", "intermediate.dense."),
    Leaf("mlp.fc2.", "output.dense."),
)
DINOV2_LAYER = (
    Leaf("layer_norm1.", "norm1."),
    Leaf("layer_norm2.", "norm2."),
    *VIT_LAYER[2:6],
    Leaf("mlp.", "mlp."),
    Leaf("layer_scale", "layer_scale"),
)


def layers_of(
    config: dict[str, Any], theirs: str, leaves: tuple[Leaf, ...], ours: str = LAYERS
) -> tuple[Module, ...]:
    """Makes one row of a table per layer."""
    return tuple(
        Module(f"{ours}{i}.", f"{theirs}{i}.", leaves) for i in range(config["num_hidden_layers"])
    )


def timm_modules(config: dict[str, Any], ours: str = "", theirs: str = "") -> tuple[Module, ...]:
    """Makes the table of timm's names; the two prefixes stand before each name of a side."""
    embeddings = ours + EMBEDDINGS
    return (
        Module(f"{embeddings}class_embedding", f"{theirs}cls_token", (LEAD2,)),
        Module(f"{embeddings}position_embedding.weight", f"{theirs}pos_embed", (LEAD1,)),
        Module(f"{embeddings}register_tokens", f"{theirs}register_tokens", (LEAD1,)),
        Module(f"{embeddings}patch_embedding.", f"{theirs}patch_embed.proj."),
        Module(f"{ours}vision_model.post_layernorm.", f"{theirs}norm."),
        *layers_of(config, f"{theirs}blocks.", TIMM_LAYER, ours + LAYERS),
    )


def transformers_modules(
    layer: tuple[Leaf, ...],
) -> Callable[[dict[str, Any]], tuple[Module, ...]]:
    """Makes the table of transformers' ViT and Dinov2, which differ in a layer's names."""

    def modules(config: dict[str, Any]) -> tuple[Module, ...]:
        return (
            Module(f"{EMBEDDINGS}class_embedding", "embeddings.cls_token", (LEAD2,)),
            Module(
                f"{EMBEDDINGS}position_embedding.weight", "embeddings.position_embeddings", (LEAD1,)
            ),
            Module(f"{EMBEDDINGS}register_tokens", "embeddings.register_tokens", (LEAD1,)),
            Module(f"{EMBEDDINGS}patch_embedding.", "embeddings.patch_embeddings.projection."),
            Module("vision_model.post_layernorm.", "layernorm."),
            *layers_of(config, "encoder.layer.", layer),
        )

    return modules


def open_clip_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of OpenCLIP's names."""
    return (
        Module(f"{EMBEDDINGS}class_embedding", "class_embedding"),
        Module(f"{EMBEDDINGS}position_embedding.weight", "positional_embedding"),
        Module(f"{EMBEDDINGS}patch_embedding.", "conv1."),
        Module("vision_model.pre_layrnorm.", "ln_pre."),
        Module("vision_model.post_layernorm.", "ln_post."),
        # A bare matrix (width, out) there, the weight of a linear layer (out, width) here.
        Module("visual_projection.weight", "proj", (Leaf("", "", "transposed"),)),
        *layers_of(config, "transformer.resblocks.", OPEN_CLIP_LAYER),
    )


# --- config from shapes


def _config(shapes: Shapes, patch: str, positions: str, inner: str, layers: str) -> dict[str, Any]:
    width, _, side, _ = shapes[patch]
    patches = shapes[positions][-2] - 1
    grid = round(patches**0.5)
    if grid**2 != patches:
        raise WeightsError(
            f"{positions} has {patches + 1} rows, which is no square grid and a class token. Pass "
            f"config= (--config)."
        )
    return {
        "hidden_size": width,
        "intermediate_size": shapes[inner][0],
        "num_hidden_layers": count(shapes, layers),
        # 16 heads from 1024 on: L (64 wide), H (80), g (88) and bigG (104).
        "num_attention_heads": width // HEAD_WIDTH if width <= 1024 else 16,
        "image_size": grid * side,
        "patch_size": side,
    }


def infer_timm(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from timm's names: DINO's, DINOv2's or BLIP's image encoder."""
    names = ("patch_embed.proj.weight", "pos_embed", "blocks.0.mlp.fc1.weight", "blocks.")
    config = {"_class_name": "DINO", "layer_scale": "blocks.0.ls1.gamma" in shapes}
    config |= {"num_register_tokens": shapes.get("register_tokens", (1, 0))[1]}
    return config | _config(shapes, *names)


def _clip_config(shapes: Shapes, projection: int, names: tuple[str, ...]) -> dict[str, Any]:
    config: dict[str, Any] = {"_class_name": "CLIPVisionModelWithProjection"}
    config |= _config(shapes, *names) | {"projection_dim": projection}
    # OpenAI's have the quick GELU; the wider ones are OpenCLIP's and have the exact one. OpenCLIP's
    # own B and L cannot be told from OpenAI's by their shapes and need their config.
    return config | {"hidden_act": "quick_gelu" if config["hidden_size"] <= 1024 else "gelu"}


def infer_clip(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from transformers' CLIP names."""
    names = (
        f"{EMBEDDINGS}patch_embedding.weight",
        f"{EMBEDDINGS}position_embedding.weight",
        f"{LAYERS}0.mlp.fc1.weight",
        LAYERS,
    )
    return _clip_config(shapes, shapes.get("visual_projection.weight", (0,))[0], names)


def infer_open_clip(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from OpenCLIP's names."""
    layers = "transformer.resblocks."
    names = ("conv1.weight", "positional_embedding", f"{layers}0.mlp.c_fc.weight", layers)
    return _clip_config(shapes, shapes["proj"][1], names)


def _needs_config(shapes: Shapes) -> dict[str, Any]:
    raise WeightsError(
        "a file in transformers' names does not tell its norm's epsilon, nor whether it is DINO's. "
        "Pass the folder with its config.json, or config= (--config)."
    )


def infer_bare_clip(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from the names of transformers' image tower alone."""
    return infer_clip({f"vision_model.{name}": shape for name, shape in shapes.items()})


OPEN_CLIP = Dialect("ldm", "visual.", "conv1.weight", infer_open_clip, open_clip_modules)
TIMM = Dialect("ldm", "", "blocks.0.attn.qkv.weight", infer_timm, timm_modules)

CLIP_VISION = WeightMap(
    kind="clip_vision",
    folder="clip_vision",
    stem="model",
    classes=("CLIPVisionModelWithProjection", "CLIPVisionModel", "CLIPModel"),
    model=("brushjax.models.encoders.vit", "CLIPVision", "ViTConfig"),
    dialects=(
        Dialect("diffusers", "", f"{EMBEDDINGS}class_embedding", infer_clip),
        OPEN_CLIP,
        Dialect(  # CLIPVisionModel, which transformers 5 writes without its outer name
            "ldm",
            "",
            "embeddings.class_embedding",
            infer_bare_clip,
            lambda config: (Module("vision_model.", ""),),
        ),
    ),
    ldm_dialect=lambda config, kinds: OPEN_CLIP,
    ignored=(
        Ignored(r"\.position_ids$", "a buffer of 0, 1, 2, ..., not a parameter"),
        Ignored(r"^(text_model|text_projection)\b", "the text half of CLIP"),
        Ignored(r"^logit_scale$", "the temperature of CLIP's training"),
    ),
)

DINO = WeightMap(
    kind="dino",
    folder="dino",
    stem="model",
    classes=("DINO", "ViTModel", "Dinov2Model", "Dinov2WithRegistersModel"),
    model=("brushjax.models.encoders.vit", "DINO", "PlainViTConfig"),
    dialects=(
        Dialect("diffusers", "", f"{EMBEDDINGS}class_embedding", _needs_config),
        TIMM,
        Dialect(
            "ldm",
            "",
            "encoder.layer.0.layernorm_before.weight",
            _needs_config,
            transformers_modules(VIT_LAYER),
        ),
        Dialect(
            "ldm",
            "",
            "encoder.layer.0.norm1.weight",
            _needs_config,
            transformers_modules(DINOV2_LAYER),
        ),
        Dialect(
            "ldm",
            "perceiver.vis_encoder.",  # in Groma's file
            "encoder.layer.0.norm1.weight",
            _needs_config,
            transformers_modules(DINOV2_LAYER),
        ),
    ),
    ldm_dialect=lambda config, kinds: TIMM,
    ignored=(
        Ignored(r"(^|\.)mask_token$", "the token of masked patches in DINOv2's training"),
        Ignored(r"^pooler\.", "a head of transformers' class that DINO did not train"),
        Ignored(r"^head\.", "the head of DINO's training"),
    ),
)
