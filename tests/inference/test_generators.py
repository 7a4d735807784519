"""Every generator leaves the pixels outside a region as they are, and fills the inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.inference.blended import BlendedLatents
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.inference.region import BrushNetGenerator, LatentGenerator, seeds_of
from brushjax.models.unet import UNet
from brushjax.pipelines.generators import Generator, generate
from tests.inference.conftest import SD15_SCHEDULER, filled

SETTINGS = InpaintSettings(steps=2, guidance=2.0, scheduler="ddim")


@pytest.fixture(scope="module")
def base(parts, tokenizer_folder):
    wanted = {name: parts[name] for name in ("unet", "vae", "text_encoder")}
    return {**wanted, "tokenizer": tokenizer_folder, "scheduler": SD15_SCHEDULER}


@pytest.fixture(scope="module")
def inpainting_base(base):
    """The same with a UNet that reads mask and masked picture."""
    config = dataclasses.replace(base["unet"].config, in_channels=9)
    return {**base, "unet": filled(UNet, config, 5)}


@pytest.fixture(scope="module", params=["brushnet", "blended", "nine channels"])
def generator(request, painter, base, inpainting_base):
    if request.param == "brushnet":
        return BrushNetGenerator(painter)
    return LatentGenerator.from_parts(base if request.param == "blended" else inpainting_base)


def pictures():
    images = np.random.default_rng(0).integers(256, size=(2, 32, 32, 3), dtype=np.uint8)
    mask = np.zeros((2, 32, 32), bool)
    mask[0, 3:17, 5:20] = True
    mask[1, 10:, :9] = True
    return images, mask


def test_generator_changes_the_region_alone(generator):
    assert isinstance(generator, Generator)
    assert generator.capabilities.granularity == 8
    images, mask = pictures()
    keys = jax.random.split(jax.random.key(0), 2)
    out = generate(generator, images, mask, ["a cup", "a chair"], keys, SETTINGS)
    np.testing.assert_array_equal(out[~mask], images[~mask])
    for made, image, inside in zip(out, images, mask, strict=True):
        assert (made[inside] != image[inside]).any(axis=-1).mean() > 0.9
    other = jax.random.split(jax.random.key(1), 2)
    assert (generate(generator, images, mask, ["a cup", "a chair"], other, SETTINGS) != out).any()


def test_only_unets_with_nine_channels_say_that_they_read_the_mask(base, inpainting_base):
    flags = [LatentGenerator.from_parts(p).capabilities for p in (base, inpainting_base)]
    assert [flag.native_inpaint for flag in flags] == [False, True]
    assert not any(flag.differentiable_mask for flag in flags)


@pytest.mark.heavy
def test_inpainting_unet_reads_picture_around_the_hole_and_not_in_it(inpainting_base):
    painter = BlendedLatents(inpainting_base)
    images, mask = pictures()
    how = InpaintSettings(steps=2, guidance=1.0, scheduler="ddim", blend="none")

    def fill(images):
        return painter(list(images), list(mask), ["a", "b"], [0, 1], how)

    first = fill(images)
    inside, outside = images.copy(), images.copy()
    inside[mask] = 255 - inside[mask]
    outside[~mask] = 255 - outside[~mask]
    np.testing.assert_array_equal(fill(inside), first)
    assert (fill(outside) != first).any()


def test_other_numbers_of_channels_are_refused(base):
    config = dataclasses.replace(base["unet"].config, in_channels=8)
    unet = filled(UNet, config, 5)
    with pytest.raises(ValueError, match="expected a UNet with 4 channels, or 9"):
        BlendedLatents({**base, "unet": unet})


def test_seeds_are_the_keys_own():
    keys = jax.random.split(jax.random.key(3), 4)
    seeds = seeds_of(keys)
    assert len(set(seeds)) == 4
    assert seeds_of(keys[jnp.array([2, 0])]) == [seeds[2], seeds[0]]
