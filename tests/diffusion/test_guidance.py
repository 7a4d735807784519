"""Guidance and blends against stored results of the reference."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.diffusion import guidance

GOLDEN = Path(__file__).parents[1] / "golden/tiny_sd15_pipeline/io.npz"


def test_guidance_extrapolates_from_the_negative_prediction():
    negative, positive = jnp.full((1, 2, 2, 4), 1.0), jnp.full((1, 2, 2, 4), 3.0)
    far = guidance.guided([negative, positive], jnp.float32([7.5]))
    np.testing.assert_array_equal(far, np.full((1, 2, 2, 4), 16.0))
    plain = guidance.guided([negative, positive], jnp.float32([1.0]))
    np.testing.assert_array_equal(plain, positive)


@pytest.mark.parametrize(
    ("text", "image", "expected"),
    [
        (7.5, 1.5, [17.5, 30.5]),
        (1, 1, [4, 5]),  # the whole condition
        (0, 1, [2, 1]),  # the image alone
        (0, 0, [1, 2]),  # nothing
        (1, 0, [3, 6]),
        (3, 3, [10, 11]),  # equal scales: plain guidance between the first and the last
    ],
)
def test_guidance_of_three_conditions_is_that_of_instruct_pix2pix(text, image, expected):
    nothing, of_image, of_both = jnp.float32([[[1, 2]], [[2, 1]], [[4, 5]]])
    scales = jnp.float32([image, text])
    result = guidance.guided([nothing, of_image, of_both], scales)
    np.testing.assert_allclose(result[0], expected, rtol=1e-6)
    moved = guidance.guided([nothing + 3, of_image + 3, of_both + 3], scales)
    np.testing.assert_allclose(moved[0], np.add(expected, 3), rtol=1e-6)


def test_feather_equals_the_reference_script_up_to_its_truncation():
    golden = np.load(GOLDEN)
    original, generated = golden["blend/original"], golden["blend/generated"]
    mask = golden["blend/mask01"]
    # The stored blur ran on uint8, so it is rounded to 1 / 255.
    stored = golden["blend/blurred"]
    np.testing.assert_allclose(guidance.blurred(mask), stored, atol=0.6 / 255)
    ours = guidance.blend(original, generated, mask.astype(np.uint8), "feather").astype(int)
    assert np.abs(ours - golden["blend/test_script"]).max() <= 1


def photos(shape, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (2, *shape), np.uint8)


def test_blends_leave_what_they_promise_bit_exact():
    original, generated = photos((2, 64, 72, 3))
    mask = np.zeros((2, 64, 72, 1), np.uint8)
    mask[0, 20:30, 30:50] = 1
    mask[1, 40:, :8] = 1
    outside = ~mask[..., 0].astype(bool)
    far = outside.copy()
    far[0, 10:40, 20:60] = False
    far[1, 30:, :18] = False

    pasted = guidance.blend(original, generated, mask, "paste")
    np.testing.assert_array_equal(pasted[outside], original[outside])
    np.testing.assert_array_equal(pasted[~outside], generated[~outside])

    feathered = guidance.blend(original, generated, mask, "feather")
    np.testing.assert_array_equal(feathered[far], original[far])
    np.testing.assert_array_equal(feathered[~outside], generated[~outside])
    assert np.any(feathered[outside] != original[outside])  # the feather is not the paste

    np.testing.assert_array_equal(guidance.blend(original, generated, mask, "none"), generated)


def test_blend_refuses_an_unknown_mode():
    original, generated = photos((8, 8, 3))
    with pytest.raises(ValueError, match="expected blend in"):
        guidance.blend(original, generated, np.ones((8, 8, 1), np.uint8), "poisson")


@pytest.mark.parametrize(("mode", "stored"), [("brushnet", "test_script"), ("brushedit", "app")])
def test_published_blends_are_reproduced_bit_for_bit(mode, stored):
    golden = np.load(GOLDEN)
    original, generated = golden["blend/original"], golden["blend/generated"]
    mask = golden["blend/mask01"].astype(np.uint8)
    ours = guidance.blend(original, generated, mask, mode)
    np.testing.assert_array_equal(ours, golden[f"blend/{stored}"])
    batch = guidance.blend(*(np.stack([x, x]) for x in (original, generated, mask)), mode)
    np.testing.assert_array_equal(batch[1], ours)
