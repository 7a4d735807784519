"""Hybrid visual cross-attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.fireedit.golden import (
    PRECISE,
    TOLERANCE,
    Golden,
    count,
    deviation,
    doubled,
    full_size,
    published_names,
)

run = jax.jit(lambda model, *inputs: model(*inputs))


@pytest.fixture(scope="module")
def golden():
    return Golden("hvca")


@pytest.fixture(scope="module")
def model(golden):
    return golden.model()


@pytest.fixture(scope="module")
def inputs(golden):
    return [golden[name] for name in ("clip", "dino", "text")]


def test_hvca_equals_the_stored_outputs(golden, model, inputs):
    assert deviation(run(model, *inputs), golden.io["output"]) <= TOLERANCE
    masked = run(model, *inputs, golden["text_mask"])
    assert deviation(masked, golden.io["output_masked"]) <= TOLERANCE


def test_hvca_gradients_equal_the_stored_ones(golden, model, inputs):
    golden.gradients(model, lambda model: jnp.sum(model(*inputs) * golden["cotangent"]))


def test_hvca_equals_the_stored_outputs_in_float64(golden):
    with jax.enable_x64(True):
        inputs = [jnp.asarray(golden.io[k], jnp.float64) for k in ("clip", "dino", "text")]
        ours = run(doubled(golden.model()), *inputs)
        assert deviation(ours, golden.io["output_float64"]) <= PRECISE


def test_hvca_reads_tokens_in_any_order(golden, model, inputs):
    clip, dino, text = inputs
    plain = run(model, *inputs)
    mixed = run(model, clip[:, ::-1], dino[:, ::-1], text[:, ::-1])
    assert deviation(mixed, plain) <= TOLERANCE
    short = run(model, clip[:, :3], dino[:, :1], text[:, :2])
    assert short.shape == plain.shape == (2, golden.config["num_queries"], golden.config["width"])


def test_hvca_knows_the_kinds_of_tokens_by_their_vectors_not_their_order(golden, model, inputs):
    clip, dino, text = inputs
    plain, other = run(model, *inputs), golden.model()
    other.proj_clip, other.proj_dino = other.proj_dino, other.proj_clip
    other.type_clip, other.type_dino = other.type_dino, other.type_clip
    assert deviation(run(other, dino, clip, text), plain) <= TOLERANCE
    other.type_clip, other.type_dino = other.type_dino, other.type_clip  # they stay behind
    assert deviation(run(other, dino, clip, text), plain) > 0.01


def test_hvca_masked_text_has_no_gradient(golden, model, inputs):
    clip, dino, text = inputs
    mask = golden["text_mask"]
    loss = lambda text: jnp.sum(model(clip, dino, text, mask) ** 2)  # noqa: E731
    grad = jax.jit(jax.grad(loss))(text)
    assert not np.asarray(grad)[~np.asarray(mask)].any()
    assert np.asarray(grad)[np.asarray(mask)].any()


def test_hvca_with_an_empty_text_mask_gives_numbers(model, inputs):
    out = run(model, *inputs, jnp.zeros(inputs[2].shape[:2], bool))
    assert np.isfinite(out).all()


def test_hvca_without_text_output_ignores_the_text(golden, inputs):
    model, (clip, dino, text) = golden.model(), inputs
    for block in model.blocks:
        block.text_attention.to_out.kernel[...] *= 0
    np.testing.assert_array_equal(run(model, clip, dino, text), run(model, clip, dino, text + 1))


def test_hvca_of_one_picture_serves_several_texts(model, inputs):
    clip, dino, text = inputs
    both = run(model, clip[:1], dino[:1], text)
    alone = run(model, clip[:1], dino[:1], text[1:])
    assert deviation(both[1:], alone) <= TOLERANCE


def test_hvca_reads_first_what_its_config_says(golden, model, inputs):
    other = golden.model(block_order="text_first")
    assert deviation(run(other, *inputs), run(model, *inputs)) > 0.01
    with pytest.raises(ValueError, match="block_order visual_first or text_first, got 'text'"):
        golden.model(block_order="text")


def test_full_size_hvca_has_the_specified_tensors():
    ours = full_size("hvca", {})
    assert ours == published_names("hvca")
    assert count(ours) == 21_070_080
