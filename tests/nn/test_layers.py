"""Upsampling, downsampling and sinusoids against PyTorch and diffusers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from brushjax.nn import Downsample, GroupNorm, Keys, Upsample, sinusoid
from brushjax.nn.resnet import _nearest


def test_nearest_enlargement_equals_torch():
    """Sizes that a UNet meets (twice, or twice less one), and some that none does."""
    sizes = [(n, 2 * n - d) for n in (2, 3, 5, 8, 16, 33, 64) for d in (0, 1)]
    sizes += [(3, 8), (5, 7), (6, 6)]
    for length, size in sizes:
        x = np.arange(length, dtype=np.float32).reshape(1, length, 1, 1)
        expected = torch.nn.functional.interpolate(torch.tensor(x[..., 0]).mT, size=size)
        ours = np.asarray(_nearest(jnp.asarray(x), size, 1))
        np.testing.assert_array_equal(ours.ravel(), expected.ravel(), err_msg=f"{length} -> {size}")


def test_upsample_meets_an_explicit_odd_size():
    layer = Upsample(3, rngs=Keys(0))
    x = jax.random.normal(jax.random.key(0), (2, 4, 3, 3))
    out = layer(x, (7, 5))
    nchw = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))
    enlarged = torch.nn.functional.interpolate(nchw, size=(7, 5), mode="nearest")
    kernel = torch.tensor(np.asarray(layer.conv.kernel[...]).transpose(3, 2, 0, 1))
    expected = torch.nn.functional.conv2d(enlarged, kernel, padding=1)
    np.testing.assert_allclose(out, expected.permute(0, 2, 3, 1), atol=1e-5)
    assert layer(x).shape == (2, 8, 6, 3)


@pytest.mark.parametrize(("symmetric", "padding"), [(True, (1, 1, 1, 1)), (False, (0, 1, 0, 1))])
def test_downsample_pads_as_unet_or_as_vae(symmetric, padding):
    layer = Downsample(2, symmetric=symmetric, rngs=Keys(0))
    x = jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    nchw = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2))
    kernel = torch.tensor(np.asarray(layer.conv.kernel[...]).transpose(3, 2, 0, 1))
    expected = torch.nn.functional.conv2d(torch.nn.functional.pad(nchw, padding), kernel, stride=2)
    np.testing.assert_allclose(layer(x), expected.permute(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("cosine_first", [True, False])
@pytest.mark.parametrize("shift", [0, 1])
def test_sinusoid_equals_diffusers(cosine_first, shift):
    timesteps = np.array([0.0, 1.0, 37.5, 999.0])
    ours = sinusoid(jnp.asarray(timesteps), 64, cosine_first=cosine_first, shift=shift)
    expected = get_timestep_embedding(
        torch.tensor(timesteps), 64, flip_sin_to_cos=cosine_first, downscale_freq_shift=shift
    )
    # Angles reach 999, of which float32 keeps 6e-5, in the reference and here alike.
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-4)


def test_sinusoid_is_as_precise_as_its_dtype():
    with jax.enable_x64(True):
        ours = sinusoid(jnp.array([970]), 8, dtype=jnp.float64)
    angles = 970 * 10000.0 ** -(np.arange(4) / 4)
    np.testing.assert_allclose(ours[0], [*np.cos(angles), *np.sin(angles)], rtol=0, atol=1e-12)


def test_group_norm_keeps_its_digits_far_from_zero():
    """E[x^2] - E[x]^2 in float32 would have lost the variance at this mean."""
    x = 1000 + jax.random.normal(jax.random.key(0), (1, 8, 8, 4))
    out = np.asarray(GroupNorm(4, 2, 1e-5)(x), np.float64)
    groups = np.asarray(x, np.float64).reshape(64, 2, 2)
    expected = (groups - groups.mean((0, 2), keepdims=True)[:, :, :]) / np.sqrt(
        groups.var((0, 2), keepdims=True) + 1e-5
    )
    np.testing.assert_allclose(out.reshape(64, 2, 2), expected, atol=1e-3)


@pytest.mark.parametrize("offset", [0.0, 40.0])
def test_group_norm_in_half_precision_equals_that_of_its_rounded_input(offset):
    layer = GroupNorm(24, 4, 1e-5)
    layer.scale[...], layer.bias[...] = jnp.linspace(0.5, 2, 24), jnp.linspace(-1, 1, 24)
    x = jax.random.normal(jax.random.key(0), (2, 9, 7, 24)) + offset
    half = x.astype(jnp.bfloat16)
    exact = layer(half.astype(jnp.float32))
    assert layer(half).dtype == jnp.bfloat16
    np.testing.assert_allclose(layer(half).astype(jnp.float32), exact, rtol=2**-8, atol=2**-8)
