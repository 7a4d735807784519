"""Vision transformers in float64 against the classes of transformers, through files they write.

Every model is saved as its users save it and loaded by `brushjax.load`, so names are tested too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import brushjax
from brushjax.models import Placement, ViTConfig
from brushjax.weights.loading import abstract_model
from tests.support import GOLDEN, error, nhwc
from tests.torch_reference import noise, randomize

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("float64")]

TOLERANCE = 1e-9  # of the output's standard deviation

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 12,
    "patch_size": 4,
}


def saved(model, folder):
    """Writes a model with its config in float64, as save_pretrained does."""
    model.save_pretrained(folder)
    return folder


def load(kind, folder):
    """Loads a model and doubles its precision; `randomize` draws weights that float32 holds."""
    model = brushjax.load(kind, folder)
    nnx.update(model, jax.tree.map(lambda x: x.astype(jnp.float64), nnx.state(model)))
    return model


def run(model, images):
    return jax.jit(lambda model, images: (model(images), model.keys(images)))(model, images)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_clip_vision_equals_transformers(act, tmp_path):
    config = transformers.CLIPVisionConfig(**TINY, projection_dim=10, hidden_act=act)
    reference = randomize(transformers.CLIPVisionModelWithProjection(config))
    model = load("clip_vision", saved(reference, tmp_path))

    images = noise(0, 2, 3, 12, 12)
    ours, keys = run(model, nhwc(images))
    expected = reference(torch.tensor(images), output_hidden_states=True)
    assert ours.embeds.dtype == jnp.float64
    assert error(ours.embeds, expected.image_embeds) <= TOLERANCE
    for state, other in zip(ours.hidden_states, expected.hidden_states, strict=True):
        assert error(state, other) <= TOLERANCE
    last = reference.vision_model.encoder.layers[-1]
    hidden = expected.hidden_states[-2]
    wanted = last.self_attn.k_proj(last.layer_norm1(hidden))
    assert error(keys, wanted) <= TOLERANCE


@pytest.mark.parametrize("eps", [1e-12, 1e-6])
def test_dino_equals_transformers_vit(eps, tmp_path):
    config = transformers.ViTConfig(**TINY, layer_norm_eps=eps)
    reference = randomize(transformers.ViTModel(config, add_pooling_layer=True))
    model = load("dino", saved(reference, tmp_path))

    images = noise(0, 2, 3, 12, 12)
    ours, _ = run(model, nhwc(images))
    expected = reference(torch.tensor(images))
    assert error(ours.tokens, expected.last_hidden_state) <= TOLERANCE
    assert error(ours.pooled, expected.last_hidden_state[:, 0]) <= TOLERANCE


@pytest.mark.parametrize("registers", [0, 3])
def test_dinov2_equals_transformers_at_its_own_and_another_size(registers, tmp_path):
    settings = {name: value for name, value in TINY.items() if name != "intermediate_size"}
    settings |= {"mlp_ratio": 2}
    if registers:
        config = transformers.Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
        reference = randomize(transformers.Dinov2WithRegistersModel(config))
    else:
        reference = randomize(transformers.Dinov2Model(transformers.Dinov2Config(**settings)))
    model = load("dino", saved(reference, tmp_path))

    for side in (12, 20):
        images = noise(0, 2, 3, side, side)
        ours, _ = run(model, nhwc(images))
        whole = reference(torch.tensor(images), output_hidden_states=True)
        expected = whole.last_hidden_state
        if side == 12:  # the layers' states come before the final norm
            for state, other in zip(ours.hidden_states, whole.hidden_states, strict=True):
                assert error(state, other) <= TOLERANCE
        # transformers resizes the positions in float32, with float32 filter weights.
        assert error(ours.tokens, expected) <= (TOLERANCE if side == 12 else 1e-6)


def test_vit_refuses_sides_that_are_no_multiple_of_its_patches(tmp_path):
    reference = transformers.ViTModel(transformers.ViTConfig(**TINY))
    model = brushjax.load("dino", saved(reference, tmp_path))
    with pytest.raises(ValueError, match="divisible by the patch size 4"):
        model(jnp.zeros((1, 12, 10, 3)))


def test_clip_is_no_dino_and_dino_no_clip(tmp_path):
    clip = transformers.CLIPVisionModelWithProjection(
        transformers.CLIPVisionConfig(**TINY, projection_dim=10)
    )
    vit = transformers.ViTModel(transformers.ViTConfig(**TINY))
    for kind, folder in (
        ("dino", saved(clip, tmp_path / "clip")),
        ("clip_vision", saved(vit, tmp_path / "vit")),
    ):
        with pytest.raises(brushjax.weights.WeightsError, match="expected"):
            brushjax.load(kind, folder)


def test_both_halves_load_from_a_whole_clip(tmp_path):
    text = {
        "vocab_size": 40,
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 9,
        "bos_token_id": 38,
        "eos_token_id": 39,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=TINY, projection_dim=10)
    reference = randomize(transformers.CLIPModel(config))
    folder = saved(reference, tmp_path)
    vision = load("clip_vision", folder)
    words = load("clip_text", folder)

    images, ids = noise(0, 2, 3, 12, 12), np.array([[38, 5, 39, 39], [38, 7, 8, 39]])
    expected = reference(torch.tensor(ids), torch.tensor(images))
    ours = run(vision, nhwc(images))[0].embeds
    texts = jax.jit(lambda model, ids: model(ids))(words, jnp.asarray(ids)).text_embeds
    unit = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (ours, texts)]
    assert error(unit[0], expected.image_embeds) <= TOLERANCE
    assert error(unit[1], expected.text_embeds) <= TOLERANCE


@pytest.mark.parametrize("layer", [-1, -2])
def test_patches_of_either_layer_equal_transformers(layer, tmp_path):
    config = transformers.CLIPVisionConfig(**TINY, projection_dim=10)
    reference = randomize(transformers.CLIPVisionModelWithProjection(config))
    model = load("clip_vision", saved(reference, tmp_path))
    images = noise(0, 2, 3, 12, 12)
    ours = jax.jit(lambda model, x: model.embed(x, patch_layer=layer))(model, nhwc(images))
    expected = reference(torch.tensor(images), output_hidden_states=True)
    states = reference.vision_model.post_layernorm(expected.hidden_states[layer])
    assert error(ours.image_embeds, expected.image_embeds) <= TOLERANCE
    assert error(ours.patch_embeds, reference.visual_projection(states)[:, 1:]) <= TOLERANCE


def test_clip_equals_stored_outputs():
    io = np.load(GOLDEN / "region" / "clip_io.npz")
    vision = load("clip_vision", GOLDEN / "region" / "clip")
    words = load("clip_text", GOLDEN / "region" / "clip")
    pictures = Placement(64, 8).view(jnp.asarray(io["image_uint8"] / 127.5 - 1))
    embeds = jax.jit(lambda model, x: model.embed(x))(vision, pictures)
    texts = jax.jit(lambda model, ids: model(ids))(words, jnp.asarray(io["input_ids"]))
    assert error(embeds.image_embeds, io["image_embeds_f64"]) <= TOLERANCE
    assert error(embeds.patch_embeds, io["patch_embeds_f64"]) <= TOLERANCE
    assert error(texts.text_embeds, io["text_embeds_f64"]) <= TOLERANCE


def test_clip_l14_has_transformers_names_and_shapes():
    config = ViTConfig.clip_l14()
    fields = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    sizes = {name: getattr(config, name) for name in (*fields, "patch_size", "projection_dim")}
    with torch.device("meta"):
        reference = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**sizes)
        )
    _, shapes = abstract_model("clip_vision", config.to_dict())
    ours = sum(int(np.prod(shape.shape)) for shape in shapes.values())
    assert ours == sum(value.numel() for value in reference.parameters()) == 303_966_208


def test_patches_need_a_projection(tmp_path):
    config = transformers.CLIPVisionConfig(**TINY, projection_dim=10)
    model = load("clip_vision", saved(transformers.CLIPVisionModelWithProjection(config), tmp_path))
    model.visual_projection = None
    with pytest.raises(ValueError, match="projection"):
        model.embed(jnp.zeros((1, 12, 12, 3)))


def test_clip_vision_without_a_projection_equals_transformers(tmp_path):
    config = transformers.CLIPVisionConfig(**TINY, projection_dim=10)
    reference = randomize(transformers.CLIPVisionModel(config))
    model = load("clip_vision", saved(reference, tmp_path))
    images = noise(0, 2, 3, 12, 12)
    ours = jax.jit(lambda model, images: model(images))(model, nhwc(images))
    expected = reference(torch.tensor(images), output_hidden_states=True)
    assert ours.embeds is None
    assert error(ours.hidden_states[-2], expected.hidden_states[-2]) <= TOLERANCE
    assert error(ours.pooled, expected.pooler_output) <= TOLERANCE


def test_dinov2_inside_groma_is_read(tmp_path):
    from safetensors.torch import load_file, save_file

    settings = {name: value for name, value in TINY.items() if name != "intermediate_size"}
    reference = transformers.Dinov2Model(transformers.Dinov2Config(**settings))
    folder = saved(reference, tmp_path / "alone")
    tensors = load_file(folder / "model.safetensors")
    inside = {f"perceiver.vis_encoder.{name}": value for name, value in tensors.items()}
    save_file(inside | {"lm_head.weight": torch.ones(2)}, tmp_path / "groma.safetensors")
    ours = brushjax.load("dino", tmp_path / "groma.safetensors", config=folder / "config.json")
    alone = brushjax.load("dino", folder)
    images = nhwc(noise(0, 1, 3, 12, 12).astype(np.float32))
    np.testing.assert_array_equal(run(ours, images)[0].tokens, run(alone, images)[0].tokens)
