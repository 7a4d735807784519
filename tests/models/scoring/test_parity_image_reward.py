"""ImageReward in float64 against transformers' BLIP classes, from a file in the published names."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel

import brushjax
from brushjax.models.scoring.image_reward import DEVIATION, MEAN
from tests.support import error, nhwc
from tests.torch_reference import noise, randomize

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("float64")]

TOLERANCE = 1e-9  # of the output's standard deviation

VISION = {
    "hidden_size": 128,  # two heads of 64, as many as the width says
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 12,
    "patch_size": 4,
    "layer_norm_eps": 1e-6,
}
TEXT = {
    "vocab_size": 40,
    "hidden_size": 64,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "encoder_hidden_size": 128,
    "max_position_embeddings": 9,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}
TIMM = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "encoder.layers.": "blocks.",
    "self_attn.qkv": "attn.qkv",
    "self_attn.projection": "attn.proj",
    "post_layernorm": "norm",
    "layer_norm": "norm",
}


def published(vision, text, head):
    """The three parts' weights under the names of ImageReward.pt."""
    state = {}
    for name, value in vision.state_dict().items():
        for ours, theirs in TIMM.items():
            name = name.replace(ours, theirs)
        state[f"blip.visual_encoder.{name}"] = value
    state |= {f"blip.text_encoder.{name}": v for name, v in text.state_dict().items()}
    state |= {f"mlp.layers.{name}": v for name, v in head.state_dict().items()}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(9)[None]
    state["blip.vision_proj.weight"] = torch.zeros(4, 128)
    return state


def reward(vision, text, head, images, ids, there):
    """The reward as image-reward composes it of the two encoders and the head."""
    picture = vision(torch.tensor(images)).last_hidden_state
    state = text(
        torch.tensor(ids),
        attention_mask=torch.tensor(there, dtype=torch.long),
        encoder_hidden_states=picture,
        encoder_attention_mask=torch.ones(picture.shape[:2], dtype=torch.long),
        is_decoder=False,
    ).last_hidden_state[:, 0]
    for layer in head.values():
        state = layer(state)
    return (state[:, 0] - MEAN) / DEVIATION


def test_image_reward_equals_transformers_blip(tmp_path):
    vision = randomize(BlipVisionModel(BlipVisionConfig(**VISION)))
    text = randomize(BlipTextModel(BlipTextConfig(**TEXT), add_pooling_layer=False))
    widths = (64, 8, 6, 5, 4, 1)
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    numbered = torch.nn.ModuleDict(dict(zip(("0", "2", "4", "6", "7"), layers)))
    head = randomize(numbered)
    torch.save(published(vision, text, head), tmp_path / "ImageReward.pt")

    model = brushjax.load("image_reward", tmp_path / "ImageReward.pt")
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model)))
    images = noise(0, 3, 3, 12, 12)
    ids = np.array([[5, 7, 9, 3, 0, 0], [5, 8, 3, 0, 0, 0], [5, 1, 2, 4, 6, 3]])
    there = ids > 0
    ours = jax.jit(lambda model, *inputs: model(*inputs))(
        model, nhwc(images), jnp.asarray(ids), jnp.asarray(there)
    )

    expected = reward(vision, text, head, images, ids, there)
    assert error(ours, expected) <= TOLERANCE


def test_image_reward_is_written_under_the_published_names(tmp_path):
    vision = BlipVisionModel(BlipVisionConfig(**VISION))
    text = BlipTextModel(BlipTextConfig(**TEXT), add_pooling_layer=False)
    layers = {n: torch.nn.Linear(64 if n == "0" else 1, 1) for n in ("0", "2", "4", "6", "7")}
    state = published(vision, text, torch.nn.ModuleDict(layers))
    torch.save(state, tmp_path / "ImageReward.pt")
    brushjax.weights.convert(
        "image_reward", tmp_path / "ImageReward.pt", tmp_path / "back.safetensors", layout="ldm"
    )
    back = {
        row.name: row.shape
        for row in brushjax.weights.list_tensors("image_reward", tmp_path / "back.safetensors")
    }
    dropped = ("position_ids", "vision_proj.weight")
    assert back == {n: tuple(v.shape) for n, v in state.items() if not n.endswith(dropped)}


def test_aesthetic_head_scores_directions(tmp_path):
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 1)
    torch.save(head.state_dict(), tmp_path / "sa.pth")
    model = brushjax.load("aesthetic", tmp_path / "sa.pth")
    embeds = noise(0, 3, 6)
    unit = torch.tensor(embeds)
    expected = head.double()(unit / unit.norm(dim=-1, keepdim=True))[:, 0]
    ours = model(jnp.asarray(embeds, jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    np.testing.assert_allclose(model(jnp.asarray(7 * embeds, jnp.float32)), ours, atol=1e-6)
