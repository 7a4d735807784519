"""What an edit gives can be looked at and kept."""

import numpy as np
import pytest
from PIL import Image

from brushjax.inference.result import InpaintResult

RANDOM = np.random.default_rng(0)


def result(count, transparent=False):
    images = RANDOM.integers(0, 256, (count, 8, 16, 3), np.uint8)
    alpha = np.full((count, 8, 16, 1), 255, np.uint8)
    alpha[0, :2] = 0
    layers = np.concatenate([images, alpha], axis=-1) if transparent else None
    return InpaintResult(images, np.zeros((count, 1, 2, 4), np.float32), 1.26, layers)


def test_result_is_one_short_line():
    assert repr(result(1)) == "InpaintResult(1 image of 8x16, latents (1, 1, 2, 4), 1.3 s)"
    assert repr(result(2)).startswith("InpaintResult(2 images of 8x16, ")


def test_result_gives_pil_images():
    made = result(2, transparent=True)
    assert [image.mode for image in made.pil] == ["RGBA", "RGB"]  # the second is opaque
    np.testing.assert_array_equal(np.asarray(made.pil[1]), made.images[1])


def test_result_saves_every_image(tmp_path):
    one, two = result(1), result(2, transparent=True)
    assert one.save(tmp_path / "new/a.png") == [tmp_path / "new/a.png"]
    with Image.open(tmp_path / "new/a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), one.images[0])
    paths = two.save(str(tmp_path / "b.png"))
    assert [path.name for path in paths] == ["b_0.png", "b_1.png"]
    with Image.open(paths[0]) as image:
        np.testing.assert_array_equal(np.asarray(image), two.transparent[0])
    two.save(tmp_path / "c.jpg")  # no place for opacity
    with pytest.raises(ValueError, match=r"expected a picture's name such as d\.png"):
        one.save(tmp_path / "d")
