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
from brushjax.weights.adapters.lora import merge, merge_lora
from brushjax.weights.adapters.lora_names import PREFIXES, layer_named, layers_of
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
    layers = layers_of({"unet": weights.load("unet", folder)})
    original = [
        name
        for _, name in layers
        if "_blocks_" in name and "_0_0_" not in name and ("input" in name or "output" in name)
        and "transformer" in name
    ]  # fmt: skip
    assert len(original) > 50

    class Settings:
        layers_per_block = config["layers_per_block"]

    for name in original:
        key = f"lora_unet_{name}.lora_down.weight"
        (today,) = _maybe_map_sgm_blocks_to_diffusers({key: 0}, Settings)
        today = today.replace("input_", "down_").replace("output_", "up_")
        layer = layers["unet", name]
        assert layer_named(layers, today.removesuffix(".lora_down.weight")) is layer


LAYERS = {
    "today": "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "original": "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
}
ENDINGS = {
    "kohya": ("lora_down.weight", "lora_up.weight"),
    "peft": ("lora_A.weight", "lora_B.weight"),
    "peft-hyphen": ("lora_A.my-style.weight", "lora_B.my-style.weight"),
    "bare": ("lora_A", "lora_B"),
    "diffusers": ("lora.down.weight", "lora.up.weight"),
    "first": ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight"),
}


def pair_file(path, prefix, layer, ending="kohya", width=8):
    """A LoRA of one layer, of rank 2 and alpha 1."""
    if prefix.endswith("_"):
        layer = layer.replace(".", "_")
    generator = torch.Generator().manual_seed(5)
    down, up = (torch.randn(*shape, generator=generator) for shape in ((2, width), (width, 2)))
    names = [f"{prefix}{layer}.{one}" for one in ENDINGS[ending]]
    save_file({names[0]: down, names[1]: up, f"{prefix}{layer}.alpha": torch.ones(())}, path)
    return (0.5 * up @ down).numpy()


USUAL = (
    "",
    "lora_unet_",
)  # the others run with -m slow: the table makes no difference between them


@pytest.mark.parametrize(
    "prefix",
    [
        prefix if prefix in USUAL else pytest.param(prefix, marks=pytest.mark.slow)
        for prefix in (*PREFIXES["unet"], "base_model.model.", "base_model.model.unet.")
    ],
)
def test_every_prefix_goes_with_every_layer_and_every_ending(torch_models, tmp_path, prefix):
    model = weights.load("unet", torch_models[0])
    kernel = model.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.kernel
    before = np.asarray(kernel[...])
    for layer in LAYERS.values():
        for ending in ENDINGS:
            change = pair_file(tmp_path / "x.safetensors", prefix, layer, ending)
            assert merge_lora({"unet": model}, tmp_path / "x.safetensors") == 1
            np.testing.assert_allclose(kernel[...], before + change.T, atol=2e-6)
            merge_lora({"unet": model}, tmp_path / "x.safetensors", -1)


@pytest.mark.parametrize("prefix", PREFIXES["clip_text"])
@pytest.mark.parametrize(
    "layer",
    [
        "text_model.encoder.layers.1.mlp.fc1",
        "encoder.layers.1.mlp.fc1",
        "transformer.text_model.encoder.layers.1.mlp.fc1",
        "transformer.resblocks.1.mlp.c_fc",
    ],
)
def test_every_prefix_of_one_text_encoder_is_known(torch_models, tmp_path, prefix, layer):
    model = weights.load("clip_text", torch_models[0])
    names = layers_of({"clip_text": model})
    spelled = prefix + (layer.replace(".", "_") if prefix.endswith("_") else layer)
    found = layer_named(names, spelled)
    assert found is not None
    assert found is names["clip_text", "text_model_encoder_layers_1_mlp_fc1"]


def test_second_encoders_layers_are_not_taken_for_the_firsts(torch_models):
    model = weights.load("clip_text", torch_models[0])
    both = layers_of(
        {"clip_text": model, "clip_text_2": weights.load("clip_text", torch_models[0])}
    )
    layer = "text_model_encoder_layers_1_mlp_fc1"
    for kind, prefixes in (("clip_text", ("lora_te1_",)), ("clip_text_2", ("lora_te2_",))):
        for prefix in prefixes:
            assert layer_named(both, prefix + layer) is both[kind, layer]
    assert layer_named(layers_of({"clip_text": model}), "lora_te2_" + layer) is None


