"""An 8-channel UNet alone edits as diffusers' instruct-pix2pix pipeline does."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

import brushjax
from brushjax.inference.engine.pix2pix import EditSettings, InstructPix2Pix
from brushjax.models.unet import UNet
from brushjax.pipelines.bases import BaseFiles, load_base
from tests.inference.conftest import SD15_SCHEDULER, filled

HOW = EditSettings(steps=3, text_guidance=3.0, image_guidance=1.5, scheduler="ddim")
WORDS = ["make the cat red", "a blue chair"]


@pytest.fixture(scope="module")
def folder(parts, tokenizer_folder, tmp_path_factory):
    """In the published layout."""
    place = tmp_path_factory.mktemp("pix2pix")
    config = dataclasses.replace(parts["unet"].config, in_channels=8)
    brushjax.save(filled(UNet, config, 8), place / "unet")
    for name in ("vae", "text_encoder"):
        brushjax.save(parts[name], place / name)
    shutil.copytree(tokenizer_folder, place / "tokenizer")
    (place / "scheduler").mkdir()
    (place / "scheduler/scheduler_config.json").write_text(json.dumps(SD15_SCHEDULER))
    return place


@pytest.fixture(scope="module")
def editor(folder):
    return InstructPix2Pix(load_base(BaseFiles(folder), np.float32))


def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


@pytest.mark.heavy
@pytest.mark.torch
def test_edit_equals_diffusers_pipeline(editor, folder):
    torch = pytest.importorskip("torch")
    import diffusers
    from transformers import CLIPTextModel, CLIPTokenizer

    noise = np.random.default_rng(1).standard_normal((2, 8, 8, 4)).astype(np.float32)
    ours = editor(pictures(), WORDS, [0, 1], HOW, noise=noise)
    pipeline = diffusers.StableDiffusionInstructPix2PixPipeline(
        diffusers.AutoencoderKL.from_pretrained(folder / "vae"),
        CLIPTextModel.from_pretrained(folder / "text_encoder"),
        CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        diffusers.DDIMScheduler.from_config(SD15_SCHEDULER),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        WORDS,
        pictures().astype(np.float32) / 255,
        num_inference_steps=HOW.steps,
        guidance_scale=HOW.text_guidance,
        image_guidance_scale=HOW.image_guidance,
        latents=torch.from_numpy(noise.transpose(0, 3, 1, 2)),
        output_type="np",
    ).images
    error = np.abs(ours - 255 * theirs).max()
    print("largest difference, of 255:", error)
    assert error <= 1  # half of one is our rounding


def test_edit_depends_on_its_own_sample_alone(editor):
    images = pictures()
    both = editor(images, WORDS, [4, 5], EditSettings(steps=2))
    turned = editor(images[::-1], WORDS[::-1], [5, 4], EditSettings(steps=2))
    np.testing.assert_array_equal(turned[::-1], both)
    other = editor(images, WORDS, [4, 6], EditSettings(steps=2))
    np.testing.assert_array_equal(other[0], both[0])
    assert (other[1] != both[1]).any()


def test_unets_without_a_picture_are_refused(parts):
    with pytest.raises(ValueError, match=r"expected a UNet with 8 input channels.*got 4"):
        InstructPix2Pix({**parts, "scheduler": SD15_SCHEDULER})
