"""Names and shapes of the CLIP text encoders: transformers', and OpenCLIP's in original files."""

from __future__ import annotations

from typing import Any

from brushjax.weights.maps.unet import count
from brushjax.weights.rules import Alias, Dialect, Ignored, Leaf, Module, Shapes, WeightMap

OPEN_CLIP_LAYER = (
    Leaf("layer_norm1.", "ln_1."),
    Leaf("layer_norm2.", "ln_2."),
    Leaf("mlp.fc1.", "mlp.c_fc."),
    Leaf("mlp.fc2.", "mlp.c_proj."),
    Leaf("self_attn.out_proj.", "attn.out_proj."),
    # One tensor holds all three: attn.in_proj_weight, attn.in_proj_bias.
    Leaf("self_attn.q_proj.", "attn.in_proj_", part=(0, 3)),
    Leaf("self_attn.k_proj.", "attn.in_proj_", part=(1, 3)),
    Leaf("self_attn.v_proj.", "attn.in_proj_", part=(2, 3)),
)


def open_clip_modules(config: dict[str, Any]) -> tuple[Module, ...]:
    """Makes the table of OpenCLIP's names."""
    layers = (
        Module(f"text_model.encoder.layers.{i}.", f"transformer.resblocks.{i}.", OPEN_CLIP_LAYER)
        for i in range(config["num_hidden_layers"])
    )
    return (
        Module("text_model.embeddings.token_embedding.", "token_embedding."),
        Module("text_model.embeddings.position_embedding.weight", "positional_embedding"),
        Module("text_model.final_layer_norm.", "ln_final."),
        # A bare matrix (width, out) there, the weight of a linear layer (out, width) here.
        Module("text_projection.weight", "text_projection", (Leaf("", "", "transposed"),)),
        *layers,
    )


def _config(shapes: Shapes, names: dict[str, str], act: str, heads: int) -> dict[str, Any]:
    vocabulary, width = shapes[names["token"]]
    projection = shapes.get(names["projection"])
    config = {
        "architectures": ["CLIPTextModel" if projection is None else "CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[names["inner"]][0],
        "num_hidden_layers": count(shapes, names["layers"]),
        "num_attention_heads": heads,
        "max_position_embeddings": shapes[names["position"]][0],
        "hidden_act": act,
        "layer_norm_eps": 1e-5,
        "projection_dim": width,
        "bos_token_id": vocabulary
        - 2,  # every CLIP vocabulary ends with <|startoftext|> <|endoftext|>
        "eos_token_id": vocabulary - 1,
    }
    if projection is not None:
        config["projection_dim"] = projection[0]
    return config


def infer_transformers(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from transformers' names."""
    names = {
        "token": "text_model.embeddings.token_embedding.weight",
        "position": "text_model.embeddings.position_embedding.weight",
        "inner": "text_model.encoder.layers.0.mlp.fc1.weight",
        "layers": "text_model.encoder.layers.",
        "projection": "text_projection.weight",
    }
    width = shapes[names["token"]][1]
    # OpenAI's ViT-L (768) uses the quick GELU; the wider ones, ViT-H and bigG, are OpenCLIP's and
    # use the exact one.
    return _config(shapes, names, "quick_gelu" if width <= 768 else "gelu", max(width // 64, 1))


def infer_open_clip(shapes: Shapes) -> dict[str, Any]:
    """Tells the config from OpenCLIP's names: ViT-H (Stable Diffusion 2) or bigG (XL)."""
    names = {
        "token": "token_embedding.weight",
        "position": "positional_embedding",
        "inner": "transformer.resblocks.0.mlp.c_fc.weight",
        "layers": "transformer.resblocks.",
        "projection": "text_projection",
    }
    config = _config(shapes, names, "gelu", max(shapes[names["token"]][1] // 64, 1))
    projection = shapes.get(names["projection"])
    if projection is not None:
        config["projection_dim"] = projection[1]  # stored transposed
    return config


HF_SIGN = "text_model.embeddings.token_embedding.weight"
OPEN_SIGN = "positional_embedding"

SD1 = Dialect("ldm", "cond_stage_model.transformer.", HF_SIGN, infer_transformers)
SD2 = Dialect("ldm", "cond_stage_model.model.", OPEN_SIGN, infer_open_clip, open_clip_modules)
XL_FIRST = Dialect("ldm", "conditioner.embedders.0.transformer.", HF_SIGN, infer_transformers)
XL_SECOND = Dialect(
    "ldm", "conditioner.embedders.1.model.", OPEN_SIGN, infer_open_clip, open_clip_modules
)
OPEN = Dialect("ldm", "", OPEN_SIGN, infer_open_clip, open_clip_modules)  # a whole CLIP's file
PUBLISHED = Dialect("diffusers", "", HF_SIGN, infer_transformers)

ALIASES = (
    # transformers 5 and some merged files leave out the "text_model." level.
    Alias(
        r"^((?:cond_stage_model\.|conditioner\.embedders\.0\.)transformer\.|)"
        r"(embeddings|encoder|final_layer_norm)\.",
        r"\1text_model.\2.",
    ),
)
BUFFERS = (
    Ignored(r"\.position_ids$", "a buffer of 0, 1, 2, ..., not a parameter"),
    Ignored(r"\.attn_mask$", "a buffer with the causal mask, not a parameter"),
    Ignored(r"^(.*\.transformer\.)?(vision_model|visual_projection)\.", "the image half of CLIP"),
    Ignored(r"^visual\.", "the image half of CLIP"),
    Ignored(r"logit_scale$", "the temperature of CLIP's training, unused by the encoder"),
    Ignored(
        r"^model_ema\.",
        "the training run's moving average; the weights that were published are used",
    ),
)


def _first_dialect(config: dict[str, Any], kinds: frozenset[str]) -> Dialect:
    """Returns how the first text encoder stands in an original file: by its family."""
    if "clip_text_2" in kinds:
        return XL_FIRST
    return SD2 if config.get("hidden_act", "quick_gelu") == "gelu" else SD1


CLIP_TEXT = WeightMap(
    kind="clip_text",
    folder="text_encoder",
    stem="model",
    classes=("CLIPTextModel", "CLIPTextModelWithProjection", "CLIPModel"),
    model=("brushjax.models.encoders.clip", "CLIPText", "CLIPTextConfig"),
    dialects=(PUBLISHED, SD1, XL_FIRST, SD2, OPEN),
    ldm_dialect=_first_dialect,
    aliases=ALIASES,
    ignored=(
        *BUFFERS,
        Ignored(
            r"^cond_stage_model\.model\.transformer\.resblocks\.23\.",
            "Stable Diffusion 2 conditions on the last but one state of its 24 layers; the "
            "published encoder has 23",
        ),
        Ignored(
            r"^(cond_stage_model|conditioner\.embedders\.0)\..*text_projection(\.weight)?$",
            "the projection of the pooled text, which only the second encoder of XL uses",
        ),
    ),
)

CLIP_TEXT_2 = WeightMap(
    kind="clip_text_2",
    folder="text_encoder_2",
    stem="model",
    classes=("CLIPTextModelWithProjection", "CLIPTextModel"),
    model=("brushjax.models.encoders.clip", "CLIPText", "CLIPTextConfig"),
    dialects=(PUBLISHED, XL_SECOND),
    ldm_dialect=lambda config, kinds: XL_SECOND,
    aliases=ALIASES,
    ignored=BUFFERS,
)
