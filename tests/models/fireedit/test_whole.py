"""FireEdit from the picture's features and the sequence on, the language model included."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import brushjax
from brushjax.models.fireedit import vlm
from brushjax.weights.adapters.peft import load_adapter
from tests.models.fireedit.golden import deviation, named
from tests.models.fireedit.test_editor import (
    WHOLE,
    dino_tokens,
    edit,
    editor,
    golden,
    hidden,
    region_mask,
    sequence,
    tokens,
)
from tests.models.fireedit.test_unet import nchw, nhwc

__all__ = ["dino_tokens", "editor", "golden"]  # fixtures that the tests below ask for


@pytest.fixture(scope="module")
def llama(golden, tmp_path_factory):
    """The base with its low-rank updates and its rows of new tokens."""
    c, folder = golden.config, tmp_path_factory.mktemp("adapter")
    config = {"vocab_size": c["base_vocab"], "hidden_size": c["llm_dim"]}
    config |= {"intermediate_size": c["llm_ffn"], "num_hidden_layers": c["llm_layers"]}
    config |= {"num_attention_heads": c["llm_heads"], "rope_theta": c["rope_theta"]}
    config |= {"rms_norm_eps": c["rms_norm_eps"]}
    model = brushjax.load("llama", golden.folder / "llm.safetensors", config=config)
    settings = {"peft_type": "LORA", "r": c["lora"]["r"], "lora_alpha": c["lora"]["alpha"]}
    settings |= {"target_modules": c["lora"]["targets"], "bias": "none", "fan_in_fan_out": False}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        load_file(golden.folder / "adapter.safetensors"), folder / "adapter_model.safetensors"
    )
    rows = {name: tokens(golden)[name] for name in ("new_embed", "new_head")}
    save_file(rows, folder / "new_tokens.safetensors")
    load_adapter(model, folder)
    return model


@pytest.fixture(scope="module")
def whole(editor, llama):
    editor.llama = llama
    return editor


def understood(golden, whole, plan):
    mask = region_mask(golden)
    image, regions = whole.see(hidden(golden), golden["boxes"], mask)
    return whole.understand(plan, image, regions, mask)


@pytest.fixture(scope="module")
def read(golden, whole):
    """What the compiled language model and Q-Former make of a sequence, and the answer's loss."""

    @jax.jit
    def run(whole, plan):
        known = understood(golden, whole, plan)
        chosen, labels, there = vlm.answers(whole.sequence, plan, known.states)
        loss, count = vlm.answer_loss(whole.llama.logits(chosen), labels, there)
        return known, loss / count

    return lambda prefix="": run(whole, sequence(golden, prefix))


def test_whole_reads_an_edit_as_stored(golden, read):
    """What follows from the states is compared in test_editor.py."""
    known, answer = read()
    seen = np.asarray(golden.io["attention_mask"], bool)
    states = np.where(seen[..., None], known.states, 0)
    assert deviation(states, golden.io["edit/hidden"]) <= WHOLE
    assert deviation(known.features, golden.io["edit/f"]) <= WHOLE
    np.testing.assert_allclose(answer, golden.io["edit/L_vlm"], rtol=1e-5)


@pytest.mark.slow  # its two halves are compared always
def test_whole_equals_the_stored_edit(golden, whole, read):
    known, answer = read()
    run = jax.jit(lambda whole, states: edit(golden, whole, states))
    _, conditions, out = run(whole, known.states)
    assert deviation(conditions.context, golden.io["edit/e_t"]) <= WHOLE
    assert deviation(conditions.visual, golden.io["edit/v"]) <= WHOLE
    assert deviation(nchw(out), golden.io["edit/unet_out"]) <= WHOLE
    noise = jnp.mean((out - nhwc(golden["noise"])) ** 2)
    np.testing.assert_allclose(answer + noise, golden.io["edit/L_total"], rtol=1e-5)


def test_whole_answers_a_question_without_img_tokens(golden, read):
    known, answer = read("vqa/")
    np.testing.assert_allclose(answer, golden.io["vqa/L_vlm"], rtol=1e-5)
    edits = golden.io["vqa/is_edit"] > 0
    np.testing.assert_array_equal(known.tokens_mask.any(1), edits)
    assert np.isfinite(known.features).all()


@pytest.mark.slow  # the language model has its own test of unused places
def test_empty_places_for_regions_change_nothing(golden, whole):
    """A sequence with as many places as regions reads as one with places to spare."""
    plan, mask = sequence(golden), np.asarray(region_mask(golden))
    image, regions = whole.see(hidden(golden), golden["boxes"], jnp.asarray(mask))
    row = int(np.argmin(mask.sum(1)))
    kept = ~((plan.kind[row] == vlm.REGION) & (plan.index[row] >= mask[row].sum()))
    exact = jax.tree.map(lambda x: x[row : row + 1][:, kept], plan)
    run = jax.jit(lambda whole, *inputs: whole.understand(*inputs).features)
    one = slice(row, row + 1)
    full = run(whole, jax.tree.map(lambda x: x[one], plan), image[one], regions[one], mask[one])
    count = int(mask[row].sum())
    short = run(whole, exact, image[one], regions[one, :count], mask[one, :count])
    assert deviation(short, full) <= WHOLE


def lora_name(name):
    """Returns peft's name of a factor's gradient, without the layer's number."""
    return f"adapter.safetensors:base_model.model.{name}"


@pytest.mark.slow  # a minute of compiling
def test_whole_gradients_before_the_language_models_states_equal_the_stored_ones(golden, whole):
    """Of the adapter, the regions' last layer, the low-rank updates and the new tokens."""
    stored = np.load(golden.folder / "grads.npz")
    norms = dict(zip(stored["edit/all_names"], stored["edit/all_grad_norms"], strict=True))
    graph, state = nnx.split(whole)
    noise, plan = nhwc(golden["noise"]), sequence(golden)

    @jax.jit
    def gradient(params):
        def loss(params):
            model = nnx.merge(graph, params)
            known = understood(golden, model, plan)
            out = edit(golden, model, known.states)[-1]
            chosen, labels, there = vlm.answers(model.sequence, plan, known.states)
            total, count = vlm.answer_loss(model.llama.logits(chosen), labels, there)
            return total / count + jnp.mean((out - noise) ** 2)

        return jax.grad(loss)(params)

    tree = gradient(nnx.to_pure_dict(state))
    ours = {f"groma.safetensors:{k}": v for k, v in named(tree["bridge"]).items()}
    updims = {k: v for k, v in named(tree["region_encoder"]).items() if ".updims." in k}
    ours |= {f"groma.safetensors:{k}": v for k, v in updims.items()}
    for name, value in named(tree["llama"]).items():
        if name in ("new_embed", "new_head"):
            ours[f"tokens.safetensors:{name}"] = value
        elif ".lora_" in name:
            layers = enumerate(value)
            ours |= {lora_name(name.replace("*", str(i))): layer for i, layer in layers}
    assert len(ours) == 4 + 2 + 2 + 4 * golden.config["llm_layers"]
    total = stored["edit/total_grad_norm"]
    for name, value in ours.items():
        assert abs(np.linalg.norm(value) - norms[name]) <= 1e-4 * norms[name] + 1e-6 * total, name
        if f"edit/grad/{name}" in stored.files:
            assert deviation(value, stored[f"edit/grad/{name}"]) <= WHOLE, name
