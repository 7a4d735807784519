"""The branch and its injection in float64, against references composed of diffusers' own blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

from brushjax.models import BrushNet, BrushNetConfig, UNet, UNetConfig
from brushjax.typing import AddedCondition
from tests.models.test_parity import SD15, SDXL, TOLERANCE, TWO_LEVELS
from tests.support import error, fill, nhwc
from tests.torch_reference import NOTHING, TorchBranch, arrays, injected, noise, randomize

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("float64")]

TIMESTEP = np.array([3, 970])


def plain(settings):
    """Returns a UNet's settings as its attention-free branch has them."""
    blocks = len(settings["block_out_channels"])
    kinds = {"down_block_types": ("DownBlock2D",) * blocks}
    return settings | kinds | {"up_block_types": ("UpBlock2D",) * blocks}


def both(settings, branch_settings=None, conditioning_channels=5, **ours):
    """Builds UNet and branch, each as (PyTorch, ours)."""
    torch_unet = randomize(UNet2DConditionModel(**settings), seed=0)
    unet = fill(UNet, UNetConfig(**settings), arrays(torch_unet))
    branch_settings = plain(settings) if branch_settings is None else branch_settings
    torch_branch = randomize(TorchBranch(conditioning_channels, **branch_settings), seed=1)
    weights = arrays(torch_branch)
    if ours.get("injection", "full") != "full":  # then there is no up path
        weights = {key: weights[key] for key in weights if "up_blocks." not in key}
    ours |= branch_settings | {"conditioning_channels": conditioning_channels}
    ours.setdefault("mid_block_type", "MidBlock2D")
    return torch_unet, unet, torch_branch, fill(BrushNet, BrushNetConfig(**ours), weights)


def close(residuals, expected):
    """Asserts that every map equals the reference's."""
    for maps, expected_maps in zip(residuals, expected, strict=True):
        assert len(maps) == len(expected_maps)
        for i, (ours, reference) in enumerate(zip(maps, expected_maps, strict=True)):
            assert error(ours, reference) <= TOLERANCE, i


@jax.jit
def run(unet, branch, inputs, scale, added):
    sample, timestep, context, condition = inputs
    residuals = branch(sample, timestep, condition, scale, added, context=context)
    return residuals, unet(sample, timestep, context, residuals, added)


def draw(size, conditioning_channels=5):
    """Draws the inputs, for PyTorch and for us: sample, timestep, context, condition."""
    sample, condition = noise(0, 2, 4, *size), noise(3, 2, conditioning_channels, *size)
    context = noise(1, 2, 5, 12)
    ours = (nhwc(sample), jnp.asarray(TIMESTEP), jnp.asarray(context), nhwc(condition))
    return tuple(map(torch.tensor, (sample, TIMESTEP, context, condition))), ours


@pytest.mark.heavy
def test_sd15_branch_equals_diffusers_blocks():
    torch_unet, unet, torch_branch, branch = both(SD15)
    (sample, timestep, context, condition), inputs = draw((9, 8))
    down, mid, up = torch_branch(sample, timestep, condition)
    expected = [0.6 * x for x in down], 0.6 * mid, [0.6 * x for x in up]

    residuals, out = run(unet, branch, inputs, 0.6, None)
    close(
        (residuals.down, (residuals.mid,), residuals.up), (expected[0], expected[1:2], expected[2])
    )
    assert error(out, injected(torch_unet, sample, timestep, context, expected)) <= TOLERANCE


def test_composed_unet_is_the_reference_without_residuals():
    """The oracle of this file against diffusers' own forward pass."""
    torch_unet = randomize(UNet2DConditionModel(**SD15))
    (sample, timestep, context, _), _ = draw((8, 8))
    ours = injected(torch_unet, sample, timestep, context, (NOTHING, 0, NOTHING))
    assert torch.equal(ours, torch_unet(sample, timestep, context).sample)


