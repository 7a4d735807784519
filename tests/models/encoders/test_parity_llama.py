"""LLaMA in float64 against transformers and peft, through the folders that they write."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import peft
import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama import modeling_llama

import brushjax
from brushjax.models import LlamaConfig
from brushjax.models.encoders.generation import generate
from brushjax.models.encoders.llama import Cache
from brushjax.nn import lora
from brushjax.nn.rotary import RotarySettings
from brushjax.weights import load_adapter, save_adapter
from tests.models.encoders.tiny_llama import arange, run
from tests.support import error
from tests.torch_reference import noise, randomize

pytestmark = [
    pytest.mark.torch,
    pytest.mark.usefixtures("float64", "precise"),
    # peft 0.21 asks transformers 5.23 by a name that it no longer likes.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

TOLERANCE = 1e-9  # of the output's standard deviation
SETTINGS = {
    "vocab_size": 17,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "attn_implementation": "sdpa",  # eager takes its softmax in float32
}
VARIANTS = {
    "plain": {"num_key_value_heads": 4},
    "grouped": {},
    "tied": {"tie_word_embeddings": True, "rms_norm_eps": 1e-3},
    "biased": {"attention_bias": True, "mlp_bias": True},
    "wide-heads": {"head_dim": 6, "num_key_value_heads": 1},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
}
MASKS = {
    "full": [[1] * 9] * 2,
    "right": [[1] * 9, [1] * 6 + [0] * 3],
    "left": [[0] * 4 + [1] * 5, [1] * 9],
    "hole": [[1, 1, 1, 0, 0, 1, 1, 1, 1], [1, 0, 1, 1, 1, 1, 1, 0, 0]],
}


@pytest.fixture
def precise(monkeypatch):
    """Has transformers compute norms and angles in float64, which it does in float32 always."""

    def norm(self, x):
        return (
            self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)
        )

    def angles(self, x, position_ids):
        settings, width = self.config.rope_parameters, self.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float64) / width
        turns = settings["rope_theta"] ** -exponents / settings.get("factor", 1.0)
        found = torch.cat([position_ids[..., None].double() * turns] * 2, dim=-1)
        return found.cos(), found.sin()

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", angles)


def reference_of(folder, **settings):
    """Makes a model of transformers and writes its folder; returns it and ours."""
    config = transformers.LlamaConfig(**(SETTINGS | settings))
    reference = randomize(transformers.LlamaForCausalLM(config))
    reference.save_pretrained(folder)
    return reference, brushjax.load("llama", folder, dtype=jnp.float64)


def states_of(reference, embeddings, mask, positions):
    """The states behind the final norm and the logits of a model of transformers or peft."""
    out = reference(
        inputs_embeds=torch.tensor(embeddings),
        attention_mask=torch.tensor(mask),
        position_ids=torch.tensor(positions),
        output_hidden_states=True,
    )
    return out.hidden_states[-1], out.logits


@pytest.mark.parametrize("variant", VARIANTS)
def test_llama_equals_transformers(variant, tmp_path):
    reference, model = reference_of(tmp_path, **VARIANTS[variant])
    embeddings = noise(0, 2, 9, 16)
    for mask in map(np.array, MASKS.values()):
        seen = jnp.asarray(mask, bool)
        counted = np.maximum(np.cumsum(mask, 1) - 1, 0)
        for positions, ours in ((counted, None), (np.array(arange(mask)), arange(seen))):
            states = run(model, jnp.asarray(embeddings), seen, ours)
            expected, logits = states_of(reference, embeddings, mask, positions)
            assert states.dtype == jnp.float64
            rows = np.nonzero(mask)
            assert error(states[rows], expected[rows]) <= TOLERANCE
            assert error(model.logits(states)[rows], logits[rows]) <= TOLERANCE


@pytest.mark.parametrize("mask", MASKS)
def test_cached_llama_equals_transformers_cached_and_uncached(mask, tmp_path):
    """Four tokens at once, then one after the other; places for more stay empty."""
    reference, model = reference_of(tmp_path)
    embeddings, mask = noise(0, 2, 9, 16), np.array(MASKS[mask])
    positions, rows = np.maximum(np.cumsum(mask, 1) - 1, 0), np.nonzero(mask)
    read = jax.jit(lambda model, *inputs: model.read(*inputs))
    ours, theirs, past = [], [], transformers.DynamicCache()
    cache = Cache.empty(model.config, 2, 12, jnp.float64)
    for start, stop in [(0, 4), *((i, i + 1) for i in range(4, 9))]:
        new = embeddings[:, start:stop]
        states, cache = read(model, jnp.asarray(new), mask[:, start:stop].astype(bool), cache)
        ours.append(states)
        out = reference(
            inputs_embeds=torch.tensor(new),
            attention_mask=torch.tensor(mask[:, :stop]),
            position_ids=torch.tensor(positions[:, start:stop]),
            past_key_values=past,
            use_cache=True,
            output_hidden_states=True,
        )
        theirs.append(out.hidden_states[-1])
    states = jnp.concatenate(ours, axis=1)
    assert cache.filled == 9
    assert error(states[rows], torch.cat(theirs, 1)[rows]) <= TOLERANCE
    whole, logits = states_of(reference, embeddings, mask, positions)
    assert error(states[rows], whole[rows]) <= TOLERANCE
    assert error(model.logits(states)[rows], logits[rows]) <= TOLERANCE
    at_once = run(model, jnp.asarray(embeddings), mask.astype(bool))
    assert error(states[rows], at_once[rows]) <= TOLERANCE


def test_greedy_continuations_equal_transformers(tmp_path):
    reference, model = reference_of(tmp_path)
    texts = [[3, 1, 4, 1, 5], [9, 2], [6]]
    padded = np.array([[0] * (5 - len(text)) + text for text in texts])
    seen = np.array([[0] * (5 - len(text)) + [1] * len(text) for text in texts])
    asked = {"max_new_tokens": 20, "do_sample": False, "pad_token_id": 0}
    asked |= {"attention_mask": torch.tensor(seen)}
    expected = reference.generate(torch.tensor(padded), eos_token_id=None, **asked)[:, 5:].tolist()
    assert len({token for text in expected for token in text}) > 3
    assert generate(model, texts, 20) == expected
    end = expected[0][2]
    stopped = reference.generate(torch.tensor(padded), eos_token_id=end, **asked)[:, 5:].tolist()
    for new, text in zip(generate(model, texts, 20, end), stopped, strict=True):
        assert new == text[: len(new)]
        assert new[-1] == end or (len(new) == 20 and end not in new)


def test_embeddings_and_config_equal_transformers(tmp_path):
    reference, model = reference_of(tmp_path, tie_word_embeddings=True)
    ids = np.array([[1, 5, 16], [0, 2, 2]])
    expected = reference.get_input_embeddings()(torch.tensor(ids))
    np.testing.assert_array_equal(model.embed(jnp.asarray(ids)), expected)
    brushjax.save(model, tmp_path / "ours")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    for name, value in reference.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    for key in ("rope_parameters", "num_key_value_heads", "rms_norm_eps", "vocab_size"):
        assert getattr(again.config, key) == getattr(reference.config, key)


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_scaled_frequencies_equal_transformers(kind):
    rope = {"rope_type": kind, "rope_theta": 5e5, "factor": 8.0}
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"original_max_position_embeddings": 512}
    config = transformers.LlamaConfig(**(SETTINGS | {"head_dim": 64, "rope_parameters": rope}))
    expected, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    ours = RotarySettings.from_config(config.to_dict()).frequencies(64)
    assert scale == 1
    np.testing.assert_allclose(ours, expected, rtol=3e-6)  # theirs are computed in float32


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]]
)
@pytest.mark.parametrize("stabilised", [False, True])
def test_lora_equals_peft_both_ways(targets, stabilised, tmp_path):
    reference, model = reference_of(tmp_path / "base")
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, use_rslora=stabilised, task_type="CAUSAL_LM"
    )
    updated = peft.get_peft_model(reference, settings)
    for name, parameter in updated.named_parameters():
        if "lora_" in name:
            rng = np.random.default_rng(len(name))
            # Of float32's precision: peft reads adapters into float32.
            drawn = rng.standard_normal(parameter.shape, dtype=np.float32) * np.float32(0.3)
            parameter.data = torch.tensor(drawn).double()
    updated.save_pretrained(tmp_path / "adapter")
    embeddings, mask = noise(0, 2, 9, 16), np.array(MASKS["hole"])
    inputs = jnp.asarray(embeddings), jnp.asarray(mask, bool)
    positions, rows = np.maximum(np.cumsum(mask, 1) - 1, 0), np.nonzero(mask)
    expected, _ = states_of(updated.eval(), embeddings, mask, positions)

    assert model.lm_head.kernel[...].dtype == jnp.float64
    plain = run(model, *inputs)
    load_adapter(model, tmp_path / "adapter", dtype=jnp.float64)
    assert error(run(model, *inputs)[rows], expected[rows]) <= TOLERANCE
    assert error(plain[rows], expected[rows]) > 0.1

    save_adapter(model, tmp_path / "ours")
    base = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "base", attn_implementation="sdpa", dtype=torch.float64
    )
    again = peft.PeftModel.from_pretrained(base, tmp_path / "ours").eval().double()
    ours, _ = states_of(again, embeddings, mask, positions)
    assert error(ours[rows].numpy(), expected[rows]) <= TOLERANCE

    assert lora.merge(model) == len(targets)
    assert error(run(model, *inputs)[rows], expected[rows]) <= TOLERANCE


def test_config_reads_what_transformers_writes(tmp_path):
    config = transformers.LlamaConfig(**SETTINGS, rms_norm_eps=1e-5)
    ours = LlamaConfig.from_dict(config.to_dict() | {"architectures": ["LlamaForCausalLM"]})
    assert ours.rms_norm_eps == 1e-5
    assert dataclasses.replace(ours, rms_norm_eps=1e-6).kv_heads == 2
