"""The compiled programs of an edit: what they share, what they save, and when they compile."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.inference.edit import EditInputs, predictor
from brushjax.models.brushnet import BrushNet, BrushNetConfig
from brushjax.models.unet import UNet, UNetConfig
from brushjax.typing import AddedCondition
from tests.inference.conftest import filled

SDXL_BODY = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": (2, 2),
    "transformer_layers_per_block": (1, 2),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 5,
}


@pytest.fixture(scope="module")
def sdxl():
    cross = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    unet = filled(UNet, UNetConfig(**SDXL_BODY, **cross), 0)
    return unet, filled(BrushNet, BrushNetConfig(**SDXL_BODY, **plain), 1)


def added(seed, batch=1):
    random = np.random.default_rng(seed)
    return AddedCondition(
        text_embeds=jnp.asarray(random.standard_normal((batch, 5)), jnp.float32),
        time_ids=jnp.full((batch, 6), 32.0),
    )


def make_inputs(guided=True, batch=1, **changes):
    random = np.random.default_rng(5)
    context, negative = random.standard_normal((2, batch, 5, 16), np.float32)
    return EditInputs(
        **{
            "masked": None,
            "masks": None,
            "noise": None,
            "context": jnp.asarray(context),
            "negative": jnp.asarray(negative) if guided else None,
            "guidance": jnp.float32(2),
            "scales": None,
            **changes,
        }
    )


def latents(batch=1):
    random = np.random.default_rng(6)
    x, condition = (random.standard_normal((batch, 3, 4, c), np.float32) for c in (4, 5))
    return jnp.asarray(x), jnp.asarray(condition)


@pytest.mark.parametrize("negative_added", [None, added(2)])
def test_sdxl_step_equals_two_passes_with_their_own_added_conditions(sdxl, negative_added):
    unet, branch = sdxl
    x, condition = latents()
    inputs = make_inputs(added=added(1), negative_added=negative_added)
    time = jnp.array([7])

    @jax.jit
    def apart():
        def one(context, own):
            residuals = branch(x, time, condition, 0.7, own)
            return unet(x, time, context, residuals, own)

        negative = one(inputs.negative, negative_added or inputs.added)
        return negative + 2.0 * (one(inputs.context, inputs.added) - negative)

    step = jax.jit(lambda: predictor(unet, branch, condition, inputs)(x, time[0], jnp.float32(0.7)))
    assert np.abs(step() - apart()).max() <= 1e-5 * np.std(apart())
    other = dataclasses.replace(inputs, added=added(3))
    changed = jax.jit(
        lambda: predictor(unet, branch, condition, other)(x, time[0], jnp.float32(0.7))
    )()
    assert np.abs(changed - apart()).max() > 1e-3 * np.std(apart())
