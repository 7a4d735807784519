"""Preprocessing against the reference's stored arrays, and what is refused."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from brushjax.inference.images import prepare, read_mask
from brushjax.models.brushnet import keep_mask_condition

GOLDEN = Path(__file__).parents[1] / "golden/tiny_sd15_pipeline/io.npz"


def photo(height=24, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def hole(height=24, width=40):
    mask = np.zeros((height, width), np.uint8)
    mask[8:16, 10:30] = 255
    return mask


def test_prepare_equals_the_reference_exactly():
    golden = np.load(GOLDEN)
    prepared = prepare([golden["image_uint8"]], [golden["mask_uint8"]])
    blackened = golden["image_uint8"] * (1 - prepared.holes[0])
    np.testing.assert_array_equal(blackened, golden["masked_image_uint8"])
    pixels = prepared.masked.astype(np.float32) / 255 * 2 - 1
    stored = golden["preprocessed_image"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(pixels, stored, atol=1e-6, rtol=0)
    keep = golden["keep_mask_full"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(1 - prepared.masks, keep)
    condition = keep_mask_condition(jnp.zeros((1, 16, 17, 4)), jnp.asarray(prepared.masks))
    stored = golden["keep_mask_latent"].transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(condition[..., 4:], stored)


def test_prepare_makes_the_hole_black_before_it_resizes():
    image, mask = np.full((20, 44, 3), 200, np.uint8), np.zeros((20, 44), np.uint8)
    mask[:, 22:] = 255
    prepared = prepare([image], [mask])
    assert prepared.masked.shape == (1, 16, 40, 3)
    edge = prepared.masked[0, 8, 18:22, 0]
    assert np.any((edge > 0) & (edge < 200))  # Lanczos mixed the hole's black into its edge
    np.testing.assert_array_equal(prepared.originals[0], image)


def test_masks_mean_the_same_in_every_form(tmp_path):
    mask = hole()
    Image.fromarray(mask).save(tmp_path / "mask.png")
    forms = [
        mask,
        mask > 0,
        mask / 255.0,
        mask[..., None],
        np.repeat(mask[..., None], 3, axis=-1),
        Image.fromarray(mask),
        Image.fromarray(mask).convert("1"),
        Image.fromarray(mask).convert("P"),
        Image.fromarray(mask).convert("CMYK"),
        Image.fromarray(mask).convert("LA"),
        Image.fromarray(mask.astype(np.uint16) * 257),
        Image.fromarray(mask.astype(np.int32) * 257),
        np.dstack([np.zeros((*mask.shape, 3), np.uint8), mask]),  # alpha alone
        tmp_path / "mask.png",
        str(tmp_path / "mask.png"),
    ]
    for form in forms:
        np.testing.assert_array_equal(read_mask(form).white, mask)


def test_mask_is_white_from_half_grey_on():
    mask = np.array([[127, 128]], np.uint8).repeat(8, 0).repeat(8, 1)
    prepared = prepare([photo(8, 16)], [mask])
    np.testing.assert_array_equal(prepared.holes[0, 0, :, 0], [0] * 8 + [1] * 8)


def test_prepare_warns_of_a_mask_that_looks_inverted():
    mask = np.full((24, 40), 255, np.uint8)
    mask[0] = 0
    with pytest.warns(UserWarning, match=r"marks 96% .* inverted"):
        prepare([photo()], [mask])


def test_prepare_warns_of_a_picture_that_came_as_the_mask():
    with pytest.warns(UserWarning, match=r"neither black nor white in \d+% .* is it a picture"):
        prepare([photo()], [photo()])


@pytest.mark.parametrize(
    ("image", "mask", "error", "message"),
    [
        (photo(), hole(24, 48), ValueError, "image 24x40 and mask 24x48"),
        (photo(), hole() * 0, ValueError, "marks nothing.*brightest value is 0"),
        (photo(), hole() // 255, ValueError, "marks nothing.*brightest value is 1 .*opacity"),
        (photo() / 255.0, hole(), TypeError, "expected image array of dtype uint8, got float64"),
        (photo(), hole().astype(int), TypeError, "expected mask array of dtype uint8 or bool"),
        (photo(), hole() / 1.0, ValueError, r"floats in \[0, 1\], got 0 to 255"),
        (photo(), hole() * np.nan, ValueError, r"floats in \[0, 1\], got nan to nan"),
        (photo()[..., 0], hole(), ValueError, r"expected an image \[H, W, 3\], got shape"),
        (photo(), np.zeros((24, 40, 2), bool), ValueError, r"expected a mask .* got shape"),
        (None, hole(), TypeError, "expected image as a PIL image, a path or an array"),
        (photo(7, 40), hole(7, 40), ValueError, "expected sides of at least 8 pixels"),
        ("nowhere.png", hole(), FileNotFoundError, r"nowhere\.png"),
    ],
)
def test_prepare_refuses(image, mask, error, message):
    if isinstance(mask, np.ndarray) and mask.shape[0] == 7:
        mask[:] = 255 * (np.arange(40) > 20)
    with pytest.raises(error, match=message):
        prepare([image], [mask])


def test_prepare_refuses_pictures_of_two_sizes_in_one_batch():
    with pytest.raises(ValueError, match="24x40 for sample 0 and 32x40 for sample 1"):
        prepare([photo(), photo(32, 40)], [hole(), hole(32, 40)])
