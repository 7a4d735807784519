"""FireEdit's parts in the names of the programs they come from, both ways, to the bit."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file

from brushjax import weights
from brushjax.models.encoders.llama import Llama, LlamaConfig
from brushjax.models.fireedit.editor import FireEditConfig
from brushjax.models.fireedit.vlm import VLMConfig
from brushjax.nn import Keys, Shapes, lora
from brushjax.weights import fireedit
from brushjax.weights.adapters.ip_adapter import save_ip_adapter, with_ip_adapter
from brushjax.weights.fireedit import Parts, load_fireedit, save_fireedit
from tests.models.fireedit.golden import FOLDER, published_names
from tests.weights import tiny

pytestmark = pytest.mark.torch

REGIONS = {"channels": 8, "groups": 2, "pos_hidden": 4, "feature_dim": 6, "out_dim": 5}
PROPOSER = {"dino_dim": 6, "d_model": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 2}
CONFIGS = {
    "proposer": PROPOSER | {"ffn": 4, "n_points": 2, "queries": 3, "bbox_hidden": 4},
    "region_encoder": REGIONS | {"roi_output_size": 2, "num_fuse": 2},
    "bridge": {"vision_dim": 4, "llm_dim": 5},
    "qformer": {
        "hidden": 4,
        "heads": 2,
        "layers": 3,
        "ffn": 6,
        "encoder_width": 5,
        "num_queries": 3,
    },
    "tati": {"time_channel": 6, "time_embed_dim": 5, "width": 4, "heads": 2, "input_dim": 3},
    "resampler": {"dim": 4, "depth": 1, "dim_head": 3, "heads": 2, "embedding_dim": 5},
    "hvca": {"width": 4, "heads": 2, "dim_head": 3, "clip_dim": 5, "dino_dim": 6},
}
UNET = tiny.UNET | {"in_channels": 8, "visual_cross_attention_dim": 5}


def with_copies(kind, tensors):
    """What a file of the source holds: some tensors twice."""
    names = weights.maps.MAPS[kind].names_of
    return {
        other: value if value is None else value.clone()  # safetensors refuses shared memory
        for name, value in tensors.items()
        for other in names(name)
    }


@pytest.mark.parametrize("kind", CONFIGS)
def test_part_keeps_every_bit_through_every_layout(kind, tmp_path):
    config = CONFIGS[kind]
    original = tiny.random_bits(kind, config)
    source = tiny.write_folder(tmp_path / "a", kind, config, with_copies(kind, original))
    weights.save(weights.load(kind, source, dtype=None), tmp_path / "b")
    weights.convert(kind, tmp_path / "b", tmp_path / "c", layout="orbax")
    weights.convert(kind, tmp_path / "c", tmp_path / "d.safetensors", layout="ldm")
    weights.convert(kind, tmp_path / "d.safetensors", tmp_path / "e")
    for file in (tmp_path / "b/model.safetensors", tmp_path / "d.safetensors"):
        assert tiny.same(load_file(file), with_copies(kind, original))
    assert tiny.same(load_file(tmp_path / "e/model.safetensors"), with_copies(kind, original))
    assert len({value.dtype for value in original.values()}) > 1 or kind == "bridge"


def test_proposer_is_written_with_every_name_that_groma_has():
    written = with_copies("proposer", dict.fromkeys(tiny.shapes("proposer", {})))
    assert written.keys() == published_names("proposer").keys()


def test_qformer_leaves_out_what_smartedit_keeps_beside_it(tmp_path):
    file = FOLDER / "qformer" / "model.safetensors"
    config = json.loads((file.parent / "config.json").read_text())
    left_out = {row.name for row in weights.list_tensors("qformer", file) if row.ignored}
    assert left_out == set(config["ignore_keys"])
    weights.convert("qformer", file, tmp_path / "out", config=config)
    kept = load_file(tmp_path / "out/model.safetensors")
    assert kept.keys() == load_file(file).keys() - left_out


def test_parts_load_from_one_file_of_groma_and_from_its_config(tmp_path):
    originals = {
        kind: tiny.state_dict(kind, CONFIGS[kind]) for kind in ("bridge", "region_encoder")
    }
    both = originals["bridge"] | originals["region_encoder"]
    save_file(both | {"model.norm.weight": torch.ones(3)}, tmp_path / "groma.safetensors")
    for kind, original in originals.items():
        found = weights.read(kind, tmp_path / "groma.safetensors", CONFIGS[kind])
        assert found.tensors.keys() == original.keys()
        assert "another part of Groma" in found.ignored.values()
    config = {"architectures": ["GromaModel"], "model_type": "groma", "llm_cfg": {"a": 1}}
    tiny.write_folder(tmp_path / "folder", "bridge", config, both)
    with pytest.raises(weights.WeightsError, match=r"(?s)wrong shape.*expected \[4096, 4096\]"):
        weights.load("bridge", tmp_path / "folder")


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A UNet without a second stream, and the tensors of one that has it."""
    folder = tmp_path_factory.mktemp("unet")
    tensors = tiny.state_dict("unet", UNET)
    plain = {name: value for name, value in tensors.items() if "_ip." not in name}
    config = {key: value for key, value in UNET.items() if key != "visual_cross_attention_dim"}
    return weights.load("unet", tiny.write_folder(folder, "unet", config, plain)), tensors


