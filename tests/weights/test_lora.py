"""LoRA files in every program's names against peft's layers in PyTorch's models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from flax import nnx
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from brushjax import weights
from brushjax.weights.lora import _targets, merge_lora
from tests.support import error, nhwc
from tests.torch_reference import noise, randomize
from tests.weights import tiny

pytestmark = pytest.mark.torch

UNET_LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "ff.net.0.proj", "conv1", "conv_in"]
TEXT_LAYERS = ["q_proj", "v_proj", "out_proj", "fc1"]
RANK, ALPHA, WEIGHT = 3, 2.0, 0.7


def adapted(model, layers):
    """Puts random LoRA layers into a PyTorch model; returns their state dict."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=layers)
    inject_adapter_in_model(config, model, "default")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return {name: value.clone() for name, value in get_peft_model_state_dict(model).items()}


def scaled(model, weight):
    """Sets how strongly peft's layers act."""
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling["default"] = weight * ALPHA / RANK


@pytest.fixture(scope="module")
def torch_models(tmp_path_factory):
    """A UNet and a text encoder, saved without the adapters that they then get."""
    folder = tmp_path_factory.mktemp("models")
    settings = {key: value for key, value in tiny.UNET.items() if not key.startswith("_")}
    unet = randomize(UNet2DConditionModel(**settings), 0, torch.float32)
    text = randomize(CLIPTextModel(CLIPTextConfig(**tiny.CLIP)), 1, torch.float32)
    unet.save_pretrained(folder / "unet")
    text.save_pretrained(folder / "text_encoder")
    files = {"unet": adapted(unet, UNET_LAYERS), "text_encoder": adapted(text, TEXT_LAYERS)}
    scaled(unet, WEIGHT)
    scaled(text, WEIGHT)
    return folder, unet, text, files


def peft_names(files):
    return {
        f"{part}.{name}": value
        for part, tensors in files.items()
        for name, value in tensors.items()
    }


def kohya_names(files):
    tensors = convert_state_dict_to_kohya(peft_names(files))
    for name in [name for name in tensors if name.endswith(".alpha")]:
        tensors[name] = torch.tensor(ALPHA)
    # transformers 5 leaves a level out of its names, which kohya's files have.
    return {name.replace("lora_te1_", "lora_te_text_model_"): x for name, x in tensors.items()}


def with_alphas(files):
    tensors = peft_names(files)
    ups = [name for name in tensors if ".lora_A." in name]
    return tensors | {name.replace(".lora_A.weight", ".alpha"): torch.tensor(ALPHA) for name in ups}


def diffusers_names(files):
    return {
        name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): value
        for name, value in with_alphas(files).items()
    }


def first_names(files):
    """As diffusers' first releases wrote them."""
    renamed = {}
    for name, value in with_alphas(files).items():
        if name.startswith("text_encoder"):
            name = name.replace("lora_A", "lora_linear_layer.down")
            name = name.replace("lora_B", "lora_linear_layer.up")
        elif ".attn" in name and ".alpha" not in name:
            name = name.replace(".to_out.0.", ".to_out.")
            for layer in ("to_q", "to_k", "to_v", "to_out"):
                name = name.replace(f".{layer}.lora_A", f".processor.{layer}_lora.down")
                name = name.replace(f".{layer}.lora_B", f".processor.{layer}_lora.up")
        renamed[name] = value
    return renamed


@functools.partial(jax.jit, static_argnums=0)
def both(graphs, states, sample, context, ids):
    unet, text = (nnx.merge(*pair) for pair in zip(graphs, states))
    return unet(sample, jnp.array([300.0]), context), text(ids).last_hidden_state


def outputs(models, sample, context, ids):
    graphs, states = zip(*(nnx.split(models[kind]) for kind in ("unet", "clip_text")))
    return both(graphs, states, nhwc(sample), jnp.asarray(context), jnp.asarray(ids))


