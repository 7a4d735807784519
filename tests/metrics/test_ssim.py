import numpy as np
import pytest
import torch

from brushjax.metrics.ssim import ssim, ssim_map

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 256, (2, 37, 29, 3), np.uint8)
    shift = rng.integers(-40, 41, truth.shape)
    return np.clip(truth + shift, 0, 255).astype(np.uint8), truth


def test_ssim_equals_torchmetrics_over_all_pixels_and_without_the_border(pair):
    """torchmetrics 1.9 keeps the border in its mean; up to 1.4 it cropped the very same map."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (torch.tensor(x.transpose(0, 3, 1, 2) / 255) for x in pair)
    values, full = structural_similarity_index_measure(
        a, b, data_range=1.0, reduction="none", return_full_image=True
    )
    cropped = full[..., 5:-5, 5:-5].mean((1, 2, 3))
    # Its window is made in float32: 1e-7 apart from one made in float64.
    np.testing.assert_allclose(ssim(*pair), values, atol=1e-6)
    np.testing.assert_allclose(ssim(*pair, crop_border=True), cropped, atol=1e-6)
    assert abs(ssim(*pair) - ssim(*pair, crop_border=True)).max() > 1e-4


def test_ssim_equals_scipy(pair):
    from scipy.ndimage import gaussian_filter

    def blur(x):
        return gaussian_filter(x, (0, 1.5, 1.5, 0), radius=(0, 5, 5, 0), mode="mirror")

    a, b = (x / 255 for x in pair)
    mean_a, mean_b = blur(a), blur(b)
    a_a, b_b, a_b = blur(a * a) - mean_a**2, blur(b * b) - mean_b**2, blur(a * b) - mean_a * mean_b
    expected = (2 * mean_a * mean_b + 1e-4) * (2 * a_b + 9e-4)
    expected /= (mean_a**2 + mean_b**2 + 1e-4) * (a_a + b_b + 9e-4)
    np.testing.assert_allclose(ssim_map(*pair), expected, atol=1e-12)


def test_ssim_of_a_region_is_the_mean_of_its_map(pair):
    mask = np.zeros((2, 37, 29), bool)
    mask[0, 3:20, 4:9] = True
    found = ssim(*pair, mask)
    assert found[0] == pytest.approx(ssim_map(*pair)[0, 3:20, 4:9].mean())
    assert np.isnan(found[1])


def test_ssim_of_a_copy_is_one_and_small_pictures_are_refused(pair):
    np.testing.assert_allclose(ssim(pair[0], pair[0]), 1)
    with pytest.raises(ValueError, match="more than 5 pixels"):
        ssim(pair[0][:, :5], pair[1][:, :5])
