"""LLaMA against goldens of transformers and peft, its own promises, and its size."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import brushjax
from brushjax.models import Llama, LlamaConfig
from brushjax.nn import Execution, Keys, executing, lora, quantize
from brushjax.weights import load_adapter
from tests.models.encoders.tiny_llama import TINY, arange, build, inputs, is_factor, run
from tests.support import GOLDEN, error

FOLDER = GOLDEN / "fireedit" / "llama_lora"
TOLERANCE = 5e-5  # of the standard deviation; PyTorch itself moves by 4e-6 from float64


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "io.npz") as stored:
        return {name: jnp.asarray(value) for name, value in stored.items()}


@pytest.fixture(scope="module")
def model():
    model = brushjax.load("llama", FOLDER / "base")
    load_adapter(model, FOLDER / "adapter")
    return model


@pytest.fixture(scope="module")
def tiny():
    return build()


def mean_loss(model, embeddings, mask, labels, positions):
    """The mean over supervised tokens of the next token's negative log-likelihood."""
    logits = model.logits(model(embeddings, mask, positions))[:, :-1]
    wanted = labels[:, 1:]
    chosen = jnp.maximum(wanted, 0)[..., None]
    losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=-1)[..., 0]
    return jnp.sum(losses, where=wanted >= 0) / jnp.sum(wanted >= 0)


def test_llama_equals_transformers_with_and_without_lora(golden, model):
    mask, embeddings = golden["attention_mask"].astype(bool), golden["inputs_embeds"]
    counted = golden["position_ids_cumsum"]
    np.testing.assert_array_equal(counted, np.maximum(np.cumsum(mask, 1) - 1, 0))
    written = mask[..., None]  # the goldens are 0 elsewhere
    states = run(model, embeddings, mask, arange(mask))
    assert error(states * written, golden["hidden_final_norm"]) <= TOLERANCE
    by_count = run(model, embeddings, mask)
    assert error(by_count * written, golden["hidden_final_norm_cumsum_positions"]) <= TOLERANCE
    logits = model.logits(states) * written
    assert error(logits, golden["logits"]) <= TOLERANCE
    ids = golden["input_ids"]
    of_ids = model.logits(model(model.embed(ids), jnp.ones_like(ids, bool)))
    assert error(of_ids, golden["logits_from_ids"]) <= TOLERANCE
    base = run(brushjax.load("llama", FOLDER / "base"), embeddings, mask, arange(mask))
    assert error(base * written, golden["hidden_final_norm_without_lora"]) <= TOLERANCE
    assert error(base * written, golden["hidden_final_norm"]) > 0.1


@pytest.mark.parametrize("rematerialise", ["nothing", "layers"])
def test_loss_and_gradients_of_lora_equal_pefts(golden, model, rematerialise):
    stored = np.load(FOLDER / "grads.npz")
    mask, labels = golden["attention_mask"].astype(bool), golden["labels"]
    graph, factors, rest = nnx.split(model, is_factor, ...)

    @jax.jit
    def run(factors, embeddings):
        def value(factors, embeddings):
            with executing(Execution(rematerialise=rematerialise)):
                merged = nnx.merge(graph, factors, rest)
                return mean_loss(merged, embeddings, mask, labels, arange(mask))

        return jax.value_and_grad(value, argnums=(0, 1))(factors, embeddings)

    loss, (slopes, of_input) = run(factors, golden["inputs_embeds"])
    assert abs(loss - golden["lm_loss"]) <= 1e-5 * golden["lm_loss"]
    assert error(of_input * mask[..., None], golden["input_grad"]) <= TOLERANCE
    norms = dict(zip(map(str, stored["all_names"]), stored["all_grad_norms"], strict=True))
    compared = 0
    for path, slope in nnx.to_flat_state(slopes):
        module, factor = ".".join(map(str, path[3:-2])), path[-2]
        for number, ours in enumerate(slope.get_value()):
            name = f"base_model.model.model.layers.{number}.{module}.{factor}.weight"
            # The stored arrays are twice what peft computes; the norms beside them are not.
            assert error(ours.T, stored[f"grad/{name}"] / 2) <= TOLERANCE
            np.testing.assert_allclose(jnp.linalg.norm(ours), norms[name], rtol=1e-4)
            compared += 1
    assert compared == len(norms)
    counted = jax.jit(mean_loss)(model, golden["inputs_embeds"], mask, labels, None)
    assert abs(counted - golden["lm_loss_cumsum_positions"]) <= 1e-5 * counted


