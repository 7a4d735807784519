"""Time-aware target injection: ELLA's resampler, its options, and what must hold of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.models.fireedit.tati import TATI, AdaLayerNorm, TATIConfig
from brushjax.nn import Keys, sinusoid
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
TINY = TATIConfig(16, 12, 8, layers=2, heads=2, num_latents=5, input_dim=6)


@pytest.fixture(scope="module")
def golden():
    return Golden("tati")


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("timesteps", "output"),
        ("timesteps_float", "output_float_timesteps"),
        ("timestep_single", "output_single_timestep"),
    ],
)
def test_tati_equals_ella(golden, time, expected):
    ours = run(golden.model(), golden["text_features"], golden[time])
    assert deviation(ours, golden.io[expected]) <= TOLERANCE


def test_tati_without_projection_equals_ella(golden, tmp_path):
    from safetensors.numpy import load_file, save_file

    import brushjax

    tensors = load_file(golden.folder / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if ".proj_in." not in name}
    save_file(kept, tmp_path / "model.safetensors")
    config = golden.config | {"input_dim": None}
    model = brushjax.load("tati", tmp_path / "model.safetensors", config=config)
    ours = run(model, golden["text_features_noproj"], golden["timesteps"])
    assert deviation(ours, golden.io["output_noproj"]) <= TOLERANCE


def test_tati_gradients_equal_ella(golden):
    features, time, cotangent = (golden[k] for k in ("text_features", "timesteps", "cotangent"))
    golden.gradients(golden.model(), lambda model: jnp.sum(model(features, time) * cotangent))


def test_tati_equals_ella_in_float64(golden):
    """From the stored waves on, which ELLA always makes in float32."""
    with jax.enable_x64(True):
        features, waves = (
            jnp.asarray(golden.io[name], jnp.float64) for name in ("text_features", "sinusoid")
        )
        ours = jax.jit(lambda model, *x: model.resampled(*x))(
            doubled(golden.model()), features, waves
        )
        assert deviation(ours, golden.io["output_float64"]) <= PRECISE


def test_sinusoid_of_a_timestep_has_the_published_values():
    waves = np.asarray(sinusoid(jnp.asarray([10.0, 981.0, 1.0]), 320))
    expected = [[-0.839072, -0.544021], [0.679957, 0.733252], [0.540302, 0.841471]]
    np.testing.assert_allclose(waves[:, [0, 160]], expected, atol=2e-5)
    np.testing.assert_allclose(waves[0, [1, 161]], [-0.999875, -0.015830], atol=1e-5)
    np.testing.assert_allclose(waves[0].sum(), 136.767763, rtol=1e-5)
    np.testing.assert_allclose(np.square(waves).sum(1), 160, rtol=1e-5)


def made(config=TINY, seed=0):
    """A resampler, its inputs, and a function that runs it."""
    model = TATI(config, rngs=Keys(seed))
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((2, 4, config.input_dim)), jnp.float32)
    return model, features, jnp.asarray([10.0, 900.5])


def shaken(model):
    """Moves the weights off their zeros."""
    state, keys = nnx.state(model), Keys(1)
    moved = lambda x: x + 0.3 * jax.random.normal(keys.params(), x.shape)  # noqa: E731
    nnx.update(model, jax.tree.map(moved, state))
    return model


def test_tati_knows_no_time_at_the_start_but_through_its_latents():
    model, features, time = made()
    linear = model.connector.time_aware_linear
    assert np.abs(run(model, features, time) - run(model, features, time + 50)).max() > 1e-3
    linear.kernel[...], linear.bias[...] = 0 * linear.kernel, 0 * linear.bias
    np.testing.assert_array_equal(run(model, features, time), run(model, features, time + 50))
    model.connector.perceiver_blocks[0].ln_1.linear.kernel[...] += 0.1
    assert np.abs(run(model, features, time) - run(model, features, time + 50)).max() > 1e-4


def test_tati_reads_text_in_any_order_and_answers_in_that_of_its_latents():
    model, features, time = made()
    model = shaken(model)
    plain = run(model, features, time)
    np.testing.assert_allclose(run(model, features[:, ::-1], time), plain, rtol=1e-4, atol=1e-4)
    model.connector.latents[...] = model.connector.latents[::-1]
    np.testing.assert_allclose(run(model, features, time), plain[:, ::-1], rtol=1e-4, atol=1e-4)


def test_tati_hands_latents_on_when_nothing_is_added():
    model, features, time = made()
    for block in model.connector.perceiver_blocks:
        for layer in (block.attn.out_proj, block.mlp.c_proj):
            layer.kernel[...], layer.bias[...] = 0 * layer.kernel, 0 * layer.bias
    embedded = model.time_embedding(sinusoid(time, TINY.time_channel))
    said = model.connector.time_aware_linear(jax.nn.silu(embedded))
    expected = model.connector.latents[...] + said[:, None]
    np.testing.assert_allclose(run(model, features, time), expected, atol=1e-6)


def test_tati_norm_shifts_first_and_scales_by_one_more():
    norm = AdaLayerNorm(TINY, False, rngs=Keys(0))
    shift, scale = np.linspace(-1, 1, 8), np.linspace(2, 3, 8)
    norm.linear.bias[...] = jnp.asarray([*shift, *scale], jnp.float32)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 8)), jnp.float32)
    out, gate = norm(x, jnp.zeros((1, 12)))
    centred = x - x.mean(-1, keepdims=True)
    plain = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    assert gate is None
    np.testing.assert_allclose(out, plain * (1 + scale) + shift, atol=1e-5)


def test_tati_with_gates_starts_without_the_text():
    config = TATIConfig(16, 12, 8, heads=2, num_latents=5, input_dim=6, gate=True)
    model, features, time = made(config)
    plain = run(model, features, time)
    np.testing.assert_array_equal(plain, run(model, features + 1, time))
    said = model.connector.time_aware_linear(
        jax.nn.silu(model.time_embedding(sinusoid(time, config.time_channel)))
    )
    np.testing.assert_allclose(plain, model.connector.latents[...] + said[:, None], atol=1e-6)
    for block in model.connector.perceiver_blocks:
        block.ln_1.linear.bias[...] += 1.0
    assert np.abs(run(model, features, time) - run(model, features + 1, time)).max() > 1e-4


def test_tati_with_residual_starts_as_its_features():
    config = TATIConfig(16, 12, 6, heads=2, num_latents=4, input_dim=6, residual=True)
    model, features, time = made(config)
    np.testing.assert_array_equal(run(model, features, time), features)
    with pytest.raises(ValueError, match="features of 4 tokens and width 6 with residual=True"):
        model(features[:, :3], time)


def test_full_size_tati_has_the_published_tensors():
    ours = full_size("tati", {})
    assert ours == published_names("tati")
    assert count(ours) == 23_334_144
    assert count(full_size("tati", {"input_dim": None})) == 22_743_552
    ella = {"layers": 6, "num_latents": 64, "input_dim": 2048}
    assert count(full_size("tati", ella)) == 66_820_608
