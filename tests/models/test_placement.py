"""Pictures of any size in a square, and masks back: nothing is cropped, nothing turned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.metrics.preprocess import CLIP_MEAN, CLIP_STD
from brushjax.models import Placement

FITS = ("squash", "letterbox")


def test_hot_patch_becomes_its_own_block():
    """224 pixels in patches of 14 are a 16 x 16 grid; at 512 pixels a patch is 32 x 32."""
    hot = np.zeros((1, 256), np.float32)
    hot[0, 3 * 16 + 5] = 1  # row 3, column 5
    mask = Placement(224, 14).spread(jnp.asarray(hot), 512, 512, smooth=False)
    expected = np.zeros((1, 512, 512, 1))
    expected[0, 96:128, 160:192] = 1
    assert np.array_equal(mask, expected)
    latent = Placement(224, 14).spread(jnp.asarray(hot), 64, 64, smooth=False)
    assert np.array_equal(latent[0, 12:16, 20:24], np.ones((4, 4, 1)))
    assert float(latent.sum()) == 16


def test_smooth_mask_is_bilinear_between_the_patches_centres():
    values = jnp.asarray(np.random.default_rng(0).random((2, 64)), jnp.float32)
    mask = Placement(64, 8).spread(values, 40, 72, smooth=True)
    expected = jax.image.resize(values.reshape(2, 8, 8), (2, 40, 72), "linear")
    np.testing.assert_allclose(mask[..., 0], expected, atol=1e-6)


def test_region_of_two_patches_ends_where_the_bilinear_map_crosses_the_cut():
    """Centres at 4 and 12 pixels, 0.9 and 0.3 there: 0.5 lies two thirds of the way between."""
    values = jnp.asarray([[0.9, 0.3, 0.9, 0.3]], jnp.float32)
    pixels = np.asarray(Placement(16, 8).pixels(values, 16, 16))[0]
    centres = np.arange(16) + 0.5
    expected = 0.9 - 0.6 * np.clip((centres - 4) / 8, 0, 1)
    np.testing.assert_allclose(pixels, np.tile(expected, (16, 1)), atol=1e-6)
    assert np.array_equal((pixels > 0.5)[0], centres < 4 + 8 * 2 / 3)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(64, 64), (37, 90), (301, 50), (5, 400), (1, 1)])
def test_every_pixel_has_its_value_from_patches_that_show_the_picture(smooth, fit, size):
    place = Placement(56, 14, fit)
    full = place.spread(jnp.ones((1, 16)), *size, smooth=smooth)
    np.testing.assert_allclose(full, np.ones((1, *size, 1)), atol=1e-6)
    values = jnp.asarray(showing(place, *size).reshape(1, 16), jnp.float32)
    np.testing.assert_allclose(place.spread(values, *size, smooth=smooth), full, atol=1e-6)


def showing(place, height, width):
    """Which patches show any of a picture."""
    top, bottom, left, right = place.box(height, width)
    square = np.zeros((place.side, place.side), bool)
    square[top:bottom, left:right] = True
    blocks = square.reshape(place.grid, place.patch, place.grid, place.patch)
    return blocks.any(axis=(1, 3))


def test_letterbox_keeps_the_shape_in_the_middle_and_squash_fills_the_square():
    assert Placement(64, 8).box(30, 60) == (0, 64, 0, 64)
    assert Placement(64, 8, "letterbox").box(30, 60) == (16, 48, 0, 64)
    assert Placement(64, 8, "letterbox").box(60, 30) == (0, 64, 16, 48)
    assert Placement(64, 8, "letterbox").box(1, 1000) == (31, 32, 0, 64)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(90, 45), (48, 120)])
def test_view_shows_the_border_where_the_mask_finds_it(fit, size):
    """What is painted at a corner of the picture is seen by the patches that its mask names."""
    place = Placement(56, 14, fit)
    for rows, columns in (
        (slice(0, 12), slice(0, 12)),
        (slice(-12, None), slice(-12, None)),
    ):
        image = np.zeros((1, *size, 3), np.float32)
        image[:, rows, columns] = 1
        view = np.asarray(place.view(jnp.asarray(image)))[0].mean(axis=-1)
        plain = np.asarray(place.view(jnp.zeros((1, *size, 3))))[0].mean(axis=-1)
        seen = np.abs(view - plain).reshape(4, 14, 4, 14).max(axis=(1, 3)) > 0.3
        patches = jnp.asarray(seen.reshape(1, 16), jnp.float32)
        mask = np.asarray(place.spread(patches, *size, smooth=False))[0, ..., 0]
        assert mask[rows, columns].all()
        assert seen.sum() < 8


def test_view_is_normalised_as_clip_wants_it_and_keeps_a_picture_of_its_size():
    image = jnp.asarray(np.random.default_rng(0).random((2, 16, 16, 3)) * 2 - 1, jnp.float32)
    view = Placement(16, 8).view(image)
    expected = ((image + 1) / 2 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    np.testing.assert_allclose(view, expected, atol=1e-6)
    letter = Placement(16, 8, "letterbox").view(image[:, :8])
    assert np.array_equal(letter[:, :4], np.zeros((2, 4, 16, 3)))
    np.testing.assert_allclose(letter[:, 4:12], expected[:, :8], atol=1e-6)


def test_view_of_another_size_is_pillows_antialiased_bicubic_without_its_rounding():
    from PIL import Image

    rng = np.random.default_rng(0)
    picture = np.clip(rng.normal(128, 20, (60, 100, 3)), 0, 255).astype(np.uint8)
    resized = np.asarray(Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC))
    view = Placement(32, 8).view(jnp.asarray(picture[None] / 127.5 - 1, jnp.float32))
    values = (np.asarray(view)[0] * np.array(CLIP_STD) + np.array(CLIP_MEAN)) * 255
    assert np.abs(values - resized).max() < 1.5


def test_placement_refuses_patches_that_do_not_fit():
    with pytest.raises(ValueError, match="divisible by the patch"):
        Placement(60, 14)
    with pytest.raises(ValueError, match="expected 4 x 4 patches, got 9"):
        Placement(56, 14).spread(jnp.ones((1, 9)), 8, 8, smooth=True)
