"""Full-size models by abstract evaluation: names, shapes, counts; nothing is computed."""

import functools
import json
import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from brushjax.models import (
    AutoencoderKL,
    BrushNet,
    BrushNetConfig,
    CLIPText,
    CLIPTextConfig,
    UNet,
    UNetConfig,
    VAEConfig,
)
from brushjax.nn import Shapes
from brushjax.typing import AddedCondition
from tests.support import GOLDEN, torch_names

MODELS = {
    "sd15_unet": (UNet, UNetConfig.sd15(), 859_520_964),
    "sd15_brushnet": (BrushNet, BrushNetConfig.sd15(), 618_830_080),
    "sdxl_unet": (UNet, UNetConfig.sdxl(), 2_567_463_684),
    "sdxl_brushnet": (BrushNet, BrushNetConfig.sdxl(), 373_332_480),
    "sd15_pix2pix_unet": (UNet, UNetConfig.sd15(in_channels=8), 859_532_484),
    "sd15_inpainting_unet": (UNet, UNetConfig.sd15(in_channels=9), 859_535_364),
    "sd2_unet": (UNet, UNetConfig.sd2(), 865_910_724),
    "vae": (AutoencoderKL, VAEConfig(), 83_653_863),
    "clip_l": (CLIPText, CLIPTextConfig.sd15(), 123_060_480),
    "clip_h": (CLIPText, CLIPTextConfig.sd2(), 340_387_840),
    "clip_bigg": (CLIPText, CLIPTextConfig.sdxl_2(), 694_659_840),
}


@functools.cache
def abstract(name):
    kind, config, _ = MODELS[name]
    return nnx.eval_shape(lambda: kind(config, rngs=Shapes()))


@pytest.mark.parametrize("name", ["sd15_unet", "sd15_brushnet", "sdxl_unet", "sdxl_brushnet"])
def test_full_size_names_and_shapes_equal_reference(name):
    expected = json.loads((GOLDEN / f"{name}_keys.json").read_text())
    assert {key: list(shape) for key, (_, shape) in torch_names(abstract(name)).items()} == expected


@pytest.mark.parametrize("name", MODELS)
def test_full_size_parameter_count(name):
    leaves = jax.tree.leaves(nnx.state(abstract(name)))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == MODELS[name][2]


def full_size_inputs(name):
    """Returns sample, timestep, context, condition and added for 64 x 64 latents, as shapes."""

    def array(*shape):
        return jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    width = MODELS[name][1].cross_attention_dim
    added = (array(1280), array(6)) if name.startswith("sdxl") else ()
    return array(64, 64, 4), array(), array(77, width), array(64, 64, 5), added


# Widths and sizes of the maps as the reference's branch gives them for 64 x 64 latents.
SD15_DOWN = [(320, 64)] * 3 + [(320, 32)] + [(640, 32)] * 2 + [(640, 16)]
SD15_DOWN += [(1280, 16)] * 2 + [(1280, 8)] * 3
SD15_UP = [(1280, 8)] * 3 + [(1280, 16)] * 4 + [(1280, 32)] + [(640, 32)] * 3 + [(640, 64)]
SD15_UP += [(320, 64)] * 3
SDXL_DOWN = [(320, 64)] * 3 + [(320, 32)] + [(640, 32)] * 2 + [(640, 16)] + [(1280, 16)] * 2
SDXL_UP = [(1280, 16)] * 3 + [(1280, 32)] + [(640, 32)] * 3 + [(640, 64)] + [(320, 64)] * 3
MAPS = {"sd15": (SD15_DOWN, (1280, 8), SD15_UP), "sdxl": (SDXL_DOWN, (1280, 16), SDXL_UP)}


@pytest.mark.parametrize("family", MAPS)
def test_full_size_residuals_have_the_reference_shapes(family):
    sample, timestep, context, condition, added = full_size_inputs(f"{family}_unet")

    def run(unet, branch, sample, timestep, context, condition, added):
        added = AddedCondition(*added) if added else None
        residuals = branch(sample, timestep, condition, 1.0, added)
        out = unet(sample, timestep, context, residuals, added)
        return residuals.down, residuals.mid, residuals.up, out

    unet, branch = abstract(f"{family}_unet"), abstract(f"{family}_brushnet")
    downs, middle, ups, out = jax.eval_shape(
        run, unet, branch, sample, timestep, context, condition, added
    )
    down, mid, up = MAPS[family]
    assert (len(down), len(up)) == ((12, 15) if family == "sd15" else (9, 11))
    assert [x.shape for x in downs] == [(2, size, size, width) for width, size in down]
    assert middle.shape == (2, mid[1], mid[1], mid[0])
    assert [x.shape for x in ups] == [(2, size, size, width) for width, size in up]
    assert out.shape == sample.shape


def test_full_size_text_and_image_shapes():
    ids = jax.ShapeDtypeStruct((2, 77), jnp.int32)

    def encode(text, ids):
        out = text(ids)
        return out.hidden_states, out.text_embeds

    states, embeds = jax.eval_shape(encode, abstract("clip_bigg"), ids)
    assert len(states) == 33
    assert states[-2].shape == (2, 77, 1280)
    assert embeds.shape == (2, 1280)
    image = jax.ShapeDtypeStruct((1, 64, 96, 3), jnp.float32)
    latents = jax.eval_shape(lambda vae, x: vae.to_latents(x), abstract("vae"), image)
    assert latents.shape == (1, 8, 12, 4)
    decoded = jax.eval_shape(lambda vae, z: vae.to_images(z), abstract("vae"), latents)
    assert decoded.shape == image.shape


def test_models_refuse_wrong_sizes():
    image = jax.ShapeDtypeStruct((1, 60, 64, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"multiples of 8, got \(60, 64\)"):
        jax.eval_shape(lambda vae, x: vae.encode(x), abstract("vae"), image)
    ids = jax.ShapeDtypeStruct((1, 78), jnp.int32)
    with pytest.raises(ValueError, match="at most 77 tokens, got 78"):
        jax.eval_shape(lambda text, ids: text(ids), abstract("clip_l"), ids)


@pytest.mark.parametrize(
    ("name", "given"), [("sd15_unet", "sdxl_unet"), ("sdxl_unet", "sd15_unet")]
)
def test_unet_refuses_a_wrong_added_condition(name, given):
    sample, timestep, context, _, _ = full_size_inputs(name)
    added = full_size_inputs(given)[-1]

    def run(unet, sample, timestep, context, added):
        return unet(sample, timestep, context, None, AddedCondition(*added) if added else None)

    with pytest.raises(ValueError, match=r"expected (no added condition|an AddedCondition)"):
        jax.eval_shape(run, abstract(name), sample, timestep, context, added)
