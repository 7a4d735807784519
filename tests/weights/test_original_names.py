"""The original code's names against diffusers' own conversion, and the files they occur in."""

import json

import pytest
import torch
from diffusers.loaders import single_file_utils as diffusers_names
from safetensors.torch import load_file, save_file

from brushjax import weights
from tests.weights import tiny

pytestmark = pytest.mark.torch


def write_ldm(kind, config, original, folder):
    source = tiny.write_folder(folder / "source", kind, config, original)
    weights.convert(kind, source, folder / "ldm.safetensors", layout="ldm")
    return load_file(folder / "ldm.safetensors")


@pytest.mark.parametrize("config", [tiny.UNET, tiny.UNET_XL], ids=["v1", "xl"])
def test_unet_names_are_those_diffusers_converts(config, tmp_path):
    original = tiny.state_dict("unet", config)
    file = write_ldm("unet", config, original, tmp_path)
    assert all(name.startswith("model.diffusion_model.") for name in file)
    settings = {"class_embed_type": None, "addition_embed_type": None} | config
    converted = diffusers_names.convert_ldm_unet_checkpoint(file, settings)
    assert tiny.same(converted, original)


def test_vae_names_are_those_diffusers_converts(tmp_path):
    original = tiny.state_dict("vae", tiny.VAE)
    file = write_ldm("vae", tiny.VAE, original, tmp_path)
    assert file["first_stage_model.encoder.mid.attn_1.q.weight"].shape == (16, 16, 1, 1)
    assert tiny.same(diffusers_names.convert_ldm_vae_checkpoint(file, tiny.VAE), original)


def test_first_text_encoder_names_are_those_diffusers_converts(tmp_path):
    original = tiny.state_dict("clip_text", tiny.CLIP)
    file = write_ldm("clip_text", tiny.CLIP, original, tmp_path)
    assert tiny.same(diffusers_names.convert_ldm_clip_checkpoint(file), original)


@pytest.mark.parametrize(
    ("kind", "config", "root"),
    [
        ("clip_text", tiny.CLIP | {"hidden_act": "gelu"}, "cond_stage_model.model."),
        ("clip_text_2", tiny.CLIP_2, "conditioner.embedders.1.model."),
    ],
    ids=["v2", "xl"],
)
def test_open_clip_names_are_those_diffusers_converts(kind, config, root, tmp_path):
    class Encoder:  # diffusers reads the width off the model's config
        class config:
            hidden_size = config["hidden_size"]

    original = tiny.state_dict(kind, config)
    file = write_ldm(kind, config, original, tmp_path)
    converted = diffusers_names.convert_open_clip_checkpoint(Encoder, file, prefix=root)
    assert tiny.same(converted, original)


