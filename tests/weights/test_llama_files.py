"""Files that hold a LLaMA: LLaVA's, sharded, tied, GGUF; and what is refused."""

import json

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from safetensors.torch import load_file, save_file

import brushjax
from brushjax import weights
from brushjax.nn import Keys, lora
from brushjax.weights import WeightsError, load_adapter, save_adapter
from tests.weights import tiny

pytestmark = pytest.mark.torch
LAYER = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def state():
    return tiny.state_dict("llama", tiny.LLAMA)


@pytest.fixture
def folder(tmp_path, state):
    return tiny.write_folder(tmp_path / "plain", "llama", tiny.LLAMA, state)


def parameters(model):
    return {path: leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model))}


def same(first, second):
    first, second = parameters(first), parameters(second)
    return first.keys() == second.keys() and all(
        jnp.array_equal(first[path], second[path]) for path in first
    )


def test_layers_are_joined_and_split_to_the_bit(folder, state, tmp_path):
    model = brushjax.load("llama", folder)
    stacked = model.model.layers.stack.mlp.up_proj.kernel[...]
    assert stacked.shape == (3, 8, 12)
    np.testing.assert_array_equal(stacked[1], state[LAYER].T)
    brushjax.save(model, tmp_path / "saved")
    assert tiny.same(load_file(tmp_path / "saved" / "model.safetensors"), state)


def test_shards_are_read_as_one_model(folder, state, tmp_path):
    names = sorted(state)
    index = {}
    (tmp_path / "shards").mkdir()
    for number in range(2):
        file = f"model-{number + 1:05}-of-00002.safetensors"
        part = {name: state[name] for name in names[number::2]}
        save_file(part, tmp_path / "shards" / file)
        index |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (tmp_path / "shards" / "model.safetensors.index.json").write_text(text)
    (tmp_path / "shards" / "config.json").write_text(json.dumps(tiny.LLAMA))
    assert same(brushjax.load("llama", tmp_path / "shards"), brushjax.load("llama", folder))


@pytest.mark.parametrize("names", ["hub", "later", "original"])
def test_language_model_of_llava_is_read(names, folder, state, tmp_path):
    def renamed(name):
        if names == "hub":
            return f"language_model.{name}"
        later = name.replace("model.", "model.language_model.", 1)
        return later if names == "later" and name != "lm_head.weight" else name

    pictures = {"hub": "", "later": "model.", "original": "model."}[names]
    bridge = (
        "mm_projector.0.weight" if names == "original" else "multi_modal_projector.linear_1.weight"
    )
    others = {
        f"{pictures}vision_tower.vision_model.embeddings.class_embedding": torch.zeros(8),
        f"{pictures}{bridge}": torch.zeros(8, 8),
    }
    found = {renamed(name): value for name, value in state.items()} | others
    if names == "original":
        config = tiny.LLAMA | {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava"}
        config |= {"mm_hidden_size": 8, "mm_projector_type": "mlp2x_gelu", "use_mm_proj": True}
    else:
        text = tiny.LLAMA | {"temperature": 1.0, "top_k": 50, "torch_dtype": "float16"}
        config = {"architectures": ["LlavaForConditionalGeneration"], "text_config": text}
        config |= {"model_type": "llava", "vision_config": {"hidden_size": 8}}
    tiny.write_folder(tmp_path / "llava", "llama", config, found)
    model = brushjax.load("llama", tmp_path / "llava")
    assert same(model, brushjax.load("llama", folder))
    weights.convert("llama", tmp_path / "llava", tmp_path / "language")
    language = tmp_path / "language"
    again = transformers.LlamaForCausalLM.from_pretrained(language, dtype=torch.float32)
    assert torch.equal(again.state_dict()[LAYER], state[LAYER])


def test_whole_llava_of_transformers_is_read(tmp_path):
    text = {name: value for name, value in tiny.LLAMA.items() if name != "architectures"}
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    vision |= {
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
        "model_type": "clip_vision_model",
    }
    config = transformers.LlavaConfig(text_config=text, vision_config=vision)
    reference = transformers.LlavaForConditionalGeneration(config)
    reference.save_pretrained(tmp_path)
    model = brushjax.load("llama", tmp_path)
    expected = reference.model.language_model.layers[1].mlp.up_proj.weight
    np.testing.assert_array_equal(
        model.model.layers.stack.mlp.up_proj.kernel[...][1], expected.detach().T
    )


def test_tied_head_and_old_buffers_are_left_out(state, tmp_path):
    frequencies = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(1)}
    config = tiny.LLAMA | {"tie_word_embeddings": True}
    folder = tiny.write_folder(tmp_path / "tied", "llama", config, state | frequencies)
    assert brushjax.load("llama", folder).lm_head is None
    whole = tiny.write_folder(tmp_path / "whole", "llama", tiny.LLAMA, state | frequencies)
    np.testing.assert_array_equal(
        brushjax.load("llama", whole).lm_head.kernel[...], state["lm_head.weight"].T
    )


