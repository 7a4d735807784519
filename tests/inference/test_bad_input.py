"""Bad and odd input: a result or a clear error, never a traceback through a compiled program."""

import re
import warnings

import numpy as np
import pytest
from PIL import Image

from brushjax.inference.images import LARGEST_PICTURE
from brushjax.inference.inpaint import Inpainter
from brushjax.models.brushnet import BrushNetConfig
from brushjax.models.unet import UNetConfig
from tests.inference.conftest import SD15_SCHEDULER, abstract

SIZE = (24, 32)


def photo():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def hole(top=8, left=8, height=12, width=12):
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + height, left : left + width] = 255
    return mask


def rotated(folder):
    """A file whose EXIF data say that it is to be turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(photo()).copy()).save(folder / "a.png", exif=exif)
    return folder / "a.png"


def palette():
    return Image.fromarray(photo()).quantize(16)


def cut_out():
    return Image.fromarray(np.dstack([photo(), 255 - hole()]))


def soft():
    return hole() / 255 * np.linspace(0.3, 1, 32)


# What is given instead of a photo, a mask and settings; and None, or what the error says, or
# ("warning", what a warning says). Callables make their value, with a folder where they take one.
CASES = {
    "image and mask of two sizes": ({"mask": hole()[:, :24]}, "image 24x32 and mask 24x24"),
    "empty mask": ({"mask": hole() * 0}, "marks nothing"),
    "full mask": ({"mask": hole() | 255}, ("warning", "marks 100%.*inverted")),
    "inverted-looking mask": ({"mask": 255 - hole(0, 0, 1, 32)}, ("warning", "is it inverted")),
    "1-pixel hole": ({"mask": hole(8, 8, 1, 1)}, None),
    "1-pixel hole between the cells": ({"mask": hole(9, 9, 1, 1)}, ("warning", "too small")),
    "soft mask": ({"mask": soft()}, None),
    "8-bit palette": ({"image": palette}, None),
    "16-bit mask": ({"mask": Image.fromarray(hole().astype(np.uint16) * 257)}, None),
    "16-bit image": ({"image": Image.fromarray(photo()[..., 0].astype(np.uint16) * 257)}, None),
    "32-bit image": ({"image": Image.new("I", SIZE[::-1], 1 << 20)}, "expected 16 bits a pixel"),
    "CMYK": ({"image": Image.fromarray(photo()).convert("CMYK")}, None),
    "grey image": ({"image": Image.fromarray(photo()).convert("L")}, None),
    "float image file": ({"image": Image.new("F", SIZE[::-1])}, "got floats"),
    "alpha only": (
        {"mask": np.dstack([np.zeros((*SIZE, 3), np.uint8), hole()])},
        ("warning", "marks its opaque part"),
    ),
    "alpha that is explained": ({"mask": cut_out, "mask_alpha": "transparent"}, None),
    "cut-out picture as mask": ({"mask": cut_out}, ("warning", "marks its transparent part")),
    "transparent picture": ({"image": cut_out}, ("warning", "transparent parts")),
    "mask of another size": ({"mask": hole()[:12, :16], "resize_mask": True}, None),
    "EXIF rotation": ({"image": rotated}, None),
    "huge image": (
        {"image": np.broadcast_to(np.uint8(0), (LARGEST_PICTURE // 8 + 1, 8, 3)),
         "mask": np.broadcast_to(np.uint8(0), (LARGEST_PICTURE // 8 + 1, 8))},
        "expected at most 67108864 pixels",
    ),
    "zero size": ({"image": photo()[:0], "mask": hole()[:0]}, "sides of at least 8 pixels"),
    "NaN floats": ({"mask": hole() * np.nan}, r"floats in \[0, 1\], got nan"),
    "wrong range": ({"mask": hole().astype(np.float32)}, r"floats in \[0, 1\], got 0 to 255"),
    "float image": ({"image": photo() / 255.0}, "expected image array of dtype uint8"),
    "no picture": ({"image": __file__}, "expected a picture file"),
    "no file": ({"image": "nowhere.png"}, "nowhere.png"),
    "empty prompt": ({"prompt": ""}, None),
    "500-token prompt": ({"prompt": "cat " * 500}, None),
    "emoji": ({"prompt": "a \N{CAT FACE} on a \N{SAUROPOD}\N{ZERO WIDTH JOINER}"}, None),
    "steps 0": ({"steps": 0}, r"expected steps of at least 1"),
    "steps 2000": ({"steps": 2000}, r"expected steps in 1\.\.1000"),
    "guidance 0": ({"guidance": 0}, None),
    "guidance 1": ({"guidance": 1}, None),
    "negative guidance": ({"guidance": -2.5}, None),
    "guidance NaN": ({"guidance": float("nan")}, "expected a finite guidance"),
    "scale of int type": ({"scale": 1}, None),
    "scale infinite": ({"scale": float("inf")}, "expected a finite scale"),
    "negative seed": ({"seed": -1}, "expected seeds in"),
    "tile of 7 pixels": ({"tile": 7}, "expected tile"),
}  # fmt: skip
assert len(CASES) >= 22


HEAVY = ("500-token prompt",)  # a program of its own; test_text.py cuts long prompts into rows


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.heavy] * (case in HEAVY)) for case in CASES]
)
def test_bad_input_gives_a_result_or_a_clear_error(painter, tmp_path, case):
    changes, expected = CASES[case]
    values = {"image": photo(), "mask": hole(), "prompt": "a red cat", "steps": 3}
    for name, value in changes.items():
        if callable(value):
            value = value(tmp_path) if value is rotated else value()
        values[name] = value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if isinstance(expected, str):
            with pytest.raises((ValueError, TypeError, OSError), match=expected) as raised:
                painter(**values)
            names = [entry.name for entry in raised.traceback]
            assert "edit" not in names  # the compiled program
            return
        result = painter(**values)
    assert result.images.shape == (1, *SIZE, 3)
    said = [str(one.message) for one in caught if issubclass(one.category, UserWarning)]
    if expected is None:
        assert not said
    else:
        assert re.search(expected[1], " ".join(said))


XL = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 40,
    "down_block_types": ("DownBlock2D",) * 2,
    "up_block_types": ("UpBlock2D",) * 2,
}
WIDER = XL | {"block_out_channels": (8, 24)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet": UNetConfig(**XL)}, "added conditions .*one family"),
        ({"brushnet": BrushNetConfig(**XL)}, "added conditions .*one family"),
        ({"brushnet": BrushNetConfig(**WIDER)}, "as wide as the UNet .*one family"),
        ({"unet": UNetConfig(in_channels=9, **XL)}, "4 input channels"),
    ],
    ids=["branch on an XL", "XL branch", "other widths", "inpainting UNet"],
)
def test_parts_of_two_families_are_refused(parts, changes, message):
    models = {name: abstract(name, config) for name, config in changes.items()}
    with pytest.raises(ValueError, match=message):
        Inpainter.from_parts(**{**parts, **models}, scheduler=SD15_SCHEDULER)
