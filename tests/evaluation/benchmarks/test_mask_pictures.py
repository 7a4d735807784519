"""Masks of benchmarks: which part is meant, and which masks are refused by name."""

import io

import numpy as np
import pytest
from PIL import Image

from brushjax.evaluation.benchmarks.files import picture, white
from brushjax.evaluation.benchmarks.magicbrush import MagicBrush
from brushjax.evaluation.records import BenchmarkError
from tests.evaluation import miniatures


def png(array):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    return out.getvalue()


def photograph(height=120, width=100):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("scale", [1, 2])
def test_magicbrush_masks_mark_what_is_transparent(tmp_path, scale):
    folder = miniatures.magicbrush(tmp_path, turns=(1,), height=120, width=100)
    path = next(folder.rglob("*mask1.png"))
    with Image.open(path) as plain:
        hole = np.asarray(plain) > 127
    masked = np.dstack([photograph(), np.where(hole, 0, 255).astype(np.uint8)])
    path.write_bytes(png(masked.repeat(scale, 0).repeat(scale, 1)))
    found = MagicBrush(str(folder)).records()[0].read().hole.astype(bool)
    np.testing.assert_array_equal(found, hole)


def test_a_magicbrush_mask_that_lost_its_transparency_is_named(tmp_path):
    folder = miniatures.magicbrush(tmp_path, turns=(1,), height=120, width=100)
    path = next(folder.rglob("*mask1.png"))
    path.write_bytes(png(photograph()))
    with pytest.raises(BenchmarkError, match=r"mask1\.png: expected a mask.*get it again, as RGBA"):
        MagicBrush(str(folder)).records()[0].read()


def test_masks_whose_alpha_tells_nothing_are_named():
    half = np.zeros((20, 20, 4), np.uint8)
    half[:, :10, 3] = 255
    with pytest.raises(BenchmarkError, match=r"m\.png: expected a mask whose frame"):
        white(png(half), "m.png", (20, 20))
    half[:, :, 3], half[5:9, 5:9, 3] = 255, 0
    with pytest.warns(UserWarning, match=r"m\.png marks its transparent part; mask_alpha=opaque"):
        found = white(png(half), "m.png", (20, 20))
    assert found.sum() == 16


def test_pictures_of_benchmarks_are_read_as_everywhere():
    clear = np.dstack([photograph(), np.zeros((120, 100), np.uint8)])
    assert (picture(png(clear), "a.png") == 255).all()
    with pytest.raises(BenchmarkError, match=r"a\.png is no complete picture .*get it again"):
        picture(b"%!PS-Adobe-3.0 EPSF-3.0\n", "a.png")