def test_merged_lora_equals_unmerged(golden):
    model = brushjax.load("llama", FOLDER / "base")
    load_adapter(model, FOLDER / "adapter")
    assert lora.merge(model) == 2
    assert not any(is_factor(path, None) for path, _ in nnx.to_flat_state(nnx.state(model)))
    mask = golden["attention_mask"].astype(bool)
    states = run(model, golden["inputs_embeds"], mask, arange(mask)) * mask[..., None]
    assert error(states, golden["hidden_final_norm"]) <= TOLERANCE


def test_lora_starts_as_the_identity(tiny):
    updated = build()
    lora.add(updated, lora.LoRA(rank=2), rngs=Keys(1))
    values, mask = inputs()
    np.testing.assert_array_equal(run(updated, values, mask), run(tiny, values, mask))
    factors = updated.model.layers.stack.self_attn.q_proj.lora_B
    factors.kernel[...] += 0.1
    assert error(run(updated, values, mask), run(tiny, values, mask)) > 0.01


def test_full_size_counts_are_the_published_ones():
    def build():
        model = Llama(LlamaConfig.vicuna_7b(), rngs=Keys(0))
        lora.add(model, lora.LoRA(), rngs=Keys(1))
        model.add_tokens(35)
        return model

    counts = {"base": 0, "lora": 0, "rows": 0}
    for path, leaf in nnx.to_flat_state(nnx.state(nnx.eval_shape(build))):
        rows = path[-1] in ("new_embed", "new_head")
        part = "lora" if is_factor(path, None) else "rows" if rows else "base"
        counts[part] += int(np.prod(leaf.shape))
    assert counts == {"base": 6_738_415_616, "lora": 4_194_304, "rows": 2 * 35 * 4096}


def test_the_program_holds_one_layer_however_many_there_are():
    def size(layers):
        model = build(dataclasses.replace(TINY, num_hidden_layers=layers))
        return len(run.lower(model, *inputs()).as_text())

    assert size(24) <= 1.02 * size(2)


def test_unused_slots_and_padding_change_nothing(tiny):
    values, mask = inputs()
    states = run(tiny, values, mask)
    rng = np.random.default_rng(1)
    slots = jnp.asarray(rng.standard_normal((2, 5, 16)), jnp.float32)  # what stands there is free
    unused = jnp.zeros((2, 5), bool)
    places = {"left": 0, "middle": 3, "right": 7}
    for at in places.values():
        longer = jnp.concatenate([values[:, :at], slots, values[:, at:]], axis=1)
        seen = jnp.concatenate([mask[:, :at], unused, mask[:, at:]], axis=1)
        out = run(tiny, longer, seen)
        assert np.isfinite(out).all()
        kept = jnp.concatenate([out[:, :at], out[:, at + 5 :]], axis=1)
        assert error(kept, states) <= 1e-5
        by_place = run(tiny, longer, seen, arange(seen))
        moved = jnp.concatenate([by_place[:, :at], by_place[:, at + 5 :]], axis=1)
        # Rotary embeddings are relative: only a gap in the middle shows.
        assert (error(moved, states) > 0.05) == (at == 3)


def test_no_gradient_passes_to_unused_slots(tiny):
    values, mask = inputs()
    mask = mask.at[:, 2:4].set(False)

    def total(values, mask):
        return jnp.sum(jnp.cos(run(tiny, values, mask)), where=mask[..., None])

    slope = jax.grad(total)(values, mask)
    np.testing.assert_array_equal(slope[:, 2:4], 0)
    assert np.isfinite(slope).all()
    assert np.abs(slope[:, 0]).max() > 0
    nothing = jnp.zeros_like(mask)
    assert np.isfinite(run(tiny, values, nothing)).all()


def test_later_tokens_do_not_change_earlier_states(tiny):
    values, mask = inputs()
    states = run(tiny, values, mask)
    changed = run(tiny, values.at[:, 4:].add(1.0), mask)
    np.testing.assert_array_equal(changed[:, :4], states[:, :4])
    assert error(changed[:, 4:], states[:, 4:]) > 0.1


