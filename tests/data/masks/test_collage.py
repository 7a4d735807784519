"""Collages: what is pasted stays inside the mask."""

import numpy as np
import pytest

from brushjax.data.masks.collage import paste
from brushjax.data.masks.shapes import MaskConfig, sample_mask

SIZE = 64
DARK = np.full((SIZE, SIZE, 3), 20, np.uint8)
LIGHT = np.full((SIZE, SIZE, 3), 220, np.uint8)


@pytest.mark.parametrize("seed", range(12))
def test_paste_leaves_the_surroundings_untouched(seed):
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    mask = sample_mask(MaskConfig(), SIZE, rng)
    image = paste(noise[0], noise[1], mask, rng)
    kept = mask[..., 0] == 0
    np.testing.assert_array_equal(image[kept], noise[0][kept])
    assert (image[~kept] != noise[0][~kept]).any()


def test_paste_shows_the_filling_with_a_soft_seam():
    mask = np.zeros((SIZE, SIZE, 1), np.uint8)
    mask[16:48, 16:48] = 1
    for seed in range(12):
        image = paste(DARK, LIGHT, mask, np.random.default_rng(seed))
        assert (image[28:36, 28:36] >= 215).all()
        row = image[32, :32, 0].astype(int)
        assert (np.diff(row) >= 0).all()  # from dark to light, once
        assert np.diff(row).max() < 150  # no hard edge


def test_paste_has_no_seam_along_the_border_of_the_picture():
    mask = np.zeros((SIZE, SIZE, 1), np.uint8)
    mask[:, :32] = 1
    image = paste(DARK, LIGHT, mask, np.random.default_rng(0))
    assert (image[:, :16] >= 215).all()


def test_paste_shows_the_filling_in_thin_holes_too():
    mask = np.zeros((SIZE, SIZE, 1), np.uint8)
    mask[:, 30:35] = 1
    for seed in range(6):
        image = paste(DARK, LIGHT, mask, np.random.default_rng(seed))
        assert (image[:, 32] > 180).all()
