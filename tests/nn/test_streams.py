"""The decoupled cross-attention: two streams, each with a softmax of its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from brushjax.nn import Attention, Keys, KeyValue, Streams
from tests.models.fireedit.golden import (
    PRECISE,
    TOLERANCE,
    Golden,
    deviation,
    doubled,
    same_gradients,
)

PLACES = {"attn2.": "", "ip_adapter.1.": ""}  # an attention carries the names without its place


def ours(name):
    for theirs, mine in PLACES.items():
        name = name.replace(theirs, mine)
    return name


@pytest.fixture(scope="module")
def golden():
    return Golden("ip_attention")


@pytest.fixture(scope="module")
def layer(golden):
    """The reference's attention with its IP-Adapter."""
    config = golden.config
    attention = Attention(
        config["query_dim"],
        config["heads"],
        config["context_dim"],
        visual_width=config["context_dim"],
        rngs=Keys(0),
    )
    tensors = load_file(golden.folder / "model.safetensors")
    tensors = {ours(name): value for name, value in tensors.items()}
    for name in ("to_q", "to_k", "to_v", "to_k_ip", "to_v_ip"):
        getattr(attention, name).kernel[...] = tensors[f"{name}.weight"].T
    attention.to_out[0].kernel[...] = tensors["to_out.0.weight"].T
    attention.to_out[0].bias[...] = jnp.asarray(tensors["to_out.0.bias"])
    return attention


@pytest.fixture(scope="module")
def inputs(golden):
    return [golden[f"{name}_states"] for name in ("query", "text", "image")]


def test_streams_equal_ip_adapter(golden, layer, inputs):
    x, text, visual = inputs
    for scale in (0.0, 0.5, 1.0):
        out = layer(x, Streams(text, visual, scale))
        assert deviation(out, golden.io[f"output_scale_{scale}"]) <= TOLERANCE
    assert deviation(layer(x, text), golden.io["output_plain_text_only"]) <= TOLERANCE


def test_streams_gradients_equal_ip_adapter(golden, layer, inputs):
    x, text, visual = inputs
    loss = lambda layer: jnp.sum(layer(x, Streams(text, visual)) * golden["cotangent"])  # noqa: E731
    same_gradients(layer, loss, np.load(golden.folder / "grads.npz"), names=ours)


def test_streams_equal_ip_adapter_in_float64(golden, layer, inputs):
    with jax.enable_x64(True):
        x, text, visual = (jnp.asarray(x, jnp.float64) for x in inputs)
        copy = doubled(nnx.clone(layer))
        out = copy(x, Streams(text, visual))
        assert deviation(out, golden.io["output_scale_1.0_float64"]) <= PRECISE


def test_streams_computed_ahead_change_nothing(layer, inputs):
    x, text, visual = inputs
    plain = layer(x, Streams(text, visual, 0.7))
    ahead = Streams(layer.project(text), layer.project_visual(visual), 0.7)
    np.testing.assert_array_equal(layer(x, ahead), plain)


def test_streams_have_a_scale_for_each_sample(layer, inputs):
    x, text, visual = inputs
    out = layer(x, Streams(text, visual, jnp.asarray([0.0, 0.5, 1.0])))
    for i, scale in enumerate((0.0, 0.5, 1.0)):
        np.testing.assert_allclose(out[i], layer(x, Streams(text, visual, scale))[i], atol=1e-6)


def test_streams_without_visual_content_are_the_plain_attention(layer, inputs):
    x, text, visual = inputs
    plain = layer(x, text)
    np.testing.assert_array_equal(layer(x, Streams(text, visual, 0.0)), plain)
    np.testing.assert_array_equal(layer(x, Streams(text, 0 * visual)), plain)


def test_streams_of_one_text_serve_several_pictures(layer, inputs):
    x, text, visual = inputs
    out = layer(x[:1], Streams(text[:1], visual))
    for i in range(3):
        alone = layer(x[:1], Streams(text[:1], visual[i : i + 1]))
        np.testing.assert_allclose(out[i : i + 1], alone, atol=1e-6)


def bare(queries, text, visual, scale):
    """Attends with one head and no projections: what is looked up is what comes out."""
    layer = Attention(2, 1, visual_width=2, rngs=Keys(0))
    for projection in (layer.to_q, layer.to_out[0]):
        projection.kernel[...] = jnp.eye(2)
    streams = (
        KeyValue(*(jnp.asarray(x, jnp.float32)[None, :, None] for x in pair))
        for pair in (text, visual)
    )
    return layer(jnp.asarray(queries, jnp.float32)[None], Streams(*streams, scale))[0]


TEXT = ([[1, 0], [0, 1], [1, 1]], [[1, 2], [3, 4], [5, 6]])
VISUAL = ([[2, 0], [0, -1]], [[10, 0], [0, 10]])


def test_streams_have_the_numbers_computed_by_hand():
    queries = [[1, 0], [0, 2]]
    alone = bare(queries, TEXT, VISUAL, 0.0)
    np.testing.assert_allclose(alone, [[3.0, 4.0], [3.674850, 4.674850]], atol=1e-5)
    both = bare(queries, TEXT, VISUAL, 0.5)
    np.testing.assert_allclose(both, [[7.022148, 4.977852], [7.696998, 5.652701]], atol=1e-5)
    joint = [[5.536290, 2.972120], [4.193659, 4.351990]]  # one softmax over both: not this
    assert np.abs(bare(queries, TEXT, VISUAL, 1.0) - np.asarray(joint)).max() > 0.1
    second = bare(queries, TEXT, VISUAL, 1.0) - alone
    np.testing.assert_allclose(second, [[8.044297, 1.955703]] * 2, atol=1e-5)
    np.testing.assert_allclose(bare(queries, TEXT, VISUAL, -0.3), alone - 0.3 * second, atol=1e-5)
    twice = bare(queries, TEXT, TEXT, 0.5)
    np.testing.assert_allclose(twice, 1.5 * alone, rtol=1e-6)
    one = bare(queries, TEXT, ([[7, -3]], [[2, 5]]), 0.5)
    np.testing.assert_allclose(one, alone + np.asarray([1.0, 2.5]), atol=1e-5)


def test_attention_without_a_second_stream_refuses_visual_tokens():
    layer = Attention(4, 2, 6, rngs=Keys(0))
    with pytest.raises(ValueError, match="visual_cross_attention_dim"):
        layer(jnp.zeros((1, 3, 4)), Streams(jnp.zeros((1, 2, 6)), jnp.zeros((1, 2, 6))))
