"""Convolutions as products: the same values, and where they are taken."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.nn import Execution, convolution, executing
from brushjax.nn.layers import conv, zero_conv
from brushjax.sharding import MeshShape, make_mesh
from brushjax.training.scale.program import flops, trace

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
    how = SimpleNamespace(platform=platform, convolution="auto", mesh=None)
    monkeypatch.setattr(convolution, "execution", lambda: how)
    layer = conv(8, 64, rngs=nnx.Rngs(0))
    program = jax.jit(lambda x: layer(x)).lower(jnp.ones((1, side, side, 8)))
    assert program.as_text().count("stablehlo.convolution") == count


def convolved(x, kernel):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": None}
    return convolution.convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **options)


@pytest.mark.parametrize("shape", [(2, 8, 6, 16, 20), (1, 6, 8, 20, 16)])
def test_wide_kernels_take_fewer_products_and_give_the_same_with_gradients(monkeypatch, shape):
    monkeypatch.setattr(convolution, "WIDE", 16)
    *picture, width_out = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = (jax.random.normal(key, s) for key, s in zip(keys, (picture, (3, 3, *shape[3:]))))
    weights = jax.random.normal(keys[2], (*picture[:3], width_out))

    def results(how):
        def run(x, kernel):
            with executing(Execution(convolution=how)):
                return convolved(x, kernel)

        def results_and_gradients(x, kernel):
            y, back = jax.vjp(run, x, kernel)
            return y, *back(weights)

        return flops(trace(run, x, kernel)), jax.jit(results_and_gradients)(x, kernel)

    (fewer, values), (direct, expected) = map(results, ("auto", "direct"))
    assert fewer == direct * 16 / 36
    for value, wanted in zip(values, expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=3e-6 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("shape", "count"),
    [((8, 1, 1), 0), ((2, 4, 1), 1), ((4, 1, 2), 1)],
    ids=["data", "fsdp", "tensor"],
)
def test_kernels_cut_over_devices_are_convolved_directly(monkeypatch, shape, count):
    monkeypatch.setattr(convolution, "WIDE", 16)

    def run(x, kernel):
        with executing(Execution(mesh=make_mesh(MeshShape(*shape)))):
            return convolved(x, kernel)

    program = jax.jit(run).lower(jnp.ones((8, 8, 8, 16)), jnp.ones((3, 3, 16, 16)))
    assert program.as_text().count("stablehlo.convolution") == count


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 7, 8, 16), jnp.float32),  # odd
        ((1, 8, 8, 8), jnp.float32),  # narrow
        ((1, 8, 8, 16), jnp.bfloat16),
        ((8, 8, 8, 16), jnp.float32),  # large
    ],
)
def test_what_winograd_does_not_suit_is_convolved_directly(monkeypatch, shape, dtype):
    monkeypatch.setattr(convolution, "WIDE", 16)
    monkeypatch.setattr(convolution, "AT_ONCE", 4096)
    kernel = jnp.ones((3, 3, shape[-1], 16), dtype)
    program = jax.jit(convolved).lower(jnp.ones(shape, dtype), kernel)
    assert program.as_text().count("stablehlo.convolution") == 1


@pytest.mark.parametrize("side", [4, 8])  # fewer and more pixels than channels
@pytest.mark.parametrize(
    ("padding", "options"),
    [
        (((0, 2), (2, 0)), {}),
        (((1, 1), (0, 2)), {}),
        (((2, 2), (2, 2)), {"rhs_dilation": (2, 2)}),
        (((1, 1), (1, 1)), {"feature_group_count": 2}),
    ],
)
def test_unusual_paddings_groups_and_dilation_give_what_xla_does(
    monkeypatch, side, padding, options
):
    monkeypatch.setattr(convolution, "WIDE", 8)
    options |= {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": None}
    x = jax.random.normal(jax.random.key(0), (1, side, side, 16))
    width = 16 // options.get("feature_group_count", 1)
    kernel = jax.random.normal(jax.random.key(1), (3, 3, width, 32))
    value, expected = (
        convolve(x, kernel, (1, 1), padding, **options)
        for convolve in (convolution.convolve, jax.lax.conv_general_dilated)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("value", "place"), [(np.nan, (4, 3)), (np.inf, (3, 0)), (np.nan, (0, 7))])
def test_a_value_that_is_not_finite_reaches_its_neighbours_alone(monkeypatch, value, place):
    monkeypatch.setattr(convolution, "WIDE", 16)
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 16, 16))
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 16)).at[0, *place, 5].set(value)
    reached = ~np.isfinite(convolved(x, kernel)).all(axis=-1)
    rows, columns = np.indices((8, 8))
    near = (abs(rows - place[0]) <= 1) & (abs(columns - place[1]) <= 1)
    assert (reached[0] == near).all()
    assert not reached[1].any()


def test_a_tap_is_a_product_on_a_cpu():
    layer = zero_conv(8, rngs=nnx.Rngs(0))
    program = jax.jit(lambda x: layer(x)).lower(jnp.ones((1, 16, 16, 8)))
    assert "stablehlo.convolution" not in program.as_text()
