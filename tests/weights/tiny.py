"""Tiny models of every kind, with random weights, written the way PyTorch users write them."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from brushjax.weights.loading import abstract_model, expected_shapes
from brushjax.weights.maps import MAPS

UNET = {
    "_class_name": "UNet2DConditionModel",
    "block_out_channels": [8, 16],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
}
UNET_XL = UNET | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
}
VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
CLIP = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 8,
    "bos_token_id": 18,
    "eos_token_id": 19,
}
CLIP_2 = CLIP | {
    "architectures": ["CLIPTextModelWithProjection"],
    "hidden_act": "gelu",
    "projection_dim": 6,
}
BRUSHNET = {
    "_class_name": "BrushNetModel",
    "block_out_channels": [8, 16, 24, 24],
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "conditioning_channels": 5,
}
BRUSHNET_XL = BRUSHNET | {
    "block_out_channels": [8, 16, 24],
    "down_block_types": ["DownBlock2D"] * 3,
    "up_block_types": ["UpBlock2D"] * 3,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 32,
}
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "unet": UNET,
    "vae": VAE,
    "clip_text": CLIP,
    "clip_text_2": CLIP_2,
    "brushnet": BRUSHNET,
    "llama": LLAMA,
}
BITS = {torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


def shapes(kind, config):
    """Returns {checkpoint name: shape in PyTorch's layout}."""
    _, structs = abstract_model(kind, config)
    found = {}
    for path, struct in structs.items():
        found |= expected_shapes(path, struct.shape)
    return found


def state_dict(kind, config, seed=0):
    """Draws normal values in float32."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator)
        for name, shape in shapes(kind, config).items()
    }


def random_bits(kind, config):
    """Draws any bit patterns, infinities and not-a-numbers among them, in all three dtypes."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, shape in shapes(kind, config).items():
        # One dtype for the three projections that the original code stacks into one tensor.
        module = name.rsplit(".", 2)[0]
        if MAPS[kind].stacks:  # one dtype for the layers of a stack, as every checkpoint has it
            module = re.sub(r"\.\d+\.", ".", name)
        dtype = list(BITS)[sum(map(ord, module)) % 3]
        info = torch.iinfo(BITS[dtype])
        whole = torch.randint(info.min, info.max + 1, shape, generator=generator)
        drawn[name] = whole.to(BITS[dtype]).view(dtype)
    return drawn


def write_folder(folder: Path, kind, config, tensors):
    """Writes what save_pretrained writes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / f"{MAPS[kind].stem}.safetensors", {"format": "pt"})
    return folder


def write_pipeline(folder: Path, unet=UNET, second=False):
    """Writes a pipeline folder; returns the state dicts by kind."""
    kinds = ["unet", "vae", "clip_text"] + (["clip_text_2"] if second else [])
    configs = CONFIGS | {"unet": unet}
    written = {}
    for seed, kind in enumerate(kinds):
        written[kind] = state_dict(kind, configs[kind], seed=seed)
        write_folder(folder / MAPS[kind].folder, kind, configs[kind], written[kind])
    return written


def same(first, second):
    """Whether two state dicts are equal to the bit."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and torch.equal(first[name].view(torch.uint8), second[name].view(torch.uint8))
        for name in first
    )
