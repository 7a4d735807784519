"""Blended latents keep the source outside the hole, whatever the base model does inside."""

import jax
import numpy as np
import pytest
from flax import nnx

from brushjax.inference import blended
from brushjax.inference.blended import BlendedLatents
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.inpaint_settings import InpaintSettings
from tests.evaluation import tiny

HOW = InpaintSettings(steps=3, guidance=3.0, blend="none")


@pytest.fixture(scope="module")
def parts():
    return tiny.parts()


def test_latents_outside_the_hole_are_the_sources(parts, monkeypatch):
    final, fill = [], blended.fill

    def kept(*arguments):
        final.append(fill(*arguments))
        return final[-1]

    monkeypatch.setattr(blended, "fill", kept)
    picture = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    hole = np.zeros((2, 32, 32), bool)
    hole[:, 8:24, 8:24] = True
    painter = BlendedLatents(parts)
    first = painter(list(picture), list(hole), ["a", "b"], [1, 2], HOW)
    latents = np.asarray(final[0][0])
    vae, pixels = parts["vae"], picture.astype(np.float32) / 127.5 - 1
    source = jax.jit(lambda vae, x: vae.to_latents(x))(vae, pixels)
    outside = ~hole[:, ::8, ::8]
    # A step divides by the noise's weight and multiplies it back: some digits go.
    np.testing.assert_allclose(latents[outside], np.asarray(source)[outside], atol=1e-4)
    assert np.abs(latents[~outside] - np.asarray(source)[~outside]).max() > 0.1
    assert first.shape == picture.shape

    again = painter(list(picture[::-1]), list(hole), ["b", "a"], [2, 1], HOW)
    np.testing.assert_array_equal(again[::-1], first)  # its own noise, wherever it stands
    other = painter(list(picture), list(hole), ["a", "b"], [1, 3], HOW)
    np.testing.assert_array_equal(other[0], first[0])
    assert (other[1] != first[1]).any()


def test_guidance_that_ends_at_once_is_no_guidance(parts):
    picture = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    hole = list(np.pad(np.ones((2, 16, 16), bool), ((0, 0), (8, 8), (8, 8))))
    painter, rest = BlendedLatents(parts), (["a", "b"], [1, 2])
    first = painter(picture, hole, *rest, HOW)
    unguided = painter(picture, hole, *rest, HOW.changed(guidance=1.0))
    never = HOW.changed(approximations=Approximations(guidance_end=0.01))
    ended = painter(picture, hole, *rest, never)
    assert np.abs(ended.astype(int) - unguided).max() <= 1  # guided by 1 is not guided
    assert (ended != first).any()


def test_sdxl_bases_are_refused(parts):
    unet = nnx.clone(parts["unet"])
    object.__setattr__(unet, "config", type("Config", (), {"addition_embed_type": "text_time"}))
    with pytest.raises(ValueError, match="expected a base of Stable Diffusion"):
        BlendedLatents({**parts, "unet": unet})
