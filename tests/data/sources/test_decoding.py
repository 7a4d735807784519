"""Pictures of every kind become 8-bit RGB; what can't becomes a fault with its cause."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from brushjax.data.faults import Fault
from brushjax.data.sources import decoding
from tests.data import tiny

PICTURE = tiny.picture(9)


def saved(image, kind, **settings):
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def test_plain_pictures_decode_exactly():
    pixels, notes = decoding.picture(tiny.png(PICTURE))
    np.testing.assert_array_equal(pixels, PICTURE)
    assert notes == []


def test_16_bit_pictures_keep_their_upper_byte():
    deep = PICTURE[..., ::-1].astype(np.uint16) * 256
    pixels, notes = decoding.picture(cv2.imencode(".png", deep)[1].tobytes())
    np.testing.assert_array_equal(pixels, PICTURE)
    assert notes == ["16-bit image"]


def test_greyscale_pictures_get_three_channels():
    grey = Image.fromarray(PICTURE).convert("L")
    pixels, notes = decoding.picture(saved(grey, "PNG"))
    np.testing.assert_array_equal(pixels, np.asarray(grey)[..., None].repeat(3, -1))
    assert notes == ["greyscale image"]


def test_cmyk_pictures_keep_their_colours():
    pixels, notes = decoding.picture(saved(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"))
    assert np.abs(pixels.astype(int) - PICTURE).mean() < 4
    assert notes == ["CMYK image"]


def test_transparent_pixels_are_laid_over_white():
    alpha = np.full((*PICTURE.shape[:2], 1), 255, np.uint8)
    alpha[:, :20] = 0
    clear = Image.fromarray(np.concatenate([PICTURE, alpha], axis=-1))
    pixels, notes = decoding.picture(saved(clear, "PNG"))
    assert (pixels[:, :20] == 255).all()
    np.testing.assert_array_equal(pixels[:, 20:], PICTURE[:, 20:])
    assert notes == ["alpha image"]
    dropped, _ = decoding.picture(saved(clear, "PNG"), as_reference=True)
    np.testing.assert_array_equal(dropped, PICTURE)


def test_turned_pictures_are_set_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels, _ = decoding.picture(saved(Image.fromarray(PICTURE), "JPEG", exif=exif))
    assert pixels.shape == (56, 40, 3)


def test_bytes_after_the_end_do_no_harm():
    whole = tiny.jpeg(PICTURE)
    padded, _ = decoding.picture(whole + bytes(500))
    np.testing.assert_array_equal(padded, decoding.picture(whole)[0])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_cut_off_pictures_are_broken(kind, share):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(Image.fromarray(noise), kind)
    decoding.picture(data)
    with pytest.raises(Fault, match="broken image"):
        decoding.picture(data[: int(len(data) * share)])


def test_pictures_too_large_for_the_memory_are_refused_unread():
    data = bytearray(tiny.png(PICTURE))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
    with pytest.raises(Fault, match="image"):
        decoding.picture(bytes(data))


def test_annotations_without_a_size_take_the_pictures():
    members = tiny.members(0, height=None, width=None)
    whole = (slice(None), slice(None))
    objects = decoding.Objects(members, (40, 56), whole, 0)
    np.testing.assert_array_equal(objects[0], tiny.object_masks()[0])
    with pytest.raises(Fault, match="bad run lengths"):
        decoding.Objects(members, (10, 10), whole, 0)[0]


@pytest.mark.parametrize(
    "data", [b"[]", b"{}", b'{"mask": 3}', b'{"mask": [3]}', b"\xff", b"[" * 9999]
)
def test_other_annotations_are_faults(data):
    with pytest.raises(Fault, match="bad segmentation"):
        decoding.run_lists(data)
