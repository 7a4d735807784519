"""Large pictures are worked on in a window around the hole, and are the same outside of it."""

import numpy as np
import pytest

from brushjax.inference.crops import Window
from brushjax.inference.images import prepare, size_hint
from brushjax.inference.inpaint import Inpainter
from tests.inference.conftest import SD15_SCHEDULER

SIDE = 32


@pytest.fixture(scope="module")
def cropping(parts, tokenizer_folder):
    return Inpainter.from_parts(
        **parts, tokenizer=tokenizer_folder, scheduler=SD15_SCHEDULER, side=SIDE
    )


def photo(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def hole(shape, top, left, height, width):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + height, left : left + width] = 255
    return mask


@pytest.mark.parametrize(
    ("at", "context", "expected"),
    [
        ((40, 50, 20, 10), 2, (30, 35, 40, 40)),  # twice the longer side, around the middle
        ((40, 50, 4, 4), 2, (26, 36, 32, 32)),  # never smaller than the base's side
        ((0, 0, 20, 20), 2, (0, 0, 40, 40)),  # moved inside the picture
        ((80, 110, 20, 18), 2, (60, 88, 40, 40)),
        ((10, 10, 20, 100), 2, (0, 0, 100, 128)),  # as much as there is
    ],
)
def test_window_lies_around_the_hole_and_inside_the_picture(at, context, expected):
    marked = (hole((100, 128), *at) > 0)[..., None].astype(np.uint8)
    window = Window.around(marked, context, SIDE)
    assert window == expected
    assert window.of(marked).sum() == marked.sum()
    assert max(window.worked_at(SIDE)) == SIDE
    assert not any(side % 8 for side in window.worked_at(SIDE))


def test_crop_paints_at_the_size_of_the_base_and_leaves_the_rest(cropping):
    image, mask = photo(200, 301), hole((200, 301), 90, 120, 40, 30)
    result = cropping(image, mask, "a red cat", steps=2, crop=1.5, blend="paste")
    assert result.latents.shape == (1, SIDE // 8, SIDE // 8, 4)
    assert result.images.shape == (1, 200, 301, 3)
    np.testing.assert_array_equal(result.images[0][mask == 0], image[mask == 0])
    assert (result.images[0] != image).any(axis=-1)[mask > 0].mean() > 0.9
    raw = cropping(image, mask, "a red cat", steps=2, crop=1.5, blend="none").images[0]
    changed = np.argwhere((raw != image).any(axis=-1))
    assert (changed.min(axis=0) >= (80, 105)).all()
    assert (changed.max(axis=0) < (140, 165)).all()


def test_crop_that_is_the_whole_picture_changes_nothing(cropping):
    image, mask = photo(24, 32), hole((24, 32), 8, 8, 12, 12)
    whole = cropping(image, mask, "a red cat", steps=2)
    cropped = cropping(image, mask, "a red cat", steps=2, crop=100)
    np.testing.assert_array_equal(cropped.latents, whole.latents)
    np.testing.assert_array_equal(cropped.images, whole.images)


@pytest.mark.heavy
def test_crops_of_a_batch_may_lie_anywhere_but_have_one_size(cropping):
    images = [photo(64, 64), photo(64, 64)]
    masks = [hole((64, 64), 0, 0, 24, 24), hole((64, 64), 40, 30, 10, 12)]
    both = cropping(images, masks, "a cup", seed=[1, 2], steps=2, crop=2)
    alone = cropping(images[1], masks[1], "a cup", seed=2, steps=2, crop=2)
    assert np.abs(both.latents[1] - alone.latents[0]).max() <= 1e-5 * alone.latents.std()
    wide = hole((64, 100), 10, 10, 10, 80)
    with pytest.raises(ValueError, match="expected the crops of a batch in one size, got 16x32 an"):
        prepare([photo(64, 100)] * 2, [wide, hole((64, 100), 9, 9, 9, 9)], crop=2, side=SIDE)
    with pytest.raises(ValueError, match=r"expected crop of at least 1, got 0\.5"):
        cropping(images, masks, crop=0.5)


@pytest.mark.heavy
def test_sizes_far_from_the_bases_get_one_hint(cropping):
    image, mask = photo(72, 64), hole((72, 64), 8, 8, 30, 30)
    with pytest.warns(UserWarning, match="worked on at 72x64.*trained at 32x32.*--crop 2"):
        cropping(image, mask, "a cup", steps=1)
    cropping(image, mask, "a cup", steps=1)  # warnings are errors here


def test_hint_depends_on_the_size_alone():
    assert "--crop 2" in size_hint((72, 64), SIDE)
    assert "enlarge" in size_hint((8, 16), SIDE)
    assert size_hint((64, 64), SIDE) == size_hint((16, 16), SIDE) == size_hint((8, 8), None) == ""
