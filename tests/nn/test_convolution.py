"""Convolutions as products: the same values, and where they are taken."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.nn import convolution
from brushjax.nn.layers import conv, zero_conv

CASES = [  # side of the picture, channels in and out, kernel, stride, padding
    (4, 8, 64, 3, 1, None),
    (8, 8, 64, 3, 2, 1),
    (7, 8, 64, 3, 2, 0),
    (9, 4, 64, 4, 2, 1),
    (16, 8, 4, 1, 1, None),
]


@pytest.mark.parametrize("case", CASES)
def test_a_product_gives_what_a_convolution_does_and_its_gradients(case):
    side, width_in, width_out, kernel, stride, padding = case
    layer = conv(width_in, width_out, kernel, stride=stride, padding=padding, rngs=nnx.Rngs(0))
    picture = jax.random.normal(jax.random.key(1), (2, side, side, width_in))

    def loss(pair, convolve):
        layer, picture = pair
        layer.conv_general_dilated = convolve
        return jnp.square(layer(picture)).sum()

    def results(convolve):
        value = jax.value_and_grad(lambda pair: loss(pair, convolve))
        graph, state = nnx.split(layer)
        run = jax.jit(lambda state, picture: value((nnx.merge(graph, state), picture)))
        count = run.lower(state, picture).as_text().count("stablehlo.convolution")
        return count, jax.tree.leaves(run(state, picture))

    (ours, values), (theirs, expected) = map(
        results, (convolution.convolve, jax.lax.conv_general_dilated)
    )
    assert (ours, theirs) == (0, 3)
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("platform", "side", "count"), [("cpu", 4, 0), ("cpu", 16, 1), ("gpu", 4, 1), ("tpu", 4, 1)]
)
def test_only_a_cpu_with_fewer_pixels_than_channels_multiplies(monkeypatch, platform, side, count):
    monkeypatch.setattr(convolution, "execution", lambda: SimpleNamespace(platform=platform))
    layer = conv(8, 64, rngs=nnx.Rngs(0))
    program = jax.jit(lambda x: layer(x)).lower(jnp.ones((1, side, side, 8)))
    assert program.as_text().count("stablehlo.convolution") == count


def test_a_tap_is_a_product_on_a_cpu():
    layer = zero_conv(8, rngs=nnx.Rngs(0))
    program = jax.jit(lambda x: layer(x)).lower(jnp.ones((1, 16, 16, 8)))
    assert "stablehlo.convolution" not in program.as_text()
