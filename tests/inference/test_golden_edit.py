"""The reference's eight stored edits, reproduced from the picture to the picture, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import brushjax
from brushjax.diffusion.samplers import make_sampler
from brushjax.inference.engine.batch import control_scales
from brushjax.inference.engine.edit import as_bytes, decode, denoise, encode
from brushjax.inference.engine.options import Condition, EditInputs, EditOptions
from brushjax.inference.images import prepare
from brushjax.models.brushnet import keep_mask_condition
from tests.support import GOLDEN

PIPELINE = GOLDEN / "tiny_sd15_pipeline"
PARTIAL = {"scale": 0.7, "start": 0.2, "end": 0.8}
RUNS = {  # stored name -> sampler, then what differs from the defaults
    "ddim": ("ddim", {"own_conditions": True}),
    "unipc": ("unipc-reference", {"own_conditions": True}),
    "ddim_mode": ("ddim", {}),
    "unipc_mode": ("unipc-reference", {}),
    "pndm_mode": ("pndm", {}),
    "unipc_mode_partial": (
        "unipc-reference",
        {"control": {"scale": 0.7, "start": 0.2, "end": 0.8}},
    ),
    "ddim_mode_guess": ("ddim", {"guess": True}),
    "ddim_mode_nocfg": ("ddim", {"guidance": 1.0}),
}


def nhwc(array):
    return np.moveaxis(array, 1, -1)


def assert_close(ours, stored, bound=1e-4):
    assert np.shape(ours) == stored.shape
    assert np.abs(np.asarray(ours) - stored).max() <= bound * stored.std()


@pytest.fixture(scope="module")
def golden():
    return np.load(PIPELINE / "io.npz")


@pytest.fixture(scope="module")
def networks():
    parts = {
        "unet": brushjax.load("unet", GOLDEN / "tiny_sd15/unet"),
        "brushnet": brushjax.load("brushnet", GOLDEN / "tiny_sd15/brushnet"),
        "vae": brushjax.load("vae", PIPELINE / "vae"),
    }
    return {name: nnx.split(part) for name, part in parts.items()}


@pytest.fixture(scope="module")
def merged(networks):
    return {name: nnx.merge(*part) for name, part in networks.items()}


@pytest.fixture(scope="module")
def vae_programs(merged):
    vae = merged["vae"]
    return (
        jax.jit(vae.encode),
        jax.jit(vae.to_images),
        jax.jit(lambda x: as_bytes(decode(vae, x, None))),
    )


@pytest.fixture(scope="module")
def loop(networks):
    """The sampling loop, compiled once for each form of guidance; padded, so not once a sampler."""

    def run(params, condition, sampler, inputs, options):
        unet, branch = (nnx.merge(networks[name][0], params[name]) for name in ("unet", "brushnet"))
        return denoise(unet, branch, condition, sampler, inputs, options, trajectory=True)

    compiled = jax.jit(run, static_argnums=4)
    params = {name: networks[name][1] for name in ("unet", "brushnet")}
    return lambda *arguments: compiled(params, *arguments)


def test_preprocessing_equals_the_stored_one(golden):
    prepared = prepare([golden["image_uint8"]], [golden["mask_uint8"]])
    pixels = prepared.masked.astype(np.float32) / 255 * 2 - 1
    np.testing.assert_allclose(pixels, nhwc(golden["preprocessed_image"]), atol=1e-6)
    keep = 1.0 - prepared.masks
    np.testing.assert_array_equal(keep, nhwc(golden["keep_mask_full"]))
    cells = keep_mask_condition(jnp.zeros((1, 16, 17, 4)), jnp.asarray(prepared.masks))
    np.testing.assert_array_equal(cells[..., 4:], nhwc(golden["keep_mask_latent"]))


# The default suite compares whole edits: test_inpaint.py. Slow are forms of guidance that other
# tests run too, each a program of its own.
SLOW = ("ddim_mode", "unipc_mode", "ddim_mode_guess", "ddim_mode_nocfg")


def marked(name):
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.heavy)


@pytest.mark.parametrize("name", [*map(marked, RUNS)])
def test_edit_reproduces_every_step_of_a_stored_run(golden, vae_programs, merged, loop, name):
    sampler_name, changes = RUNS[name]
    encode_moments, to_images, to_pictures = vae_programs
    prepared = prepare([golden["image_uint8"]], [golden["mask_uint8"]])
    posterior = encode_moments(prepared.masked.astype(np.float32) / 255 * 2 - 1)
    latents = posterior.mode()
    if "own_conditions" in changes:  # a sample of the posterior for each half, as the reference
        drawn = nhwc(golden["vae_posterior_eps"]) * np.exp(0.5 * posterior.logvar)
        latents = latents + drawn  # [2, h, w, 4]
    scaled = latents * merged["vae"].config.scaling_factor
    masks = np.repeat(prepared.masks, len(scaled), axis=0)
    condition = keep_mask_condition(jnp.asarray(scaled), jnp.asarray(masks))
    stored = nhwc(golden[f"{name}/brushnet_cond"])
    assert_close(condition, stored[: len(condition)])

    sampler = make_sampler(sampler_name, PIPELINE / "scheduler", 5)
    np.testing.assert_array_equal(sampler.rows.timestep, golden[f"{name}/timesteps"])
    control = {"scale": 1.0, "start": 0.0, "end": 1.0, **changes.get("control", {})}
    scales = control_scales(sampler.steps, **control)
    np.testing.assert_allclose(scales, golden[f"{name}/cond_scales"], rtol=1e-6)
    guided = "guidance" not in changes
    inputs = EditInputs(
        masked=None,
        masks=None,
        noise=nhwc(golden["initial_noise"]),
        conditions=tuple(
            Condition(golden[f"{kind}prompt_embeds"])
            for kind in (("negative_", "") if guided else ("",))
        ),
        guidance=np.float32(7.5),
        scales=np.pad(scales, (0, 32 - len(scales))),
    )
    options = EditOptions(guess_mode="guess" in changes)
    path = loop(condition, sampler.padded(), inputs, options)[: sampler.steps]
    for step, latents in enumerate(golden[f"{name}/step_latents"]):
        assert_close(path[step], nhwc(latents))
    assert_close(path[-1], nhwc(golden[f"{name}/final_latents"]))
    assert_close(to_images(path[-1]), nhwc(golden[f"{name}/decoded_raw"]))
    pictures = np.asarray(to_pictures(path[-1])).astype(int)
    assert np.abs(pictures - golden[f"{name}/decoded_uint8"]).max() <= 1  # a rounding, at most


def test_encode_takes_the_posteriors_mode(golden, merged):
    prepared = prepare([golden["image_uint8"]], [golden["mask_uint8"]])
    latents = jax.jit(lambda x: encode(merged["vae"], x, None))(prepared.masked)
    assert_close(latents, nhwc(golden["ddim_mode/brushnet_cond"])[:1, ..., :4])
