"""The reference profile against stored samples of the PyTorch scripts."""

import random

import cv2
import numpy as np
import pytest

from brushjax.data.masks import reference, rle
from tests.support import GOLDEN

STORED = np.load(GOLDEN / "misc/train_prep.npz")


def masks():
    image = STORED["image_rgb"]
    return [
        rle.decode(STORED[f"rle_{n}"].tolist(), *image.shape[:2], first=1, order="column")
        for n in (0, 1)
    ]


def prepared(kind, seed, masks):
    return reference.prepare(
        STORED["image_rgb"],
        masks,
        64,
        random_mask=kind == "random",
        chance=random.Random(seed),
        draws=np.random.RandomState(seed),
    )


def test_reference_masks_decode_exactly():
    for n, mask in enumerate(masks()):
        np.testing.assert_array_equal(mask, STORED[f"mask_{n}"])


def test_reference_picture_decodes_exactly():
    decoded = cv2.imdecode(STORED["image_png"], cv2.IMREAD_COLOR_RGB)
    np.testing.assert_array_equal(decoded, STORED["image_rgb"])


@pytest.mark.parametrize("kind", ["seg", "random"])
@pytest.mark.parametrize("seed", range(6))
def test_reference_samples_are_reproduced_exactly(kind, seed):
    sample = prepared(kind, seed, masks())
    ours = {
        "pixel_values": sample.image.astype(np.float32) / 127.5 - 1.0,
        "conditioning_pixel_values": sample.masked.astype(np.float32) / 127.5 - 1.0,
        "mask": sample.keep,
    }
    for name, array in ours.items():
        np.testing.assert_array_equal(array, STORED[f"{kind}/{seed}/{name}"][0].transpose(1, 2, 0))


@pytest.mark.parametrize("seed", range(12))
def test_reference_brush_masks_are_reproduced_exactly(seed):
    stored = np.unpackbits(STORED[f"brush512/{seed}"]).reshape(512, 512)
    np.testing.assert_array_equal(
        1 - reference.brush(512, 512, np.random.RandomState(seed)), stored
    )


def test_reference_without_objects_keeps_all_or_nothing():
    kept = {float(prepared("seg", seed, []).keep.mean()) for seed in range(8)}
    assert kept == {0.0, 1.0}