def test_convolution_in_three_parts_and_plain_differences_are_added(torch_models, tmp_path):
    model = weights.load("unet", torch_models[0])
    generator = torch.Generator().manual_seed(2)
    conv = "lora_unet_down_blocks_0_resnets_0_conv1"
    shapes = {
        f"{conv}.lora_down.weight": (2, 8, 1, 1),
        f"{conv}.lora_mid.weight": (2, 2, 3, 3),
        f"{conv}.lora_up.weight": (8, 2, 1, 1),
        "lora_unet_input_blocks_0_0.diff": (8, 4, 3, 3),
        "lora_unet_conv_in.diff_b": (8,),
        "unet.down_blocks.0.resnets.0.norm1.w_norm": (8,),
        "unet.down_blocks.0.resnets.0.norm1.b_norm": (8,),
    }
    file = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    file[f"{conv}.alpha"] = torch.tensor(1.0)
    save_file(file, tmp_path / "x.safetensors")
    resnet = model.down_blocks[0].resnets[0]
    parameters = [resnet.conv1.kernel, resnet.norm1.scale, resnet.norm1.bias]
    before = [np.asarray(parameter[...]) for parameter in parameters]
    assert merge_lora({"unet": model}, tmp_path / "x.safetensors", 0.5) == 5
    with torch.no_grad():  # the three convolutions one after the other are the product
        picture = torch.randn(1, 8, 5, 5, generator=generator)
        down, mid, up = (file[f"{conv}.lora_{part}.weight"] for part in ("down", "mid", "up"))
        theirs = torch.nn.functional.conv2d(picture, down)
        theirs = torch.nn.functional.conv2d(theirs, mid)
        theirs = 0.5 * 0.5 * torch.nn.functional.conv2d(theirs, up)
        change = np.asarray(parameters[0][...]) - before[0]
        ours = torch.nn.functional.conv2d(picture, torch.from_numpy(change.transpose(3, 2, 0, 1)))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    norm = "unet.down_blocks.0.resnets.0.norm1"
    for parameter, old, name in zip(parameters[1:], before[1:], ("w_norm", "b_norm"), strict=True):
        added = 0.5 * file[f"{norm}.{name}"].numpy()
        np.testing.assert_allclose(parameter[...], old + added, atol=1e-6)


def test_embedding_that_comes_along_is_named_or_handed_back(torch_models, tmp_path):
    pair_file(tmp_path / "x.safetensors", "unet.", LAYERS["today"])
    from safetensors.torch import load_file

    bundle = {"bundle_emb.myword.string_to_param.*": torch.ones(2, 8)}
    save_file(load_file(tmp_path / "x.safetensors") | bundle, tmp_path / "x.safetensors")
    model = weights.load("unet", torch_models[0])
    with pytest.warns(UserWarning, match="brings embeddings for 'myword', which merging leaves"):
        merge_lora({"unet": model}, tmp_path / "x.safetensors")
    merged = merge({"unet": model}, tmp_path / "x.safetensors", -1)
    assert merged.embeddings["myword"]["string_to_param.*"].shape == (2, 8)


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
        "a DoRA's magnitude, which is not read": fits | {f"{layer}.dora_scale": torch.ones(1, 8)},
        "a LoHa's factor": {f"{layer}.hada_w1_a": torch.ones(2, 2)},
        "a LoKr's factor": fits | {f"{layer}.lokr_w1": torch.ones(2, 2)},
        "no part of a LoRA known here": fits | {f"{layer}.something": torch.ones(2, 2)},
        "0 modules found": {"hada_w1_a": torch.ones(2, 2)},
        r"diff \[8, 9\] is not for a parameter \[8, 8\]": {f"{layer}.diff": torch.ones(8, 9)},
        r"diff_b \[8\] is not for a parameter none": {f"{layer}.diff_b": torch.ones(8)},
        "twice, in two spellings": fits | {
            name.replace("lora_unet_down", "unet.down"): value.clone()
            for name, value in fits.items()
        },
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