def community_file(path, xl):
    """Writes a whole-model file with all that real ones carry; returns the parts and the rest."""
    folder = path.parent / "pipeline"
    parts = tiny.write_pipeline(folder, tiny.UNET_XL if xl else tiny.UNET, second=xl)
    weights.convert("pipeline", folder, path, layout="ldm")
    file = load_file(path)
    first = "conditioner.embedders.0." if xl else "cond_stage_model."
    extras = {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(3),
        "alphas_cumprod": torch.ones(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
        f"{first}transformer.text_model.embeddings.position_ids": torch.arange(77)[None],
        f"{first}transformer.vision_model.post_layernorm.bias": torch.zeros(3),
        f"{first}transformer.text_projection.weight": torch.zeros(8, 8),
    }
    if xl:
        extras["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
    # Real files say nothing about their config.
    save_file({key: value.clone() for key, value in (file | extras).items()}, path)
    return parts, extras


@pytest.mark.parametrize("xl", [False, True], ids=["v1", "xl"])
def test_whole_file_gives_all_its_parts_and_says_what_it_left_out(xl, tmp_path):
    path = tmp_path / "model.safetensors"
    parts, extras = community_file(path, xl)
    configs = tiny.CONFIGS | {"unet": tiny.UNET_XL if xl else tiny.UNET}
    for kind, original in parts.items():
        read = weights.read(kind, path, configs[kind])
        assert {name: tensor.shape for name, tensor in read.tensors.items()} == {
            name: tuple(value.shape) for name, value in original.items()
        }
        weights.convert(kind, path, tmp_path / kind, config=configs[kind])
        stem = "model" if kind.startswith("clip") else "diffusion_pytorch_model"
        assert tiny.same(load_file(tmp_path / kind / f"{stem}.safetensors"), original)
        assert all(read.ignored[name] for name in extras)
    assert (
        "moving average" in weights.read("unet", path, configs["unet"]).ignored["model_ema.decay"]
    )


def test_sd2_file_drops_the_unused_last_layer(tmp_path):
    config = tiny.CLIP | {"hidden_act": "gelu"}
    original = tiny.state_dict("clip_text", config)
    file = write_ldm("clip_text", config, original, tmp_path)
    layer = "cond_stage_model.model.transformer.resblocks.1."
    last = {
        name.replace("resblocks.1.", "resblocks.23."): value.clone()
        for name, value in file.items()
        if name.startswith(layer)
    }
    unused = {"cond_stage_model.model.text_projection": torch.zeros(8, 8)}
    save_file(file | last | unused, tmp_path / "sd2.safetensors")
    read = weights.read("clip_text", tmp_path / "sd2.safetensors")
    assert read.tensors.keys() == original.keys()
    assert read.config["num_hidden_layers"] == 2
    assert read.config["hidden_act"] == "gelu"
    assert read.ignored.keys() == last.keys() | unused.keys()


def test_older_vae_attention_names_and_kernels_are_read(tmp_path):
    original = tiny.state_dict("vae", tiny.VAE)
    older = {}
    for name, value in original.items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value")):
            name = name.replace(f".{new}.", f".{old}.")
        name = name.replace(".to_out.0.", ".proj_attn.")
        is_kernel = name.startswith("decoder.mid_block.attentions") and value.ndim == 2
        older[name] = value[..., None, None] if is_kernel else value  # one half as 1x1 kernels
    assert older.keys() != original.keys()
    source = tiny.write_folder(tmp_path / "source", "vae", tiny.VAE, older)
    weights.convert("vae", source, tmp_path / "today")
    assert tiny.same(load_file(tmp_path / "today/diffusion_pytorch_model.safetensors"), original)


@pytest.mark.parametrize("root", ["", "cond_stage_model.transformer."])
def test_text_encoder_without_the_text_model_level_is_read(root, tmp_path):
    original = tiny.state_dict("clip_text", tiny.CLIP)
    short = {root + name.removeprefix("text_model."): value for name, value in original.items()}
    save_file(short, tmp_path / "text.safetensors")
    weights.convert("clip_text", tmp_path / "text.safetensors", tmp_path / "t", config=tiny.CLIP)
    assert tiny.same(load_file(tmp_path / "t/model.safetensors"), original)


def test_file_of_one_bare_part_is_read(tmp_path):
    for kind, config, root in (
        ("unet", tiny.UNET, "model.diffusion_model."),
        ("vae", tiny.VAE, "first_stage_model."),
    ):
        original = tiny.state_dict(kind, config)
        file = write_ldm(kind, config, original, tmp_path / kind)
        bare = {name.removeprefix(root): value for name, value in file.items()}
        save_file(bare, tmp_path / f"{kind}.safetensors")
        read = weights.read(kind, tmp_path / f"{kind}.safetensors", config)
        assert read.tensors.keys() == original.keys()


def test_branch_has_no_original_names(tmp_path):
    original = tiny.state_dict("brushnet", tiny.BRUSHNET)
    source = tiny.write_folder(tmp_path / "source", "brushnet", tiny.BRUSHNET, original)
    with pytest.raises(weights.WeightsError, match="no names for a brushnet"):
        weights.convert("brushnet", source, tmp_path / "b.safetensors", layout="ldm")


def test_written_file_notes_the_config_its_shapes_do_not_tell(tmp_path):
    original = tiny.state_dict("unet", tiny.UNET)
    write_ldm("unet", tiny.UNET, original, tmp_path)
    read = weights.read("unet", tmp_path / "ldm.safetensors")
    assert read.config == json.loads(json.dumps(tiny.UNET))
