"""Masks in every form that programs write: what they mark, and which are refused."""

import numpy as np
import pytest

from brushjax.data.sources import mask_files

HOLE = np.zeros((40, 56), bool)
HOLE[12:28, 20:40] = True
GROUNDS = {
    "black": np.zeros((40, 56, 3), np.uint8),
    "photograph": np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8),
    "flat drawing": np.full((40, 56, 3), (40, 90, 160), np.uint8),
}


def marked(colours, alpha, setting="auto"):
    return mask_files.of_channels(colours, alpha, setting).marked.astype(bool)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("strength", [255, 102, 30])
def test_transparent_parts_tell_by_the_frame_and_never_by_the_colours(ground, strength):
    layer = np.where(HOLE, strength, 0).astype(np.uint8)
    for alpha, part, other in (
        (layer, "opaque", "transparent"),
        (255 - layer, "transparent", "opaque"),
    ):
        found = mask_files.of_channels(GROUNDS[ground], alpha)
        np.testing.assert_array_equal(found.marked.astype(bool), HOLE)
        rest = f"mask_alpha={other} (--mask-alpha) marks the rest"
        assert found.reading == f"marks its {part} part; {rest}"
        told = mask_files.of_channels(GROUNDS[ground], alpha, part)
        np.testing.assert_array_equal(told.white, found.white)
        assert told.reading == ""


def test_the_setting_wins_over_the_frame():
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(marked(GROUNDS["photograph"], alpha, "opaque"), ~HOLE)
    np.testing.assert_array_equal(marked(GROUNDS["photograph"], 255 - alpha, "transparent"), ~HOLE)


def test_a_frame_that_is_half_opaque_is_refused_unless_told():
    alpha = np.zeros((40, 56), np.uint8)
    alpha[:, :28] = 255
    with pytest.raises(ValueError, match=r"one that is 5\d% opaque.*mask_alpha=opaque or"):
        marked(GROUNDS["black"], alpha)
    assert marked(GROUNDS["black"], alpha, "opaque")[:, :28].all()
    with pytest.raises(ValueError, match="mask_alpha out of auto, opaque, transparent, got 'x'"):
        marked(GROUNDS["black"], alpha, "x")


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 128, 0), (0, 0, 200), (255, 255, 255)])
def test_any_bright_channel_marks(colour):
    np.testing.assert_array_equal(marked(HOLE[..., None] * np.uint8(colour), None), HOLE)


@pytest.mark.parametrize("everywhere", [0, 90, 255])
def test_one_opacity_everywhere_says_nothing(everywhere):
    colours = np.repeat(HOLE[..., None] * np.uint8(255), 3, axis=-1)
    np.testing.assert_array_equal(marked(colours, np.full((40, 56), everywhere, np.uint8)), HOLE)


def test_a_hardly_visible_stroke_marks_nothing():
    assert not marked(GROUNDS["black"], np.where(HOLE, 5, 0).astype(np.uint8), "opaque").any()


def test_a_mask_is_brought_to_another_size_and_back():
    mask = mask_files.Mask(HOLE * np.uint8(255))
    larger = mask.resized(80, 112)
    np.testing.assert_array_equal(larger.marked[::2, ::2].astype(bool), HOLE)
    np.testing.assert_array_equal(larger.resized(40, 56).marked.astype(bool), HOLE)
