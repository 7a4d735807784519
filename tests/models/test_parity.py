"""UNet, VAE and text encoders in float64 against the classes of diffusers and transformers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig as TorchTextConfig
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from brushjax.models import AutoencoderKL, CLIPText, CLIPTextConfig, UNet, UNetConfig, VAEConfig
from brushjax.typing import AddedCondition
from tests.support import error, fill, nhwc
from tests.torch_reference import arrays, noise, randomize

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("float64")]

TOLERANCE = 1e-9  # of the output's standard deviation

SD15 = {
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
SD2 = SD15 | {
    "block_out_channels": (8, 16),
    "layers_per_block": 2,
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
SDXL = SD15 | {
    "block_out_channels": (8, 16, 16),
    "attention_head_dim": (1, 2, 4),
    "transformer_layers_per_block": (1, 2, 3),
    "use_linear_projection": True,
    "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
    "up_block_types": ("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 10 + 6 * 4,
}
ONE_LEVEL = SD15 | {
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",),
}
TWO_LEVELS = SD2 | {"layers_per_block": 1, "use_linear_projection": False}
UNETS = {
    "sd15": (SD15, (8, 8)),
    "sd2": (SD2, (8, 8)),
    "sdxl": (SDXL, (8, 8)),
    "instruct-pix2pix": (ONE_LEVEL | {"in_channels": 8}, (4, 4)),
    "inpainting-odd-size": (TWO_LEVELS | {"in_channels": 9}, (7, 5)),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.heavy] * (n in ("sd15", "sdxl"))) for n in UNETS],
)
def test_unet_equals_diffusers(name):
    settings, size = UNETS[name]
    torch_unet = randomize(UNet2DConditionModel(**settings))
    unet = fill(UNet, UNetConfig(**settings), arrays(torch_unet))
    sample, context = noise(0, 2, settings.get("in_channels", 4), *size), noise(1, 2, 5, 12)
    timestep, added, torch_added = np.array([3, 970]), None, None
    if name == "sdxl":
        text, sizes = noise(2, 2, 10), np.array([[1024, 768, 0, 8, 512, 640.0]] * 2)
        added = AddedCondition(jnp.asarray(text), jnp.asarray(sizes))
        torch_added = {"text_embeds": torch.tensor(text), "time_ids": torch.tensor(sizes)}

    inputs = map(torch.tensor, (sample, timestep, context))
    expected = torch_unet(*inputs, added_cond_kwargs=torch_added).sample
    ours = jax.jit(lambda unet, *inputs: unet(*inputs, added=added))(
        unet, nhwc(sample), jnp.asarray(timestep), jnp.asarray(context)
    )
    assert ours.dtype == jnp.float64
    assert error(ours, expected) <= TOLERANCE


def test_autoencoder_equals_diffusers():
    settings = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    blocks = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    torch_vae = randomize(TorchVAE(**settings, **blocks))
    with torch.no_grad():
        torch_vae.quant_conv.bias[4:] += torch.tensor([-60.0, 40.0, 0.0, 0.0])  # beyond the clamps
    vae = fill(AutoencoderKL, VAEConfig(**settings), arrays(torch_vae))
    images, latents = noise(0, 2, 3, 12, 8), noise(1, 2, 4, 3, 5)

    posterior, decoded = jax.jit(lambda vae, x, z: (vae.encode(x), vae.decode(z)))(
        vae, nhwc(images), nhwc(latents)
    )
    expected = torch_vae.encode(torch.tensor(images)).latent_dist
    assert {-30.0, 20.0} <= set(np.unique(expected.logvar))
    assert error(posterior.mean, expected.mean) <= TOLERANCE
    assert error(posterior.logvar, expected.logvar) <= TOLERANCE
    assert error(decoded, torch_vae.decode(torch.tensor(latents)).sample) <= TOLERANCE


TEXT = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 9,
    "projection_dim": 12,
    "bos_token_id": 38,
    "eos_token_id": 39,
}
TEXTS = {
    "clip-l": (CLIPTextModel, TEXT | {"hidden_act": "quick_gelu"}),
    "clip-l-legacy-end": (CLIPTextModel, TEXT | {"hidden_act": "quick_gelu", "eos_token_id": 2}),
    "bigg-projection": (CLIPTextModelWithProjection, TEXT | {"hidden_act": "gelu"}),
}
# The end token follows three and four words. In the first prompt the padding repeats it (as in
# CLIP-L), in the second the padding is 0 (as in bigG). Token 2 is a word: a config that calls it
# the end token is an old one, and means the highest id.
TOKENS = np.array([[38, 2, 11, 7, 39, 39, 39], [38, 5, 2, 30, 8, 39, 0]])


@pytest.mark.parametrize("name", TEXTS)
def test_text_encoder_equals_transformers(name):
    kind, settings = TEXTS[name]
    torch_text = randomize(kind(TorchTextConfig(**settings)))
    projects = kind is CLIPTextModelWithProjection
    weights = arrays(torch_text)
    if not projects:  # transformers 5 puts this root back when it saves
        weights = {f"text_model.{key}": array for key, array in weights.items()}
    config = CLIPTextConfig(**settings)
    if projects:
        config = dataclasses.replace(config, architectures=(kind.__name__,))
    text = fill(CLIPText, config, weights)

    ours = jax.jit(lambda text, ids: text(ids))(text, jnp.asarray(TOKENS))
    expected = torch_text(torch.tensor(TOKENS), output_hidden_states=True)
    assert error(ours.last_hidden_state, expected.last_hidden_state) <= TOLERANCE
    assert len(ours.hidden_states) == len(expected.hidden_states) == 3
    for state, expected_state in zip(ours.hidden_states, expected.hidden_states, strict=True):
        assert error(state, expected_state) <= TOLERANCE
    pooled = torch_text.text_model(torch.tensor(TOKENS)) if projects else expected
    assert error(ours.pooled, pooled.pooler_output) <= TOLERANCE
    if projects:
        assert error(ours.text_embeds, expected.text_embeds) <= TOLERANCE
    else:
        assert ours.text_embeds is None