@pytest.mark.heavy
def test_sdxl_branch_in_guess_mode_equals_diffusers_blocks():
    torch_unet, unet, torch_branch, branch = both(SDXL)
    (sample, timestep, context, condition), inputs = draw((8, 8))
    text, sizes = noise(2, 2, 10), np.array([[1024, 768, 0, 8, 512, 640.0]] * 2)
    added = AddedCondition(jnp.asarray(text), jnp.asarray(sizes))
    torch_added = torch.tensor(text), torch.tensor(sizes)
    down, mid, up = torch_branch(sample, timestep, condition, added=torch_added)
    weights = torch.logspace(-1, 0, len(down) + 1 + len(up), dtype=torch.float64)
    weighted = [x * w for x, w in zip([*down, mid, *up], weights, strict=True)]
    expected = weighted[: len(down)], weighted[len(down)], weighted[len(down) + 1 :]

    @jax.jit
    def guess(unet, branch, sample, timestep, context, condition):
        residuals = branch(sample, timestep, condition, 1.0, added, guess_mode=True)
        return residuals, unet(sample, timestep, context, residuals, added)

    residuals, out = guess(unet, branch, *inputs)
    close(
        (residuals.down, (residuals.mid,), residuals.up), (expected[0], [expected[1]], expected[2])
    )
    reference = injected(torch_unet, sample, timestep, context, expected, torch_added)
    assert error(out, reference) <= TOLERANCE


def test_branch_with_attention_and_without_mask_equals_diffusers_blocks():
    kinds = {"mid_block_type": "UNetMidBlock2DCrossAttn"}
    torch_unet, unet, torch_branch, branch = both(
        TWO_LEVELS, TWO_LEVELS | kinds, conditioning_channels=4
    )
    (sample, timestep, context, condition), inputs = draw((4, 4), conditioning_channels=4)
    down, mid, up = expected = torch_branch(sample, timestep, condition, context)

    residuals, out = run(unet, branch, inputs, 1.0, None)
    close((residuals.down, (residuals.mid,), residuals.up), (down, (mid,), up))
    assert error(out, injected(torch_unet, sample, timestep, context, expected)) <= TOLERANCE


def test_controlnet_injection_equals_diffusers():
    torch_unet, unet, torch_branch, branch = both(TWO_LEVELS, injection="controlnet")
    (sample, timestep, context, condition), inputs = draw((4, 4))
    down, mid, _ = torch_branch(sample, timestep, condition)
    expected = torch_unet(
        sample,
        timestep,
        context,
        down_block_additional_residuals=down,
        mid_block_additional_residual=mid,
    ).sample

    residuals, out = run(unet, branch, inputs, 1.0, None)
    assert (residuals.down, residuals.up) == ((), ())
    close((residuals.skip, (residuals.mid,)), (down, (mid,)))
    assert error(out, expected) <= TOLERANCE


def test_half_injection_with_convolutional_encoder_equals_diffusers_blocks():
    """Both in one program: the masked image comes as pixels, and no up layer is added to."""
    widths = (4, 6, 8, 8)
    encoder = randomize(ControlNetConditioningEmbedding(4, 3, widths), seed=2)
    torch_unet = randomize(UNet2DConditionModel(**TWO_LEVELS), seed=0)
    torch_branch = randomize(TorchBranch(**plain(TWO_LEVELS)), seed=1)
    weights = {key: value for key, value in arrays(torch_branch).items() if "up_blocks." not in key}
    weights |= {f"conditioning_encoder.{key}": value for key, value in arrays(encoder).items()}
    config = BrushNetConfig(
        **plain(TWO_LEVELS),
        injection="half",
        conditioning_encoder="conv",
        conditioning_embedding_out_channels=widths,
    )
    unet = fill(UNet, UNetConfig(**TWO_LEVELS), arrays(torch_unet))
    branch = fill(BrushNet, config, weights)

    (sample, timestep, context, _), (ours, *_) = draw((4, 4))
    pixels = torch.tensor(noise(4, 2, 3, 32, 32))
    keep = torch.tensor(np.random.default_rng(5).integers(0, 2, (2, 1, 32, 32)).astype(float))
    condition = torch.cat([encoder(pixels), torch.nn.functional.interpolate(keep, (4, 4))], dim=1)
    down, mid, _ = torch_branch(sample, timestep, condition)
    expected = injected(torch_unet, sample, timestep, context, (down, mid, NOTHING))

    inputs = (
        ours,
        jnp.asarray(TIMESTEP),
        jnp.asarray(context),
        nhwc(torch.cat([pixels, keep], dim=1)),
    )
    residuals, out = run(unet, branch, inputs, 1.0, None)
    assert (residuals.skip, residuals.up) == ((), ())
    close((residuals.down, (residuals.mid,)), (down, (mid,)))
    assert error(out, expected) <= TOLERANCE
