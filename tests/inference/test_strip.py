"""The strip of pictures."""

import numpy as np
import pytest

from brushjax.inference.strip import strip


def test_strip_shows_every_picture_at_its_place():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    images[0, ..., 0], images[1, ..., 1] = 250, 250
    masks = np.ones((2, 8, 8, 1), np.uint8)
    sheet = np.asarray(strip({"image": images, "mask": masks}, captions=["a", "b"], zoom=2))
    red = np.all(sheet == [250, 0, 0], axis=-1)
    green = np.all(sheet == [0, 250, 0], axis=-1)
    assert red.sum() == green.sum() == 16 * 16
    assert np.argwhere(red).max(axis=0)[0] < np.argwhere(green).min(axis=0)[0]  # one row below
    assert np.any(sheet == 0)  # headings and captions are written


@pytest.mark.parametrize(
    ("columns", "captions", "message"),
    [
        ({}, None, "expected columns"),
        ({"a": np.zeros((1, 8, 8, 3), np.uint8)}, ["x", "y"], "expected 1 captions"),
        (
            {"a": np.zeros((1, 8, 8, 3), np.uint8), "b": np.zeros((1, 8, 9, 3), np.uint8)},
            None,
            "expected columns of one number and size",
        ),
    ],
)
def test_strip_refuses_what_does_not_line_up(columns, captions, message):
    with pytest.raises(ValueError, match=message):
        strip(columns, captions)


def test_labels_grow_with_the_pictures():
    def label_height(size):
        white = np.full((1, size, size, 3), 255, np.uint8)
        rows = np.flatnonzero((np.asarray(strip({"trained": white})) < 128).any(axis=(1, 2)))
        return rows.max() - rows.min()

    assert label_height(512) > 1.8 * label_height(128)


def test_note_stands_below_everything():
    white = {"a": np.full((1, 8, 8, 3), 255, np.uint8)}
    plain, noted = (np.asarray(strip(white, ["x"], note=note)) for note in ("", "not blended"))
    assert noted.shape[0] > plain.shape[0]
    np.testing.assert_array_equal(noted[: len(plain)], plain)
    assert np.any(noted[len(plain) :] == 0)