def test_missing_and_misshaped_layers_are_named(state, tmp_path):
    broken = {name: value for name, value in state.items() if name != LAYER}
    broken["model.layers.2.mlp.down_proj.weight"] = torch.zeros(8, 13)
    folder = tiny.write_folder(tmp_path / "broken", "llama", tiny.LLAMA, broken)
    with pytest.raises(WeightsError) as caught:
        brushjax.load("llama", folder)
    message = str(caught.value)
    assert f"missing (1):\n    {LAYER} [12, 8]" in message
    assert "model.layers.2.mlp.down_proj.weight: expected [8, 12], got [8, 13]" in message


def test_file_without_a_config_asks_for_it(folder, state, tmp_path):
    save_file(state, tmp_path / "alone.safetensors")
    with pytest.raises(WeightsError, match=r"how many heads.*config="):
        brushjax.load("llama", tmp_path / "alone.safetensors")
    model = brushjax.load("llama", tmp_path / "alone.safetensors", config=tiny.LLAMA)
    assert same(model, brushjax.load("llama", folder))


def test_new_token_rows_travel_with_the_model(folder, tmp_path):
    model = brushjax.load("llama", folder)
    model.add_tokens(2)
    brushjax.save(model, tmp_path / "saved")
    again = brushjax.load("llama", tmp_path / "saved")
    assert again.config.new_tokens == 2
    assert same(again, model)