@pytest.mark.parametrize("names", ["numbered", "diffusers"])
def test_second_stream_keeps_every_bit_in_both_programs_names(unet, names, tmp_path):
    model, tensors = unet
    second = {name: value for name, value in tensors.items() if "_ip." in name}
    source = tiny.write_folder(tmp_path / "whole", "unet", UNET, tensors)
    save_ip_adapter(weights.load("unet", source), tmp_path / "ip.safetensors", names=names)
    written = load_file(tmp_path / "ip.safetensors")
    assert len(written) == len(second)
    again = with_ip_adapter(model, tmp_path / "ip.safetensors")
    weights.save(again, tmp_path / "again")
    assert tiny.same(load_file(tmp_path / "again/diffusion_pytorch_model.safetensors"), tensors)


def test_second_stream_reads_ip_adapters_pickle(unet, tmp_path):
    model, tensors = unet
    source = tiny.write_folder(tmp_path / "whole", "unet", UNET, tensors)
    save_ip_adapter(weights.load("unet", source), tmp_path / "ip.safetensors")
    numbered = load_file(tmp_path / "ip.safetensors")
    nested = {name.removeprefix("ip_adapter."): value for name, value in numbered.items()}
    picture = {"proj.weight": torch.ones(2)}
    torch.save({"image_proj": picture, "ip_adapter": nested}, tmp_path / "ip.bin")
    again = with_ip_adapter(model, tmp_path / "ip.bin")
    weights.save(again, tmp_path / "again")
    assert tiny.same(load_file(tmp_path / "again/diffusion_pytorch_model.safetensors"), tensors)


def test_second_stream_that_does_not_fit_is_an_error_that_names_it(unet, tmp_path):
    model, tensors = unet
    source = tiny.write_folder(tmp_path / "whole", "unet", UNET, tensors)
    save_ip_adapter(weights.load("unet", source), tmp_path / "ip.safetensors")
    numbered = load_file(tmp_path / "ip.safetensors")
    numbered["ip_adapter.99.to_k_ip.weight"] = numbered.pop("ip_adapter.1.to_k_ip.weight")
    save_file(numbered, tmp_path / "odd.safetensors")
    with pytest.raises(weights.WeightsError, match=r"attn2\.to_k_ip\.weight is missing"):
        with_ip_adapter(model, tmp_path / "odd.safetensors")
    with pytest.raises(weights.WeightsError, match="no second stream"):
        save_ip_adapter(model, tmp_path / "none.safetensors")


def test_second_stream_has_ip_adapters_numbers_at_full_size():

    from brushjax.models import UNet, UNetConfig
    from brushjax.weights.adapters.ip_adapter import _places

    unet = nnx.eval_shape(lambda: UNet(UNetConfig.sd15(8), rngs=Shapes()))
    published = json.loads((FOLDER / "ip_attention/sd15_ip_adapter_index.json").read_text())
    assert {f"{place}.attn2": number for number, place in _places(unet).items()} == published


