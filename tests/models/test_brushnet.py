"""What the branch is before it is trained: copied from a UNet, and adding exactly nothing."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from brushjax.models import BrushNet, UNet, UNetConfig, keep_mask_condition
from brushjax.nn import Shapes
from tests.random_weights import Weights
from tests.support import GOLDEN, fill, to_torch, torch_names

COPIED_HERE = "add_embedding."  # random in the reference: docs/deviations.md#from-unet

TINY = UNetConfig(
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=12,
    attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
ATTENTION = {
    "down_block_types": TINY.down_block_types,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": TINY.up_block_types,
}
WIDTHS = {"conditioning_embedding_out_channels": (4, 4, 8, 8)}
# Ablation -> settings, and how many maps enter the features: down, mid, up, skips.
ABLATIONS = {
    "full": ({}, (4, 1, 5, 0)),
    "attention": (ATTENTION, (4, 1, 5, 0)),
    "no-mask": ({"conditioning_channels": 4}, (4, 1, 5, 0)),
    "half": ({"injection": "half"}, (4, 1, 0, 0)),
    "controlnet": ({"injection": "controlnet"}, (0, 1, 0, 4)),
    "conv-encoder": ({"conditioning_encoder": "conv", **WIDTHS}, (4, 1, 5, 0)),
}


@pytest.mark.parametrize("name", ["tiny_sd15", "tiny_sdxl"])
def test_from_unet_outcome_per_key_equals_reference(name):
    folder = GOLDEN / name
    published = json.loads((folder / "unet" / "config.json").read_text())
    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    branch = start(fill(UNet, UNetConfig.from_dict(published), weights))
    report = json.loads((folder / "from_unet_report.json").read_text())
    ours = {
        key: to_torch(leaf_kind(leaf, key), np.asarray(leaf[...]))
        for key, (leaf, _) in torch_names(branch).items()
    }

    assert set(ours) == {key for keys in report.values() for key in keys}
    copied = report["copied_equal"] + [key for key in ours if key.startswith(COPIED_HERE)]
    assert set(report["other"]) - set(copied) == {
        "conv_in_condition.weight",
        "conv_in_condition.bias",
    }
    for key in copied:
        np.testing.assert_array_equal(ours[key], weights[key], err_msg=key)
    for key in report["zero"]:
        assert not ours[key].any(), key
    np.testing.assert_array_equal(ours["conv_in_condition.bias"], weights["conv_in.bias"])
    latent = weights["conv_in.weight"]
    expected = np.concatenate([latent, latent, np.zeros_like(latent[:, :1])], axis=1)
    np.testing.assert_array_equal(ours["conv_in_condition.weight"], expected)


def leaf_kind(leaf, key):
    """Returns the name under which `to_torch` knows a leaf."""
    return "kernel" if key.endswith("weight") and leaf.ndim > 1 else "bias"


def start(unet, **settings):
    """Returns `BrushNet.from_unet`; compiled, which skips the random weights that are replaced."""
    return jax.jit(functools.partial(BrushNet.from_unet, **settings))(unet)


@pytest.fixture(scope="module")
def unet():
    names = torch_names(nnx.eval_shape(lambda: UNet(TINY, rngs=Shapes())))
    return fill(UNet, TINY, Weights("unet", {key: shape for key, (_, shape) in names.items()}))


SAMPLE, TIMESTEP, CONTEXT = jnp.ones((1, 4, 4, 4)), jnp.array([7]), jnp.ones((1, 3, 12))


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablation_is_settings_away_and_starts_at_zero(unet, ablation):
    settings, counts = ABLATIONS[ablation]
    branch = start(unet, **settings)
    assert all(getattr(branch.config, key) == value for key, value in settings.items())
    taps = (branch.brushnet_down_blocks, branch.brushnet_mid_block, branch.brushnet_up_blocks)
    assert not any(np.asarray(x).any() for tap in taps for x in jax.tree.leaves(nnx.state(tap)))

    pixels = 8 if branch.config.conditioning_encoder == "conv" else 1
    channels = 4 if pixels == 8 else branch.config.conditioning_channels
    condition = jnp.zeros((1, 4 * pixels, 4 * pixels, channels))

    def run(branch):
        residuals = branch(SAMPLE, TIMESTEP, condition, context=CONTEXT)
        return residuals.down, [residuals.mid], residuals.up, residuals.skip

    assert tuple(map(len, jax.eval_shape(run, branch))) == counts


def test_untrained_branch_changes_nothing(unet):
    """Bit for bit, also where the branch's features are far from zero."""
    branch, condition = start(unet), jax.random.normal(jax.random.key(0), (1, 4, 4, 5))

    @jax.jit
    def run(unet, branch):
        residuals = branch(SAMPLE, TIMESTEP, condition)
        return residuals, unet(SAMPLE, TIMESTEP, CONTEXT, residuals)

    alone = jax.jit(lambda unet: unet(SAMPLE, TIMESTEP, CONTEXT))(unet)
    residuals, out = run(unet, branch)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(residuals))
    np.testing.assert_array_equal(out, alone)
    branch.brushnet_mid_block.bias.set_value(
        jnp.full(16, 0.1)
    )  # the control: now it adds something
    residuals, out = run(unet, branch)
    np.testing.assert_allclose(residuals.mid, 0.1, rtol=1e-6)
    assert np.abs(out - alone).max() > 1e-3


def test_keep_mask_condition_turns_the_mask_and_takes_the_top_left_pixel():
    mask = np.zeros((1, 16, 24, 1), np.uint8)
    mask[0, 8, 16] = 1  # the top-left pixel of the last cell
    mask[0, 1:8, 1:8] = 1  # all of the first cell but its top and left edges
    latents = np.ones((1, 2, 3, 4), np.float32)
    condition = keep_mask_condition(jnp.asarray(latents), jnp.asarray(mask))
    np.testing.assert_array_equal(condition[..., :4], latents)
    np.testing.assert_array_equal(condition[0, ..., 4], [[1, 1, 1], [1, 1, 0]])


def test_keep_mask_condition_refuses_a_mask_of_another_size():
    with pytest.raises(ValueError, match=r"\(16, 24\), got \(16, 16\)"):
        keep_mask_condition(jnp.ones((1, 2, 3, 4)), jnp.ones((1, 16, 16, 1)))
