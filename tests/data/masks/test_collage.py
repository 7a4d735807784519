"""Collages: what is pasted stays inside the mask."""

import numpy as np
import pytest

from brushjax.data.masks.collage import mixed, paste, shares
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


def test_shares_are_constant_in_cells_and_neither_nothing_nor_everything():
    rng = np.random.default_rng(0)
    maps = [shares(32, rng) for _ in range(50)]
    for one in maps:
        assert one.shape == (32, 32, 1)
        assert one.dtype == np.float32
        cells = one.reshape(8, 4, 8, 4)
        assert (cells == cells[:, :1, :, :1]).all()
        assert 0.2 <= one.mean() <= 0.8
    spread = [one.std() for one in maps]
    assert min(spread) < 0.2 < 0.35 < max(spread)  # vague ones and sharp ones


def test_mixed_pictures_show_both_by_their_shares():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 200, np.uint8)
    alpha = np.array([[0, 0.25], [0.5, 1]], np.float32)[..., None]
    np.testing.assert_array_equal(mixed(black, white, alpha)[..., 0], [[0, 50], [100, 200]])
