"""Preprocessing against PyTorch, Pillow and transformers' own processor."""

import numpy as np
import pytest
import torch
from PIL import Image

from brushjax.metrics.preprocess import CLIP_MEAN, CLIP_STD, PREPROCESS
from brushjax.metrics.resample import resample, resample_matrix

SHAPES = [(300, 451), (451, 300), (224, 224), (225, 226), (640, 427), (130, 133)]


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("sizes", [(7, 19), (19, 7), (30, 24), (5, 5)])
def test_resample_equals_torch(kind, antialias, sizes):
    values = np.random.default_rng(0).normal(size=(sizes[0], 11, 2))
    found = resample(values, sizes[1], 8, kind, antialias)
    channels = torch.tensor(values.transpose(2, 0, 1))[None]
    expected = torch.nn.functional.interpolate(
        channels, (sizes[1], 8), mode=kind, antialias=antialias, align_corners=False
    )
    np.testing.assert_allclose(found, expected[0].numpy().transpose(1, 2, 0), atol=1e-12)


def test_resample_keeps_a_constant():
    for antialias in (False, True):
        matrix = resample_matrix(13, 5, "bicubic", antialias)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_openai_is_pillow_resize_and_centre_crop(shape):
    height, width = shape
    short = min(shape)
    size = (int(224 * width / short), int(224 * height / short))  # Pillow: width first
    resized = np.asarray(
        Image.fromarray(picture(*shape)).resize(size, Image.Resampling.BICUBIC), np.float64
    )
    top, left = round((size[1] - 224) / 2.0), round((size[0] - 224) / 2.0)
    expected = (resized[top : top + 224, left : left + 224] / 255 - CLIP_MEAN) / CLIP_STD
    found = PREPROCESS["openai"](picture(*shape))
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.torch
@pytest.mark.parametrize("shape", SHAPES)
def test_hf_equals_the_processor_of_transformers(shape):
    from transformers import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        do_resize=True,
        size={"shortest_edge": 224},
        crop_size={"height": 224, "width": 224},
        resample=3,
        image_mean=list(CLIP_MEAN),
        image_std=list(CLIP_STD),
    )
    expected = processor(Image.fromarray(picture(*shape)), return_tensors="np")["pixel_values"][0]
    found = PREPROCESS["hf"](picture(*shape))
    np.testing.assert_allclose(found, expected.transpose(1, 2, 0), atol=2e-6)


def test_openai_and_hf_differ_in_the_crop_of_odd_margins_alone():
    wide = picture(224, 451)  # a margin of 113.5 pixels: torchvision takes 114, transformers 113
    found = {name: PREPROCESS[name](wide) for name in ("openai", "hf")}
    assert np.array_equal(found["openai"][:, :-1], found["hf"][:, 1:])
    assert not np.array_equal(found["openai"], found["hf"])


@pytest.mark.torch
@pytest.mark.parametrize("name", ["hps", "hps-antialias", "ip2p", "splice", "splice-unit"])
def test_tensor_resizes_equal_torch(name):
    wanted = PREPROCESS[name]
    values = torch.tensor(picture(300, 451).transpose(2, 0, 1), dtype=torch.float64)[None]
    values = values / 255 if wanted.unit else values
    size = (224, 224) if wanted.square else (224, int(224 * 451 / 300))
    resized = torch.nn.functional.interpolate(
        values,
        size,
        mode=wanted.filter,
        antialias=wanted.resize == "tensor-antialias",
        align_corners=False,
    )[0].numpy()
    if wanted.crop:
        left = round((size[1] - 224) / 2)
        resized = resized[..., left : left + 224]
    resized = resized[..., : resized.shape[-1] // wanted.multiple * wanted.multiple]
    expected = (resized.transpose(1, 2, 0) - wanted.mean) / wanted.std
    scale = 1 if wanted.unit else 255
    np.testing.assert_allclose(wanted(picture(300, 451)), expected, atol=5e-6 * scale)


def test_dino_sees_256_pixels_cropped_to_224():
    grey = np.full((512, 512, 3), 128, np.uint8)
    grey[:20] = 0  # 20 of 512 pixels are 10 of 256: the crop cuts off 16
    found = PREPROCESS["dino"](grey)
    assert found.shape == (224, 224, 3)
    assert np.ptp(found[..., 0]) < 1e-6


def test_structure_distance_sees_whole_patches_of_at_most_480_pixels():
    assert PREPROCESS["splice"](picture(512, 512)).shape == (224, 224, 3)
    assert PREPROCESS["splice"](picture(100, 105)).shape == (224, 232, 3)  # 235 at the full width
    assert PREPROCESS["splice"](picture(100, 300)).shape == (160, 480, 3)


def test_lpips_maps_to_minus_one_and_one_at_the_pictures_size():
    found = PREPROCESS["lpips"](np.array([[[0, 255, 51]] * 7] * 5, np.uint8))
    assert found.shape == (5, 7, 3)
    np.testing.assert_allclose(found[0, 0], [-1, 1, -0.6], atol=1e-6)