@pytest.mark.parametrize(
    ("names", "metadata"),
    [
        (kohya_names, {}),
        (with_alphas, {}),
        (diffusers_names, {}),
        (first_names, {}),
        (peft_names, {"lora_adapter_metadata": f'{{"unet.lora_alpha": {ALPHA}, "unet.r": {RANK}, '
                      f'"text_encoder.lora_alpha": 9, "text_encoder.alpha_pattern": '
                      f'{{"fc1|(q|v|out)_proj": {ALPHA}}}}}'}),
    ],
    ids=["kohya", "peft", "diffusers", "diffusers-first", "peft-metadata"],
)  # fmt: skip
def test_merged_lora_changes_the_output_as_peft_does(torch_models, tmp_path, names, metadata):
    folder, unet, text, files = torch_models
    models = {kind: weights.load(kind, folder) for kind in ("unet", "clip_text")}
    inputs = noise(2, 1, 4, 8, 8), noise(3, 1, 5, 8), np.array([[18, 3, 7, 19, 19]])
    before, _ = outputs(models, *inputs)
    save_file(names(files), tmp_path / "lora.safetensors", metadata)
    merged = merge_lora(models, tmp_path / "lora.safetensors", WEIGHT)
    assert merged == sum(map(len, files.values())) // 2
    prediction, states = outputs(models, *inputs)
    with torch.no_grad():
        sample, context = (torch.from_numpy(array).float() for array in inputs[:2])
        theirs = unet(sample, torch.tensor([300]), context).sample
        hidden = text(torch.from_numpy(inputs[2])).last_hidden_state
    assert error(prediction, theirs) <= 1e-5
    assert error(states, hidden) <= 1e-5
    assert error(before, theirs) > 0.1  # it does something


def test_merging_with_the_negative_weight_takes_a_lora_away(torch_models, tmp_path):
    folder, _, _, files = torch_models
    model = weights.load("unet", folder)
    save_file(peft_names({"unet": files["unet"]}), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(f'{{"lora_alpha": {ALPHA}, "r": {RANK}}}')
    before = np.asarray(model.conv_in.kernel)
    merge_lora({"unet": model}, tmp_path, 0.5)
    assert np.abs(np.asarray(model.conv_in.kernel) - before).max() > 0.01
    merge_lora({"unet": model}, tmp_path, -0.5)
    np.testing.assert_allclose(np.asarray(model.conv_in.kernel), before, atol=1e-6)


def test_names_of_kohyas_xl_files_are_those_diffusers_reads(tmp_path):
    """Diffusers' own translation of the original blocks' names leads to the same layers."""
    folder = tmp_path / "unet"
    config = tiny.UNET_XL
    tiny.write_folder(folder, "unet", config, tiny.state_dict("unet", config))
    targets = _targets({"unet": weights.load("unet", folder)})
    original = {
        name: target
        for name, target in targets.items()
        if "_blocks_" in name and "_0_0_" not in name and ("input" in name or "output" in name)
        and "transformer" in name
    }  # fmt: skip
    assert len(original) > 50

    class Settings:
        layers_per_block = config["layers_per_block"]

    for name, target in original.items():
        key = f"{name}.lora_down.weight"
        (today,) = _maybe_map_sgm_blocks_to_diffusers({key: 0}, Settings)
        today = today.replace("input_", "down_").replace("output_", "up_")
        assert targets[today.removesuffix(".lora_down.weight")] is target


def wrong_files():
    pair = {"down": torch.ones(2, 8), "up": torch.ones(8, 2), "more": torch.ones(8, 2)}
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    fits = {f"{layer}.lora_{role}.weight": pair[role] for role in ("down", "up")}
    wide = {f"{layer}.lora_down.weight": torch.ones(2, 9), f"{layer}.lora_up.weight": pair["up"]}
    return {
        "no such layer": fits | {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight":
                                 pair["more"]},
        r"down \[2, 9\] and up \[8, 2\] are not for a weight \[8, 8\]": wide,
        "up is missing": {f"{layer}.lora_down.weight": pair["down"]},
        "neither up nor down of a plain LoRA": fits | {f"{layer}.dora_scale": torch.ones(1, 8)},
        "0 modules found": {"hada_w1_a": torch.ones(2, 2)},
    }  # fmt: skip


@pytest.mark.parametrize("message", wrong_files())
def test_merge_refuses_what_does_not_fit_and_changes_nothing(torch_models, tmp_path, message):
    model = weights.load("unet", torch_models[0])
    state = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model)))
    save_file(wrong_files()[message], tmp_path / "lora.safetensors")
    with pytest.raises(weights.WeightsError, match=message):
        merge_lora({"unet": model}, tmp_path / "lora.safetensors")
    jax.tree.map(np.testing.assert_array_equal, state, nnx.to_pure_dict(nnx.state(model)))


def test_merge_keeps_dtype_and_names_a_missing_file(torch_models, tmp_path):
    folder, _, _, files = torch_models
    model = weights.load("unet", folder, dtype=jnp.bfloat16)
    save_file(kohya_names({"unet": files["unet"]}), tmp_path / "lora.safetensors")
    merge_lora({"unet": model}, tmp_path / "lora.safetensors")
    assert model.conv_in.kernel.dtype == jnp.bfloat16
    with pytest.raises(weights.WeightsError, match="there is no LoRA file"):
        merge_lora({"unet": model}, tmp_path / "none.safetensors")
