"""Scoring networks at full size in float32 against transformers, one at a time.

    pytest -m slow tests/models/scoring/test_full_size_scoring.py [-k b32]

Random weights, written as their users have them. Up to a minute and 8 GB each. LPIPS is tested at
full size always.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

import brushjax
from brushjax.models.encoders.clip import CLIPTextConfig
from brushjax.models.encoders.vit import PlainViTConfig, ViTConfig
from tests.support import error, nhwc
from tests.torch_reference import noise, randomize

pytestmark = [pytest.mark.torch, pytest.mark.slow]

TOLERANCE = 1e-5  # of the output's standard deviation

FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
)
CLIPS = {
    "b32": (
        ViTConfig.clip_b32(),
        CLIPTextConfig(49408, 512, 2048, num_attention_heads=8, projection_dim=512),
    ),
    "l14": (ViTConfig.clip_l14(), CLIPTextConfig()),
    "h14": (
        ViTConfig.clip_h14(),
        CLIPTextConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            hidden_act="gelu",
            projection_dim=1024,
        ),
    ),
}


def settings(config, *more):
    return {name: getattr(config, name) for name in (*FIELDS, *more)}


def shaken(model):
    """Weights of a new model, moved a little off their start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            step = torch.randn(parameter.shape, generator=generator)
            parameter.add_(step, alpha=0.02)
    return model.eval()


@pytest.mark.parametrize("name", CLIPS)
def test_full_size_clip_equals_transformers(name, tmp_path):
    vision, words = CLIPS[name]
    config = transformers.CLIPConfig(
        vision_config=settings(vision, "image_size", "patch_size"),
        text_config=settings(words, "vocab_size"),
        projection_dim=vision.projection_dim,
    )
    torch.manual_seed(0)
    reference = shaken(transformers.CLIPModel(config))
    reference.save_pretrained(tmp_path)
    images = noise(0, 1, 3, 224, 224).astype(np.float32)
    ids = np.array([[49406, *range(320, 380), *[49407] * 16]])
    with torch.no_grad():
        expected = reference(torch.tensor(ids), torch.tensor(images))
    embeds = [expected.image_embeds.numpy(), expected.text_embeds.numpy()]
    del reference, expected
    model = brushjax.load("clip_vision", tmp_path)
    ours = jax.jit(lambda model, x: model(x).embeds)(model, nhwc(images))
    assert error(ours / jnp.linalg.norm(ours), embeds[0]) <= TOLERANCE
    del model
    model = brushjax.load("clip_text", tmp_path)
    ours = jax.jit(lambda model, x: model(x).text_embeds)(model, jnp.asarray(ids))
    assert error(ours / jnp.linalg.norm(ours), embeds[1]) <= TOLERANCE


@pytest.mark.parametrize("name", ["dino_s16", "dino_b8", "dinov2_s14"])
def test_full_size_dino_equals_transformers(name, tmp_path):
    config = getattr(PlainViTConfig, name)()
    known = settings(config, "image_size", "patch_size")
    torch.manual_seed(0)
    if config.layer_scale:
        known["mlp_ratio"] = known.pop("intermediate_size") // config.hidden_size
        reference = transformers.Dinov2Model(transformers.Dinov2Config(**known))
    else:
        reference = transformers.ViTModel(transformers.ViTConfig(**known), add_pooling_layer=False)
    shaken(reference).save_pretrained(tmp_path)
    images = noise(0, 1, 3, 224, 224).astype(np.float32)
    with torch.no_grad():
        expected = reference(torch.tensor(images)).last_hidden_state
    model = brushjax.load("dino", tmp_path)
    ours = jax.jit(lambda model, x: model(x).tokens)(model, nhwc(images))
    assert error(ours, expected) <= TOLERANCE


def test_full_size_image_reward_equals_transformers(tmp_path):
    from tests.models.scoring.test_parity_image_reward import published, reward

    config = brushjax.models.ImageRewardConfig()
    vision = config.vision
    torch.manual_seed(0)
    parts = (
        shaken(
            transformers.BlipVisionModel(
                transformers.BlipVisionConfig(**settings(vision, "image_size", "patch_size"))
            )
        ),
        shaken(
            transformers.models.blip.modeling_blip_text.BlipTextModel(
                transformers.BlipTextConfig(
                    vocab_size=config.vocab_size,
                    encoder_hidden_size=vision.hidden_size,
                    num_attention_heads=config.num_attention_heads,
                ),
                add_pooling_layer=False,
            )
        ),
        randomize(heads((768, *config.mlp)), dtype=torch.float32),
    )
    torch.save(published(*parts), tmp_path / "ImageReward.pt")
    images = noise(0, 2, 3, 224, 224).astype(np.float32)
    ids = np.concatenate([np.arange(1000, 1070).reshape(2, 35)])
    ids[1, 20:] = 0
    with torch.no_grad():
        expected = reward(*parts, images, ids, ids > 0)
    model = brushjax.load("image_reward", tmp_path / "ImageReward.pt")
    ours = jax.jit(lambda model, *x: model(*x))(
        model, nhwc(images), jnp.asarray(ids), jnp.asarray(ids > 0)
    )
    # One number a picture has no spread of its own: rewards are about 1 wide by definition.
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-5)


def heads(widths):
    """A head's linear layers under their published numbers."""
    pairs = zip(("0", "2", "4", "6", "7"), widths[:-1], widths[1:], strict=True)
    return torch.nn.ModuleDict({number: torch.nn.Linear(a, b) for number, a, b in pairs})