def test_logits_at_chosen_positions_are_those_of_all(tiny):
    values, mask = inputs()
    states = run(tiny, values, mask)
    chosen = tiny.logits(states[:, jnp.array([2, 5])])
    np.testing.assert_allclose(chosen, tiny.logits(states)[:, [2, 5]], rtol=0, atol=1e-6)
    assert tiny.logits(states.astype(jnp.bfloat16)).dtype == jnp.float32


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_have_rows_of_their_own(tied):
    model = build(dataclasses.replace(TINY, tie_word_embeddings=tied))
    ids = jnp.array([[3, 10, 11, 13]])
    known = model.embed(ids[:, :2])
    old_logits = model.logits(known)
    model.add_tokens(3)
    assert model.config.new_tokens == 3
    table = model.model.embed_tokens.embedding[...]
    rows = jnp.arange(3 * 16, dtype=jnp.float32).reshape(3, 16)
    np.testing.assert_allclose(model.new_embed[...], jnp.tile(table.mean(0), (3, 1)), atol=1e-7)
    model.new_embed = nnx.Param(rows)
    model.new_head = nnx.Param(rows + 1)
    embeddings = model.embed(ids)
    np.testing.assert_array_equal(embeddings[0, :2], known[0])
    np.testing.assert_array_equal(embeddings[0, 2:], rows[jnp.array([0, 2])])
    logits = model.logits(embeddings)
    assert logits.shape == (1, 4, 14)
    np.testing.assert_array_equal(logits[:, :2, :11], old_logits)
    expected = embeddings @ (rows + 1).T
    np.testing.assert_allclose(logits[..., 11:], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="expected no new tokens, got 3"):
        model.add_tokens(1)


def test_training_new_rows_forms_no_gradient_or_copy_of_the_table():
    model = build(dataclasses.replace(TINY, vocab_size=509, new_tokens=3))
    graph, rows, rest = nnx.split(model, lambda path, _: path[-1] in ("new_embed", "new_head"), ...)
    ids = jnp.array([[3, 10, 509, 511]])

    def loss(rows, rest):
        model = nnx.merge(graph, rows, rest)
        states = model(model.embed(ids), jnp.ones(ids.shape, bool))
        return jnp.sum(jnp.sin(model.logits(states)))

    slope = jax.jit(jax.grad(loss))
    program = str(slope.trace(rows, rest).jaxpr)
    made = [line.split(" = ")[0] for line in program.splitlines() if " = " in line]
    # The head's kernel is cast to its own dtype, which is no copy; nothing else has its size.
    assert not any("[509,16]" in line or "[512,16]" in line for line in made)
    slopes = slope(rows, rest)
    assert all(np.abs(slope).max() > 0 for slope in jax.tree.leaves(slopes))


def test_int8_moves_the_states_by_a_stated_error():
    config = dataclasses.replace(TINY, hidden_size=64, intermediate_size=96, vocab_size=101)
    model = build(config, lora.LoRA(rank=2))
    values, mask = inputs(width=64)
    states = run(model, values, mask)
    assert quantize(model, r"model\.layers\..*") == 7
    kernel = model.model.layers.stack.mlp.gate_proj.kernel[...]
    assert kernel.dtype == jnp.int8
    assert jnp.abs(kernel).max() == 127
    moved = run(model, values, mask) - states
    # Weights move by 0.006 of their deviation, the states of these three layers by 0.015.
    assert 1e-3 < jnp.sqrt(jnp.mean(moved**2)) / states.std() <= 0.03
    with pytest.raises(ValueError, match="expected float matrices to merge into, got int8"):
        lora.merge(model)


def test_bfloat16_base_computes_in_the_dtype_of_its_input(tiny):
    values, mask = inputs()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny)
    assert jax.eval_shape(run, half, values.astype(jnp.bfloat16), mask).dtype == jnp.bfloat16
    precise = run(half, values, mask)
    assert precise.dtype == jnp.float32
    assert 1e-3 < error(precise, run(tiny, values, mask)) <= 0.05  # of rounded weights alone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', got 'gelu'"),
        ({"pretraining_tp": 2}, "pretraining_tp: expected 1, got 2"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "expected rotary embeddings"),
        ({"sliding_window": 4096}, "sliding_window: unknown setting"),
        ({"num_key_value_heads": 3}, "expected num_key_value_heads that divide"),
    ],
)
def test_llama_refuses_what_it_would_not_honour(change, message):
    with pytest.raises(ValueError, match=message):
        LlamaConfig.from_dict(TINY.to_dict() | change)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 1e6},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}},
    ],
)
def test_config_keeps_its_rotary_settings_through_a_round_trip(rope):
    config = LlamaConfig.from_dict(TINY.to_dict() | {"rope_theta": None} | rope)
    assert config.rotary != TINY.rotary
    assert LlamaConfig.from_dict(config.to_dict()) == config
