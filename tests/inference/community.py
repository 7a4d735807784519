"""Base models as communities share them: one file, half precision, real names, random weights."""

import json

import torch
from safetensors.torch import load_file, save_file

from brushjax import weights
from brushjax.pipelines.bases import SD1_SCHEDULER, XL_SCHEDULER
from brushjax.weights.maps import MAPS
from tests.random_weights import weight
from tests.weights.tiny import shapes, write_folder

UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "cross_attention_dim": 64,
}
UNET_XL = UNET | {
    "block_out_channels": [64, 128],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [1, 2],
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "cross_attention_dim": 128,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 64 + 6 * 256,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [32] * 4,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 32,
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 600,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "projection_dim": 64,
    "hidden_act": "quick_gelu",
    "bos_token_id": 598,
    "eos_token_id": 599,
}
CLIP_2 = CLIP | {"architectures": ["CLIPTextModelWithProjection"], "hidden_act": "gelu"}
NO_ATTENTION = {"attention_head_dim": 8, "use_linear_projection": False}


def configs(xl):
    """The parts' configs by kind."""
    unet = UNET_XL if xl else UNET
    parts = {"unet": unet, "vae": VAE | {"scaling_factor": 0.13025 if xl else 0.18215}}
    parts["clip_text"] = CLIP
    return parts | ({"clip_text_2": CLIP_2} if xl else {})


def tensors(kind, config):
    """Weights in half precision, as PyTorch holds them."""
    named = shapes(kind, config).items()
    return {name: torch.from_numpy(weight(kind, name, shape)).half() for name, shape in named}


def write_pipeline(folder, vocabulary, xl):
    """Writes a base with its tokenizers and scheduler in diffusers layout."""
    from transformers import CLIPTokenizer

    for kind, config in configs(xl).items():
        write_folder(folder / MAPS[kind].folder, kind, config, tensors(kind, config))
    for name, padding in {"tokenizer": None, **({"tokenizer_2": "!"} if xl else {})}.items():
        tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
        tokenizer.pad_token = padding or tokenizer.pad_token
        tokenizer.save_pretrained(folder / name)
    (folder / "scheduler").mkdir()
    scheduler = json.dumps(XL_SCHEDULER if xl else SD1_SCHEDULER)
    (folder / "scheduler/scheduler_config.json").write_text(scheduler)


def write_branch(folder, xl):
    """Writes a branch for the base in diffusers layout; returns its folder."""
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    config = (UNET_XL if xl else UNET) | blocks | NO_ATTENTION | {"_class_name": "BrushNetModel"}
    return write_folder(folder, "brushnet", config, tensors("brushnet", config))


def write_file(pipeline, path, xl, *, averages=False, vae=True):
    """Writes a pipeline as one file in the original code's names, with what real files carry."""
    weights.convert("pipeline", pipeline, path, layout="ldm")
    file = load_file(path)
    first = "conditioner.embedders.0." if xl else "cond_stage_model."
    extras = {
        "alphas_cumprod": torch.ones(1000),
        f"{first}transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
    }
    if averages:
        old = "model.diffusion_model."
        extras |= {
            "model_ema." + name[len("model.") :].replace(".", ""): torch.zeros_like(value)
            for name, value in file.items()
            if name.startswith(old)
        }
        extras["model_ema.decay"] = torch.tensor(0.9999)
    kept = {name: x for name, x in file.items() if vae or not name.startswith("first_stage")}
    # Real files say nothing about their config.
    save_file({name: value.clone() for name, value in (kept | extras).items()}, path)
    return path
