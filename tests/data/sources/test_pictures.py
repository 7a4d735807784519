"""Every way in which a picture may be stored, and what is no picture."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from brushjax.data.faults import Fault
from brushjax.data.sources import pictures
from tests.data import tiny

PICTURE = tiny.picture(9)


def saved(image, kind, **settings):
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def turned(value):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = value
    return exif


def profile(space="sRGB"):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(space)).tobytes()


def wide_profile():
    """sRGB's profile with its red and green primaries swapped, under another name."""
    data = bytearray(profile())
    tags = {bytes(data[132 + 12 * n : 136 + 12 * n]): 132 + 12 * n for n in range(data[131])}
    red, green = (tags[bytes(name)] for name in (b"rXYZ", b"gXYZ"))
    place = lambda at: struct.unpack(">I", data[at + 4 : at + 8])[0]  # noqa: E731
    first, second = place(red), place(green)
    data[first : first + 20], data[second : second + 20] = (
        data[second : second + 20],
        data[first : first + 20],
    )
    return bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_every_format_is_read(kind):
    found = pictures.decode(saved(Image.fromarray(PICTURE), kind))
    assert found.pixels.shape == PICTURE.shape
    assert found.alpha is None
    if kind in ("PNG", "TIFF", "BMP"):
        np.testing.assert_array_equal(found.pixels, PICTURE)


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA", "ICO", "DDS", "PCX", "PDF"])
def test_other_formats_are_not_opened(kind):
    with pytest.raises(Fault, match=r"broken image: .* bytes that are no PNG, JPEG, .* or BMP"):
        pictures.decode(saved(Image.fromarray(PICTURE), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("value", range(1, 9))
def test_exif_turns_a_picture_and_the_size_that_its_header_states(kind, value):
    data = saved(Image.fromarray(PICTURE), kind, exif=turned(value))
    found = pictures.decode(data)
    assert found.pixels.shape[:2] == pictures.upright_size(data)
    assert found.pixels.shape[:2] == ((40, 56) if value < 5 else (56, 40))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's, on opening
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"\xff" * 40]
)
def test_broken_exif_costs_nobody_a_picture(exif):
    found = pictures.decode(saved(Image.fromarray(PICTURE), "JPEG", exif=exif))
    assert found.pixels.shape == PICTURE.shape


@pytest.mark.parametrize("wrong", ["six", 6.5, (6, 6), 99])
def test_a_mistyped_orientation_leaves_a_picture_as_it_is(monkeypatch, wrong):
    monkeypatch.setattr(Image.Image, "getexif", lambda image: {pictures.ORIENTATION: wrong})
    assert pictures.converted(Image.fromarray(PICTURE)).pixels.shape == PICTURE.shape


def test_exif_that_raises_is_noted(monkeypatch):
    def raising(image):
        raise struct.error("short")

    monkeypatch.setattr(Image.Image, "getexif", raising)
    assert pictures.converted(Image.fromarray(PICTURE)).notes == ("broken EXIF",)


def test_colour_profiles_are_applied():
    data = saved(Image.fromarray(PICTURE), "PNG", icc_profile=wide_profile())
    found = pictures.decode(data)
    assert found.notes == ("colour profile",)
    swapped = PICTURE[..., [1, 0, 2]]
    assert np.abs(found.pixels.astype(int) - swapped).max() <= 2


def test_a_profile_of_srgb_changes_no_pixel():
    found = pictures.decode(saved(Image.fromarray(PICTURE), "PNG", icc_profile=profile()))
    np.testing.assert_array_equal(found.pixels, PICTURE)
    assert found.notes == ()


@pytest.mark.parametrize("wrong", [b"no profile", profile("LAB")])
def test_a_profile_that_does_not_fit_is_left_out_with_a_note(wrong):
    found = pictures.decode(saved(Image.fromarray(PICTURE), "PNG", icc_profile=wrong))
    np.testing.assert_array_equal(found.pixels, PICTURE)
    assert found.notes == ("broken profile",)


def test_transparent_parts_are_white_and_keep_their_colours_apart():
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    alpha[:, :20], alpha[:, 20:30] = 0, 128
    found = pictures.decode(saved(Image.fromarray(np.dstack([PICTURE, alpha])), "PNG"))
    np.testing.assert_array_equal(found.alpha, alpha)
    np.testing.assert_array_equal(found.colours, PICTURE)
    assert (found.pixels[:, :20] == 255).all()
    half = PICTURE[:, 20:30] * (128 / 255) + 255 * (127 / 255)
    assert np.abs(found.pixels[:, 20:30] - half).max() <= 0.5
    np.testing.assert_array_equal(found.pixels[:, 30:], PICTURE[:, 30:])


def test_a_stated_size_is_refused_before_anything_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    data = bytearray(tiny.png(PICTURE))
    data[16:24] = (11_600).to_bytes(4, "big") * 2  # 134.6 million pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    with pytest.raises(Fault, match="oversized image: expected at most 134217728"):
        pictures.decode(bytes(data))


@pytest.mark.parametrize("data", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_a_fault(data):
    with pytest.raises(Fault, match=r"empty image|broken image"):
        pictures.decode(data)
