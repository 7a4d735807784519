"""Outside of the hole nothing changes that should not, on photographs and masks of every kind."""

import numpy as np
import pytest
from scipy.ndimage import maximum_filter

from brushjax.data.masks.shapes import KINDS, MaskConfig, sample_mask
from brushjax.data.sets.photos import load_photos
from brushjax.diffusion.guidance import FEATHER_RADIUS
from brushjax.inference.images import prepare

COUNT = 50
EXTRA = ("pixel", "border", "soft", "inverted")


def draw_kind(kind, side, outline, random):
    """A mask 0..255 [side, side] of a kind."""
    mask = np.zeros((side, side), np.uint8)
    if kind == "pixel":
        mask[8 * (side // 16), 8 * (side // 16)] = 255
    elif kind == "border":
        mask[:, : side // 5] = mask[-3:] = 255
    elif kind == "soft":
        mask[:] = np.linspace(0, 255, side)
    else:
        weights = {name: float(name == kind) for name in KINDS}
        weights |= {} if kind in KINDS else {"blob": 1.0}
        config = MaskConfig(**weights | {"box": 0.01}, share=(0.01, 0.9), invert=0.0)
        mask = 255 * sample_mask(config, side, random, [outline])[..., 0]
        mask = mask if kind in KINDS else 255 - mask
    return mask


def cases():
    """Crops of odd sizes from every photograph, with masks, and a picture to blend in."""
    photos, kinds = load_photos(), (*KINDS, *EXTRA)
    for number in range(COUNT):
        random = np.random.default_rng(number)
        photo = photos[number % len(photos)]
        side = int(random.integers(40, 140))
        top, left = (int(random.integers(0, extent - side)) for extent in photo.pixels.shape[:2])
        crop = photo.pixels[top : top + side, left : left + side]
        angles = np.linspace(0, 2 * np.pi, 9)[:-1]
        outline = np.stack([np.cos(angles), np.sin(angles)], -1) * side / 4 + side / 2
        mask = draw_kind(kinds[number % len(kinds)], side, outline.astype(np.float32), random)
        small = side - side % 8
        yield crop, mask, random.integers(0, 256, (1, small, small, 3), np.uint8)


@pytest.mark.filterwarnings("ignore:the mask of sample 0")  # small holes, large holes
@pytest.mark.parametrize("blend", ["paste", "feather"])
def test_blends_change_nothing_beyond_their_radius_on_fifty_photographs(blend):
    radius = {"paste": 0, "feather": FEATHER_RADIUS}[blend]
    count, changed = 0, 0
    for crop, mask, generated in cases():
        prepared = prepare([crop], [mask])
        result = prepared.finish(generated, blend)[0]
        hole = prepared.holes[0, ..., 0] > 0
        np.testing.assert_array_equal(hole, mask >= 128)
        reach = maximum_filter(hole, size=2 * radius + 1)
        np.testing.assert_array_equal(result[~reach], crop[~reach])
        whole = prepared.finish(generated, "none")[0]
        np.testing.assert_array_equal(result[hole], whole[hole])
        changed += np.any(result[reach & ~hole] != crop[reach & ~hole])
        count += 1
    assert count == COUNT
    assert changed >= (0 if blend == "paste" else COUNT - 1)  # the feather is not the paste
