import numpy as np
import pytest

from brushjax.metrics import pixel


def picture(values) -> np.ndarray:
    """One grey float picture [1, H, W, 3]."""
    return np.repeat(np.asarray(values, np.float64)[None, ..., None], 3, axis=-1)


@pytest.fixture
def half():
    """A 4x6 mask whose right half is the hole."""
    mask = np.zeros((1, 4, 6), np.uint8)
    mask[:, :, 3:] = 1
    return mask


def test_mse_and_psnr_in_and_out_of_the_mask(half):
    truth = np.zeros((1, 4, 6, 3), np.uint8)
    result = truth.copy()
    result[:, :, 3:] = 51  # 0.2 of the range
    result[:, 0, 0, 0] = 255  # one channel of one of 12 kept pixels
    assert pixel.mse(result, truth, half) == pytest.approx(0.04)
    assert pixel.psnr(result, truth, half) == pytest.approx(13.9794, abs=1e-4)
    assert pixel.mse(result, truth, 1 - half) == pytest.approx(1 / 36)
    assert pixel.mse(result, truth) == pytest.approx((0.04 + 1 / 36) / 2)
    assert pixel.mae(result, truth, half[..., None]) == pytest.approx(0.2)


def test_psnr_of_a_copy_is_capped_and_of_nothing_undefined(half):
    same = np.full((1, 4, 6, 3), 7, np.uint8)
    assert pixel.psnr(same, same, half) == pixel.PSNR_CAP
    assert np.isnan(pixel.psnr(same, same, np.zeros_like(half)))


def test_inner_ring_is_four_wide_and_ignores_the_frame():
    mask = np.zeros((1, 20, 20, 1))
    mask[0, 2:14, 6:] = 1  # touches the right frame
    ring = pixel.inner_ring(mask, 4)[0]
    expected = np.zeros((20, 20), bool)
    expected[2:14, 6:] = True
    expected[6:10, 10:] = False
    np.testing.assert_array_equal(ring, expected)


def test_inner_ring_reaches_diagonally():
    mask = np.ones((1, 9, 9))
    mask[0, 4, 4] = 0
    assert (
        pixel.inner_ring(mask, 2).sum() == 24
    )  # 5x5 king moves around the kept pixel, without itself


def test_ring_error_ignores_the_middle_of_the_hole():
    mask = np.zeros((1, 24, 24))
    mask[0, 4:20, 4:20] = 1
    truth = np.zeros((1, 24, 24, 3))
    result = truth.copy()
    result[0, 8:16, 8:16] = 1.0  # farther than 4 pixels from the edge
    assert pixel.ring_error(result, truth, mask) == 0
    result[0, 4] = 0.5  # one row of 16 of the 16*16 - 8*8 = 192 ring pixels
    assert pixel.ring_error(result, truth, mask) == pytest.approx(0.5 * 16 / 192)


def test_edge_discontinuity_is_the_height_of_a_jump(half):
    truth = picture(np.full((4, 6), 0.5))
    result = picture(np.full((4, 6), 0.8))
    assert pixel.edge_discontinuity(result, truth, half) == pytest.approx(0.3)
    assert pixel.edge_step(result, truth, half) == pytest.approx(0.3)


def test_edge_discontinuity_cancels_slopes_and_texture(half):
    slope = picture(np.tile(np.linspace(0, 1, 6), (4, 1)))
    stripes = picture(np.tile([0.0, 1.0], (4, 3)))
    for natural in (slope, stripes):
        assert pixel.edge_discontinuity(natural, natural, half) == pytest.approx(0, abs=1e-12)
        assert pixel.edge_step(natural, natural, half) > 0.1


def test_edge_discontinuity_of_noise_is_nearly_zero_and_finds_a_shift():
    random = np.random.default_rng(0)
    truth = random.uniform(0.2, 0.6, (16, 48, 48, 3))
    mask = np.zeros((16, 48, 48))
    mask[:, 10:38, 12:30] = 1
    assert abs(pixel.edge_discontinuity(truth, truth, mask).mean()) < 0.003
    assert pixel.edge_discontinuity(truth + 0.4, truth, mask).mean() > 0.2


def test_edge_uses_the_raw_fill_and_the_true_surroundings(half):
    truth = picture(np.full((4, 6), 0.5))
    result = truth.copy()
    result[:, :, :3] = 0.9  # what a model did to the kept part is pasted over and must not count
    assert pixel.edge_discontinuity(result, truth, half) == 0
    result[:, :, 3] = (
        0.6  # first column of the hole: a step of 0.1 across and another one right behind it
    )
    expected = 0.1 - (0.1 + 0) / 2
    assert pixel.edge_discontinuity(result, truth, half) == pytest.approx(expected)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_edge_does_not_depend_on_orientation(turn):
    random = np.random.default_rng(1)
    truth, result = random.uniform(size=(2, 1, 12, 12, 3))
    mask = random.uniform(size=(1, 3, 3)).repeat(4, axis=1).repeat(4, axis=2) > 0.5
    turned = [np.rot90(array, turn, axes=(1, 2)) for array in (result, truth, mask)]
    whole = pixel.edge_discontinuity(result, truth, mask)
    np.testing.assert_allclose(pixel.edge_discontinuity(*turned), whole, rtol=1e-12)


def test_a_mask_without_edge_has_no_discontinuity():
    truth = picture(np.zeros((6, 6)))
    assert np.isnan(pixel.edge_discontinuity(truth, truth, np.ones((1, 6, 6))))
    assert np.isnan(pixel.ring_error(truth, truth, np.ones((1, 6, 6))))


def test_pictures_in_the_models_range_are_refused():
    with pytest.raises(ValueError, match=r"expected uint8 or floats in \[0, 1\]"):
        pixel.to_unit(np.full((1, 2, 2, 3), -1.0))
    with pytest.raises(ValueError, match="B, H, W, C"):
        pixel.to_unit(np.zeros((2, 2, 3)))
