"""UNet and branch against stored outputs of the PyTorch reference (float32, tiny, random)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from brushjax.models import BrushNet, BrushNetConfig, UNet, UNetConfig
from brushjax.models.backbone import DownBlock, MidBlock, UpBlock
from brushjax.nn import GroupNorm
from brushjax.typing import AddedCondition
from tests.support import GOLDEN, error, fill, nhwc, to_torch

TOLERANCE = 2e-5  # of a tensor's std; the reference's own float32 rounding is up to 8e-6


class Golden:
    """One golden folder: both models and the stored arrays."""

    def __init__(self, name):
        folder = GOLDEN / name
        self.io = np.load(folder / "io.npz")
        self.unet = self._load(folder / "unet", UNet, UNetConfig)
        self.branch = self._load(folder / "brushnet", BrushNet, BrushNetConfig)
        self.folder = folder

    @staticmethod
    def _load(folder, kind, config):
        published = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "diffusion_pytorch_model.safetensors")
        return fill(kind, config.from_dict(published), weights)

    @property
    def added(self):
        if "added_text_embeds" not in self.io:
            return None
        times = jnp.asarray(self.io["added_time_ids"], jnp.float32)
        return AddedCondition(jnp.asarray(self.io["added_text_embeds"]), times)

    def inputs(self, prefix=""):
        """Returns sample, timestep, context and condition."""
        sample, condition = (
            nhwc(self.io[prefix + "sample"]),
            nhwc(self.io[prefix + "brushnet_cond"]),
        )
        timestep = jnp.asarray(self.io[prefix + "timesteps"], jnp.int32)
        return sample, timestep, jnp.asarray(self.io[prefix + "encoder_hidden_states"]), condition


@pytest.fixture(scope="module", params=["tiny_sd15", "tiny_sdxl"])
def golden(request):
    return Golden(request.param)


@functools.partial(jax.jit, static_argnames="guess_mode")
def taps(branch, sample, timestep, condition, scale, added, guess_mode=False):
    return branch(sample, timestep, condition, scale, added, guess_mode=guess_mode)


@jax.jit
def predict(unet, sample, timestep, context, residuals, added):
    """The prediction, and every activation inside the UNet by its name."""
    seen = {}
    names = {id(unet.mid_block): "mid_block", id(unet.conv_in): "conv_in"}
    names[id(unet.conv_norm_out)] = "conv_norm_out"
    names |= {id(block): f"down_blocks.{i}" for i, block in enumerate(unet.down_blocks)}
    names |= {id(block): f"up_blocks.{i}" for i, block in enumerate(unet.up_blocks)}

    def record(kind):
        original = kind.__call__

        def call(self, *args, **kwargs):
            out = original(self, *args, **kwargs)
            if id(self) in names:
                seen[names[id(self)]] = out[-1] if isinstance(out, tuple) else out
            return out

        patch.setattr(kind, "__call__", call)

    with pytest.MonkeyPatch.context() as patch:
        for kind in (DownBlock, UpBlock, MidBlock, nnx.Conv, GroupNorm):
            record(kind)
        out = unet(sample, timestep, context, residuals, added)
    return out, seen


def run(golden, scale=1.0, prefix="", **options):
    """Residuals, prediction and activations, of two programs that most tests share."""
    sample, timestep, context, condition = golden.inputs(prefix)
    added = None if prefix else golden.added
    residuals = taps(golden.branch, sample, timestep, condition, scale, added, **options)
    return residuals, *predict(golden.unet, sample, timestep, context, residuals, added)


def test_branch_taps_equal_reference(golden):
    residuals, *_ = run(golden)
    assert len(residuals.down) == sum(key.startswith("down_") for key in golden.io)
    assert len(residuals.up) == sum(key.startswith("up_") for key in golden.io)
    for i, tap in enumerate(residuals.down):
        assert error(tap, golden.io[f"down_{i}"]) <= TOLERANCE
    assert error(residuals.mid, golden.io["mid"]) <= TOLERANCE
    for i, tap in enumerate(residuals.up):
        assert error(tap, golden.io[f"up_{i}"]) <= TOLERANCE


@pytest.mark.parametrize(
    ("scale", "key"), [(1.0, "unet_out_with"), (0.6, "unet_out_with_scale0.6")]
)
def test_unet_with_branch_equals_reference(golden, scale, key):
    _, out, _ = run(golden, scale)
    assert error(out, golden.io[key]) <= TOLERANCE


def test_guess_mode_equals_reference(golden):
    residuals, out, _ = run(golden, guess_mode=True)
    assert error(residuals.down[0], golden.io["guess_down_0"]) <= TOLERANCE
    assert error(residuals.mid, golden.io["guess_mid"]) <= TOLERANCE
    assert error(residuals.up[-1], golden.io["guess_up_last"]) <= TOLERANCE
    assert error(out, golden.io["unet_out_with_guess"]) <= TOLERANCE


@pytest.mark.parametrize(
    "trace", ["trace_with", pytest.param("trace_without", marks=pytest.mark.slow)]
)
def test_unet_blocks_equal_reference(golden, trace):
    """Every activation inside the UNet: a residual at a wrong place shows here, not at the end."""
    if trace == "trace_with":
        *_, seen = run(golden)
    else:
        sample, timestep, context, _ = golden.inputs()
        _, seen = predict(golden.unet, sample, timestep, context, None, golden.added)
    expected = [key for key in golden.io if key.startswith(trace + "/")]
    assert len(expected) == len(seen)
    for key in expected:
        assert error(seen[key.split("/")[1]], golden.io[key]) <= TOLERANCE, key


@pytest.mark.slow
def test_odd_sizes_equal_reference():
    golden = Golden("tiny_sd15")
    residuals, out, _ = run(golden, prefix="odd/")
    for group in ("down", "up"):
        for key in (key for key in golden.io if key.startswith(f"odd/{group}_")):
            tap = getattr(residuals, group)[int(key.rsplit("_", 1)[1])]
            assert error(tap, golden.io[key]) <= TOLERANCE
    assert error(residuals.mid, golden.io["odd/mid"]) <= TOLERANCE
    assert error(out, golden.io["odd/unet_out_with"]) <= TOLERANCE


@pytest.mark.slow
def test_branch_gradients_equal_reference(golden):
    grads = np.load(golden.folder / "grads.npz")
    sample, timestep, context, condition = golden.inputs()
    target = nhwc(golden.io["target"])
    graph, state = nnx.split(golden.branch)

    @jax.jit
    def loss_and_grad(params):
        def loss(params):
            residuals = nnx.merge(graph, params)(sample, timestep, condition, 1.0, golden.added)
            out = golden.unet(sample, timestep, context, residuals, golden.added)
            return jnp.mean((out - target) ** 2)

        return jax.value_and_grad(loss)(params)

    value, ours = loss_and_grad(nnx.to_pure_dict(state))
    np.testing.assert_allclose(value, grads["loss"], rtol=1e-6)
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        *parts, kind = (key.key for key in path)
        name = ".".join(map(str, (*parts, "bias" if kind == "bias" else "weight")))
        flat[name] = to_torch(kind, np.asarray(leaf))
    assert set(flat) == set(grads["all_names"])
    total = np.sqrt(sum(np.sum(np.square(g, dtype=np.float64)) for g in flat.values()))
    np.testing.assert_allclose(total, grads["total_grad_norm"], rtol=1e-5)
    for name, norm in zip(grads["all_names"], grads["all_grad_norms"], strict=True):
        np.testing.assert_allclose(np.linalg.norm(flat[name]), norm, rtol=1e-4, err_msg=name)
    for key in (key for key in grads.files if key.startswith("grad/")):
        difference = np.linalg.norm(flat[key[5:]] - grads[key])
        assert difference <= 1e-4 * np.linalg.norm(grads[key]), key
