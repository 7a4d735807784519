"""Names of the networks that score pictures: as published, there and back to the bit."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import convert_weights
from brushjax import weights
from tests.weights import tiny

pytestmark = pytest.mark.torch

VIT = {
    "hidden_size": 128,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
DINOV2 = VIT | {"_class_name": "DINO", "layer_scale": True, "num_register_tokens": 2}
CONFIGS = {
    "clip_vision": VIT | {"_class_name": "CLIPVisionModelWithProjection", "projection_dim": 6},
    "dino": VIT | {"_class_name": "DINO"},
    "dino-v2": DINOV2,
    "image_reward": {
        "_class_name": "ImageReward",
        "hidden_size": 64,
        "intermediate_size": 12,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 20,
        "max_position_embeddings": 9,
        "image_size": 8,
        "patch_size": 4,
        "mlp": [4, 3, 2, 2, 1],
    }
    | {
        f"vision_{name}": value
        for name, value in VIT.items()
        if name.startswith(("h", "n", "inter"))
    },
    "aesthetic": {"_class_name": "AestheticHead", "width": 6},
}
LAYER = "attn.in_proj_weight attn.in_proj_bias attn.out_proj.weight attn.out_proj.bias ln_1.weight "
LAYER += "ln_1.bias ln_2.weight ln_2.bias mlp.c_fc.weight mlp.c_fc.bias mlp.c_proj.weight "
LAYER += "mlp.c_proj.bias"
BLOCK = "attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias norm1.weight norm1.bias "
BLOCK += "norm2.weight norm2.bias mlp.fc1.weight mlp.fc1.bias mlp.fc2.weight mlp.fc2.bias"
TIMM = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
TIMM |= {"norm.weight", "norm.bias", *(f"blocks.0.{name}" for name in BLOCK.split())}
PUBLISHED = {
    "clip_vision": {
        *("visual.class_embedding", "visual.positional_embedding", "visual.proj"),
        *("visual.conv1.weight", "visual.ln_pre.weight", "visual.ln_pre.bias"),
        *("visual.ln_post.weight", "visual.ln_post.bias"),
        *(f"visual.transformer.resblocks.0.{name}" for name in LAYER.split()),
    },
    "dino": TIMM,
    "dino-v2": TIMM | {"register_tokens", "blocks.0.ls1.gamma", "blocks.0.ls2.gamma"},
    "aesthetic": {"weight", "bias"},
}
SHAPES = {  # where the published shape is another than ours
    "clip_vision": {"visual.proj": (128, 6), "visual.positional_embedding": (5, 128)},
    "dino": {"cls_token": (1, 1, 128), "pos_embed": (1, 5, 128)},
    "dino-v2": {"register_tokens": (1, 2, 128)},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_scoring_network_keeps_every_bit_through_its_published_names(name, tmp_path):
    kind, config = name.partition("-")[0], CONFIGS[name]
    original = tiny.random_bits(kind, config)
    source = tiny.write_folder(tmp_path / "source", kind, config, original)
    weights.convert(kind, source, tmp_path / "published.safetensors", layout="ldm")
    file = load_file(tmp_path / "published.safetensors")
    assert set(file) == PUBLISHED.get(name, set(file))
    for tensor, shape in SHAPES.get(name, {}).items():
        assert file[tensor].shape == shape
    weights.convert(kind, tmp_path / "published.safetensors", tmp_path / "back")
    assert tiny.same(load_file(tmp_path / "back" / "model.safetensors"), original)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_of_a_published_file_is_told_by_its_shapes(name, tmp_path):
    kind, config = name.partition("-")[0], CONFIGS[name]
    source = tiny.write_folder(tmp_path / "s", kind, config, tiny.state_dict(kind, config))
    weights.convert(kind, source, tmp_path / "noted.safetensors", layout="ldm")
    file = load_file(tmp_path / "noted.safetensors")  # without the note that we leave in the header
    extras = {"head.weight": torch.zeros(2)} if kind == "dino" else {}
    extras |= {"mask_token": torch.zeros(1, 128)} if name == "dino-v2" else {}
    if kind == "clip_vision":  # the file of a whole CLIP
        extras = {"logit_scale": torch.zeros(()), "token_embedding.weight": torch.zeros(3, 2)}
    save_file(file | extras, tmp_path / "file.safetensors")
    model = weights.load(kind, tmp_path / "file.safetensors")
    told, wanted = model.config.to_dict(), weights.load(kind, source).config.to_dict()
    assert {k: told[k] for k in wanted if k in config} == {
        k: wanted[k] for k in wanted if k in config
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", [*CONFIGS, "lpips"])
def test_published_file_of_a_metrics_network_becomes_ours_by_the_command(name, zipped, tmp_path):
    kind = name.partition("-")[0]
    config = CONFIGS.get(name, {"_class_name": "LPIPS", "net": "squeeze"})
    state = tiny.state_dict(kind, config)
    source = tiny.write_folder(tmp_path / "source", kind, config, state)
    file = source / "model.safetensors"  # torchvision's names are ours
    if kind != "lpips":
        file = tmp_path / "theirs.safetensors"
        weights.convert(kind, source, file, layout="ldm")
    heads = {"lpips": {"classifier.1.bias": torch.zeros(3)}, "dino": {"head.bias": torch.zeros(3)}}
    published = load_file(file) | heads.get(kind, {})
    torch.save(published, tmp_path / "net.pth", _use_new_zipfile_serialization=zipped)
    command = ["to-jax", kind, str(tmp_path / "net.pth"), str(tmp_path / "ours")]
    assert convert_weights.main(command) == 0
    found = weights.read(kind, tmp_path / "ours")
    assert found.layout == "orbax"
    assert set(found.tensors) == set(state)
    for key, tensor in found.tensors.items():
        np.testing.assert_array_equal(tensor.array(), state[key].numpy())


def test_halves_of_an_open_clip_file(tmp_path):
    """HPS v2.1's file: both towers side by side, the text's names without a root."""
    words = tiny.CLIP_2 | {"hidden_size": 64, "num_attention_heads": 1, "projection_dim": 6}
    text = tiny.state_dict("clip_text_2", words)
    folder = tiny.write_folder(tmp_path / "text", "clip_text_2", words, text)
    weights.convert("clip_text_2", folder, tmp_path / "text.safetensors", layout="ldm")
    root = "conditioner.embedders.1.model."
    whole = {k.removeprefix(root): v for k, v in load_file(tmp_path / "text.safetensors").items()}
    vision = CONFIGS["clip_vision"]
    folder = tiny.write_folder(
        tmp_path / "vision", "clip_vision", vision, tiny.state_dict("clip_vision", vision)
    )
    weights.convert("clip_vision", folder, tmp_path / "vision.safetensors", layout="ldm")
    whole |= load_file(tmp_path / "vision.safetensors") | {"logit_scale": torch.zeros(())}
    torch.save({"epoch": 1, "state_dict": whole}, tmp_path / "hps.pt")

    loaded = weights.load("clip_text", tmp_path / "hps.pt")
    assert loaded.config.with_projection
    mine = np.asarray(loaded.text_projection.kernel[...])
    np.testing.assert_array_equal(mine, text["text_projection.weight"].T)
    assert weights.load("clip_vision", tmp_path / "hps.pt").config.hidden_size == 128


def test_dino_in_transformers_names_needs_its_config(tmp_path):
    names = {"encoder.layer.0.layernorm_before.weight": torch.zeros(8)}
    save_file(names, tmp_path / "dino.safetensors")
    with pytest.raises(weights.WeightsError, match="epsilon"):
        weights.load("dino", tmp_path / "dino.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(VIT | {"architectures": ["ViTModel"]}))
    with pytest.raises(weights.WeightsError, match="missing"):
        weights.load("dino", tmp_path / "dino.safetensors", config=tmp_path / "config.json")
