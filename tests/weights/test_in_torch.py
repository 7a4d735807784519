"""What we write loads in diffusers and transformers, no key left over, and computes the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

import brushjax
from brushjax import weights
from tests.support import GOLDEN, error, nhwc
from tests.weights import tiny

pytestmark = pytest.mark.torch


@jax.jit
def run(model, *inputs):
    return model(*inputs)


@jax.jit
def reconstruct(vae, images):
    return vae.decode(vae.encode(images).mode())


def loaded(kind, folder):
    """Loads with the library's own method; asserts that no key was missing or unexpected."""
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


def through_jax(kind, source, tmp_path):
    """Writes a folder by way of an Orbax checkpoint; returns it and the model in JAX."""
    weights.convert(kind, source, tmp_path / "orbax", layout="orbax")
    model = brushjax.load(kind, tmp_path / "orbax")
    brushjax.save(model, tmp_path / "written")
    return tmp_path / "written", model


@pytest.mark.heavy
@torch.no_grad()
def test_unet_loads_in_diffusers(tmp_path):
    folder, ours = through_jax("unet", GOLDEN / "tiny_sd15", tmp_path)
    io = np.load(GOLDEN / "tiny_sd15" / "io.npz")
    inputs = [torch.tensor(io[name]) for name in ("sample", "timesteps", "encoder_hidden_states")]
    expected = loaded(UNet2DConditionModel, GOLDEN / "tiny_sd15" / "unet")(*inputs).sample
    got = loaded(UNet2DConditionModel, folder)(*inputs).sample
    assert torch.equal(got, expected)
    mine = run(ours, nhwc(inputs[0]), jnp.asarray(inputs[1], jnp.int32), jnp.asarray(inputs[2]))
    assert error(mine, expected) < 2e-5


@torch.no_grad()
def test_vae_loads_in_diffusers(tmp_path):
    folder, ours = through_jax("vae", GOLDEN / "tiny_sd15_pipeline", tmp_path)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    expected = loaded(AutoencoderKL, GOLDEN / "tiny_sd15_pipeline" / "vae")(image).sample
    assert torch.equal(loaded(AutoencoderKL, folder)(image).sample, expected)
    assert error(reconstruct(ours, nhwc(image)), expected) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("projection", [False, True])
def test_text_encoders_load_in_transformers(projection, tmp_path):
    config = tiny.CLIP_2 if projection else tiny.CLIP
    kind, name = (
        ("clip_text_2", CLIPTextModelWithProjection) if projection else ("clip_text", CLIPTextModel)
    )
    original = tiny.state_dict(kind, config)
    source = tiny.write_folder(tmp_path / "source", kind, config, original)
    folder, ours = through_jax(kind, source, tmp_path)
    ids = torch.tensor([[18, 3, 5, 19, 19], [18, 7, 19, 19, 19]])
    expected, got = loaded(name, source)(ids), loaded(name, folder)(ids)
    assert torch.equal(got.last_hidden_state, expected.last_hidden_state)
    mine = run(ours, jnp.asarray(ids, jnp.int32))
    assert error(mine.last_hidden_state, expected.last_hidden_state) < 2e-5
    if projection:
        assert error(mine.text_embeds, expected.text_embeds) < 2e-5