def test_unet_saved_by_diffusers_with_a_second_stream_is_read(tmp_path):
    tensors = tiny.state_dict("unet", UNET)
    theirs = {name.replace(".to_k_ip.", ".processor.to_k_ip.0."): v for name, v in tensors.items()}
    theirs = {name.replace(".to_v_ip.", ".processor.to_v_ip.0."): v for name, v in theirs.items()}
    found = weights.read("unet", tiny.write_folder(tmp_path / "unet", "unet", UNET, theirs))
    assert found.tensors.keys() == tensors.keys()
    np.testing.assert_array_equal(len(theirs), len(tensors))


ENCODER = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "image_size": 8}
ENCODER |= {"num_attention_heads": 2, "patch_size": 4}
LLAMA = {"architectures": ["LlamaForCausalLM"], "vocab_size": 9, "hidden_size": 8}
LLAMA |= {"intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2}
WHOLE = {kind: config for kind, config in CONFIGS.items() if kind != "resampler"} | {
    "unet": UNET,
    "vae": tiny.VAE,
    "dino": ENCODER | {"_class_name": "DINO"},
    "clip_vision": ENCODER | {"_class_name": "CLIPVisionModelWithProjection", "projection_dim": 0},
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Every part, tiny; the language model with updates and new tokens."""
    folder = tmp_path_factory.mktemp("parts")
    models = {}
    for kind, config in WHOLE.items():
        tensors = with_copies(kind, tiny.state_dict(kind, config))
        models[kind] = weights.load(kind, tiny.write_folder(folder / kind, kind, config, tensors))
    models["llama"] = llama = Llama(LlamaConfig.from_dict(LLAMA), rngs=Keys(0))
    llama.add_tokens(2)
    lora.add(llama, lora.LoRA(2, 4), rngs=Keys(1))
    llama.new_head[...] += 1.0
    null = jnp.ones((1, 3, 4))
    return Parts(models, FireEditConfig(visual_scale=0.5), VLMConfig(img_tokens=4), null)


def test_fireedit_folder_gives_back_every_part_and_how_they_are_joined(parts, tmp_path):
    save_fireedit(parts, tmp_path / "a")
    again = load_fireedit(tmp_path / "a")
    assert (again.edit, again.sequence) == (parts.edit, parts.sequence)
    np.testing.assert_array_equal(again.null_context, parts.null_context)
    assert again.models.keys() == set(fireedit.PARTS) == parts.models.keys()
    for kind, model in parts.models.items():
        assert again.models[kind].config == model.config
        first, second = (nnx.state(m, nnx.Param) for m in (model, again.models[kind]))
        jax.tree.map(np.testing.assert_array_equal, first, second)


def test_fireedit_folder_finds_a_part_in_the_folder_that_it_names(parts, tmp_path):
    save_fireedit(parts, tmp_path / "a")
    save_fireedit(parts, tmp_path / "b", elsewhere={"vae": "../a"})
    assert not (tmp_path / "b/vae").exists()
    again = load_fireedit(tmp_path / "b")
    first, second = (nnx.state(m.models["vae"], nnx.Param) for m in (parts, again))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_fireedit_folder_converts_to_a_checkpoint_of_ours_and_back(parts, tmp_path):
    save_fireedit(parts, tmp_path / "a")
    weights.convert("fireedit", tmp_path / "a", tmp_path / "b", layout="orbax")
    weights.convert("fireedit", tmp_path / "b", tmp_path / "c")
    rows = list(weights.check("fireedit", tmp_path / "a", tmp_path / "c"))
    assert len(rows) > 200
    assert all(row.bit_equal for row in rows)
    adapter = "llm_adapter/adapter_model.safetensors"
    for name in ("model_index.json", "null_context.safetensors", adapter):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_fireedit_folder_that_lacks_a_part_is_an_error_that_names_it(parts, tmp_path):
    save_fireedit(parts, tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "hvca")
    with pytest.raises(weights.WeightsError, match="lacks parts of FireEdit: hvca/"):
        load_fireedit(tmp_path / "a")
    with pytest.raises(weights.WeightsError, match=r"is no FireEdit folder: expected model_index"):
        load_fireedit(tmp_path)