def test_model_with_updates_or_int8_is_not_saved_as_plain(folder, tmp_path):
    model = brushjax.load("llama", folder)
    lora.add(model, lora.LoRA(rank=2), rngs=Keys(0))
    with pytest.raises(WeightsError, match=r"expected a model with plain matrices.*save_adapter"):
        brushjax.save(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_adapter_keeps_every_bit_and_the_new_rows(folder, tmp_path):
    model = brushjax.load("llama", folder)
    lora.add(model, lora.LoRA(rank=2, alpha=6, targets=r".*\.(q_proj|down_proj)"), rngs=Keys(0))
    model.add_tokens(2)
    save_adapter(model, tmp_path / "adapter", base="org/name")
    notes = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (notes["r"], notes["lora_alpha"]) == (2, 6)
    assert notes["target_modules"] == ["down_proj", "q_proj"]
    again = brushjax.load("llama", folder)
    load_adapter(again, tmp_path / "adapter")
    assert same(again, model)


@pytest.mark.parametrize("fault", ["dora", "ranks", "shape", "layer", "factor", "no file"])
def test_adapter_that_does_not_fit_is_refused_and_changes_nothing(fault, folder, tmp_path):
    model = brushjax.load("llama", folder)
    lora.add(model, lora.LoRA(rank=2), rngs=Keys(0))
    place = tmp_path / "adapter"
    save_adapter(model, place)
    notes = json.loads((place / "adapter_config.json").read_text())
    tensors = load_file(place / "adapter_model.safetensors")
    root = "base_model.model.model.layers.1.self_attn.q_proj.lora"
    if fault == "dora":
        notes["use_dora"] = True
    if fault == "ranks":
        notes["rank_pattern"] = {"q_proj": 4}
    if fault == "shape":
        notes["r"] = 4
    if fault == "layer":
        tensors[root.replace("q_proj", "x_proj") + "_A.weight"] = torch.zeros(2, 8)
    if fault == "factor":
        del tensors[f"{root}_B.weight"]
    (place / "adapter_config.json").write_text(json.dumps(notes))
    save_file(tensors, place / "adapter_model.safetensors")
    if fault == "no file":
        (place / "adapter_model.safetensors").unlink()
    plain = brushjax.load("llama", folder)
    with pytest.raises(WeightsError, match=r"plain low-rank|does not fit|has no adapter_model"):
        load_adapter(plain, place)
    assert same(plain, brushjax.load("llama", folder))


def write_gguf(path, state, config, kinds, architecture="llama"):
    """Writes what llama.cpp's converter does: other names, another order of heads' rows."""
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k"}
    names |= {"self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"}
    names |= {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    names |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {"model.layers": "blk", "model.embed_tokens": "token_embd"}
    names |= {"model.norm": "output_norm", "lm_head": "output"}
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_context_length(64)
    writer.add_rope_freq_base(5e4)
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_token_list([str(number) for number in range(config["vocab_size"])])
    for name, value in state.items():
        array = value.numpy()
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        for part, key in heads.items():
            if part in name:
                rows = array.reshape(config[key], 2, -1, array.shape[-1])
                array = rows.swapaxes(1, 2).reshape(array.shape)
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        kind = kinds(name)
        array = array.astype(np.float32)
        packed = array if kind == gguf.GGMLQuantizationType.F32 else gguf.quantize(array, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


WIDE = tiny.LLAMA | {"hidden_size": 32, "intermediate_size": 64, "rms_norm_eps": 1e-5}


@pytest.mark.parametrize("tied", [False, True])
def test_gguf_is_read_with_its_settings_and_dequantised(tied, tmp_path):
    config = WIDE | {"tie_word_embeddings": tied, "rope_theta": 5e4}
    state = tiny.state_dict("llama", config)
    plain = brushjax.load("llama", tiny.write_folder(tmp_path / "plain", "llama", config, state))
    types = gguf.GGMLQuantizationType
    write_gguf(tmp_path / "m.gguf", state, config, lambda name: types.F32)
    model = brushjax.load("llama", tmp_path / "m.gguf")
    assert same(model, plain)
    assert model.config == plain.config

    def kinds(name):
        return types.F32 if "norm" in name else types.F16 if "attn" in name else types.Q8_0

    write_gguf(tmp_path / "q.gguf", state, config, kinds)
    packed = parameters(brushjax.load("llama", tmp_path / "q.gguf"))
    for path, value in parameters(plain).items():
        bound = 0 if "norm" in str(path) else 1e-3 if "self_attn" in path else 8e-3
        assert jnp.abs(packed[path] - value).max() <= bound * jnp.abs(value).max()


def test_gguf_of_another_network_or_cut_short_is_refused(tmp_path):
    state = tiny.state_dict("llama", WIDE)
    types = gguf.GGMLQuantizationType
    write_gguf(tmp_path / "m.gguf", state, WIDE, lambda name: types.F32, architecture="mamba")
    with pytest.raises(WeightsError, match="architecture 'mamba'; expected 'llama'"):
        brushjax.load("llama", tmp_path / "m.gguf")
    write_gguf(tmp_path / "n.gguf", state, WIDE, lambda name: types.F32)
    cut = (tmp_path / "n.gguf").read_bytes()[:-5000]
    (tmp_path / "n.gguf").write_bytes(cut)
    with pytest.raises(WeightsError, match="damaged GGUF"):
        brushjax.load("llama", tmp_path / "n.gguf")
