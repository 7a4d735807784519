"""Photographs that Python packages carry: on many machines, in no training set of ours.

They are looked for where their package is installed, read from there, and copied nowhere.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from brushjax.data.sources import pictures

LEAST = 3  # a scene shows two, and a third comes in the place of one
SMALLEST = 0.6  # side of a crop, as a share of the largest that fits


@dataclasses.dataclass(frozen=True)
class Packaged:
    """A photograph with a box that shows one thing.

    Attributes:
        package: name to install it by; module: name of its folder.
        file: within the module's folder.
        box: left, top, right, bottom in pixels.
        phrase: what the box shows.
    """

    package: str
    module: str
    file: str
    box: tuple[int, int, int, int]
    phrase: str

    @property
    def path(self) -> Path | None:
        """The file, or None where the package or this file of it is not installed."""
        spec = importlib.util.find_spec(self.module)
        places = spec.submodule_search_locations if spec else None
        files = [Path(place) / self.file for place in places or ()]
        return next((file for file in files if file.is_file()), None)

    def crop(self, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
        """A square of the box, drawn with the caller's generator."""
        left, top, right, bottom = self.box
        largest = min(right - left, bottom - top)
        side = int(rng.integers(round(SMALLEST * largest), largest + 1))
        x = int(rng.integers(left, right - side + 1))
        y = int(rng.integers(top, bottom - side + 1))
        how = cv2.INTER_AREA if side >= size else cv2.INTER_CUBIC
        cut = _read(self.path)[y : y + side, x : x + side]
        return cv2.resize(cut, (size, size), interpolation=how).astype(np.uint8)


PICTURES = (
    Packaged(
        "gradio", "gradio", "media_assets/images/cheetah.jpg", (150, 90, 410, 250), "a cheetah"
    ),
    Packaged(
        "gradio", "gradio", "media_assets/images/tower.jpg", (60, 220, 320, 590), "an iron tower"
    ),
    Packaged(
        "matplotlib",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        (130, 40, 390, 380),
        "a woman",
    ),
    Packaged(
        "scikit-image",
        "skimage",
        "data/motorcycle_left.png",
        (110, 120, 700, 470),
        "a motorcycle",
    ),
    Packaged("scikit-image", "skimage", "data/ihc.png", (0, 0, 512, 512), "stained tissue"),
    Packaged("scikit-image", "skimage", "data/coins.png", (0, 0, 384, 303), "old coins"),
    Packaged("scikit-image", "skimage", "data/moon.png", (0, 0, 512, 512), "the moon"),
    Packaged("ultralytics", "ultralytics", "assets/bus.jpg", (30, 250, 780, 720), "a bus"),
)


def found() -> list[Packaged]:
    """The pictures that are there, in a fixed order."""
    return [one for one in PICTURES if one.path is not None]


def absent() -> list[str]:
    """The packages of which a picture is not there."""
    return list(dict.fromkeys(one.package for one in PICTURES if one.path is None))


@functools.lru_cache(maxsize=len(PICTURES))
def _read(path: Path | None) -> np.ndarray:
    if path is None:
        raise FileNotFoundError("expected a picture of an installed package; look at `found` first")
    return pictures.decode(path.read_bytes()).pixels
