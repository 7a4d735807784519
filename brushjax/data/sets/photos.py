"""Captioned crops of real photographs, addressed by number.

The photographs and their hand-made labels ship in `brushjax/assets/photos` (see the README there).
`photos.json` names, per photograph, rectangles with a class, captions and a split, and coarse
outlines of objects. Rectangles of different splits never share a pixel, and a crop never leaves its
rectangle: so a training crop can't show a held-out pixel.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from brushjax.config import ConfigError
from brushjax.data.faults import Fault
from brushjax.data.sources import pictures
from brushjax.files import inside

SHIPPED = Path(__file__).resolve().parents[2] / "assets" / "photos"
SPLITS = ("train", "held_out")
TEMPLATES = ("{}", "a photo of {}", "a close-up of {}", "a picture of {}", "an image of {}")

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Region:
    """A labelled rectangle; `box` is (left, top, right, bottom) in pixels of the photograph."""

    class_name: str
    split: str
    box: Box
    captions: tuple[str, ...]

    @property
    def phrases(self) -> tuple[str, ...]:
        """What the region may be called: the captions by hand, then the bare class name."""
        return tuple(dict.fromkeys((*self.captions, self.class_name)))


@dataclass(frozen=True)
class Photo:
    """One decoded photograph with its labels.

    Attributes:
        pixels: uint8 RGB [H,W,3].
        any_orientation: the picture has no up and down (quarter turns are fair augmentations).
        objects: (class name, outline) pairs; an outline is float32 [points,2], (x, y) in pixels.
    """

    name: str
    title: str
    licence: str
    author: str
    any_orientation: bool
    pixels: UInt8[np.ndarray, "H W 3"]
    regions: tuple[Region, ...]
    objects: tuple[tuple[str, np.ndarray], ...]


@dataclass(frozen=True)
class Crop:
    """One sample.

    Attributes:
        image: uint8 RGB [size,size,3].
        phrase: what is seen ("a tabby cat"); caption: the phrase in a template.
        outlines: outlines of objects of the crop's class, float32 [points,2] in pixels of the crop;
            they may reach beyond its border.
        photo, box: where the pixels came from, for checks.
    """

    id: int
    image: np.ndarray
    class_id: int
    class_name: str
    phrase: str
    caption: str
    outlines: tuple[np.ndarray, ...]
    photo: str
    box: Box


def _describe(folder: Path) -> list[dict]:
    """The entries of photos.json, with errors that name the file."""
    path = folder / "photos.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected {path}, which lists photographs with the boxes to cut (as brushjax/assets/"
            "photos/README.md describes it); pictures with captions of your own are read by "
            "configs/own_photos.py --data.path DIR"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))["photos"]
    except (json.JSONDecodeError, KeyError) as error:
        raise ConfigError(f'{path}: expected {{"photos": [...]}} as JSON, got {error}') from error


def _read_pixels(path: Path) -> np.ndarray:
    """Decodes a photograph to uint8 RGB [H,W,3].

    Raises:
        FileNotFoundError, ConfigError: the file is missing, or no complete picture.
    """
    if not path.is_file():
        raise FileNotFoundError(f"photos.json names {path.name}, but {path} is missing; restore it")
    try:
        return pictures.decode(path.read_bytes()).pixels
    except Fault as fault:
        raise ConfigError(
            f"expected a complete JPEG or PNG picture in {path}, got {fault.found}; restore it"
        ) from fault


def _region(entry: dict, photo: str, height: int, width: int) -> Region:
    region = Region(entry["class"], entry["split"], tuple(entry["box"]), tuple(entry["captions"]))
    left, top, right, bottom = region.box
    if region.split not in SPLITS:
        raise ConfigError(f"{photo}: expected a split out of {SPLITS}, got {region.split!r}")
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise ConfigError(f"{photo}: expected a box inside {width}x{height}, got {region.box}")
    return region


def _intersect(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@lru_cache(maxsize=4)
def load_photos(folder: Path = SHIPPED) -> tuple[Photo, ...]:
    """Reads and checks a folder of photographs (kept in memory: a few MB).

    Args:
        folder: holds photos.json and the pictures it names.

    Raises:
        FileNotFoundError: photos.json or a picture is missing.
        ConfigError: a picture does not decode, a box leaves it, or boxes of two splits overlap.
    """
    photos = []
    for entry in _describe(Path(folder)):
        pixels = _read_pixels(inside(folder, entry["file"]))
        height, width = pixels.shape[:2]
        regions = tuple(_region(item, entry["name"], height, width) for item in entry["regions"])
        train = [r.box for r in regions if r.split == "train"]
        for box in (r.box for r in regions if r.split == "held_out"):
            if any(_intersect(box, other) for other in train):
                raise ConfigError(
                    f"{entry['name']}: held-out box {box} shares pixels with a training box"
                )
        objects = [(o["class"], np.asarray(o["polygon"], np.float32)) for o in entry["objects"]]
        words = {
            key: entry[key] for key in ("name", "title", "licence", "author", "any_orientation")
        }
        photos.append(Photo(pixels=pixels, regions=regions, objects=tuple(objects), **words))
    return tuple(photos)


def class_names(folder: Path = SHIPPED, split: str | None = None) -> tuple[str, ...]:
    """Class names in order of first appearance; without a split, the place is the class id."""
    regions = [region for entry in _describe(Path(folder)) for region in entry["regions"]]
    return tuple(dict.fromkeys(r["class"] for r in regions if split in (None, r["split"])))


CLASSES = class_names()


def all_captions(folder: Path = SHIPPED) -> tuple[str, ...]:
    """Every caption a PhotoSource of the folder can give, sorted: the text of a tokenizer."""
    regions = [region for photo in load_photos(folder) for region in photo.regions]
    phrases = {phrase for region in regions for phrase in region.phrases}
    return tuple(sorted(template.format(phrase) for phrase in phrases for template in TEMPLATES))


class PhotoSource:
    """Random-access source of captioned crops: crop n depends on (seed, n) and the settings alone.

    Classes are drawn evenly, then a rectangle of the class, then a square in it.

    Args:
        size: side of a crop in pixels.
        seed: any integer >= 0.
        split: "train" or "held_out".
        sides: smallest and largest side of the square that is cut, in stored pixels.
        jitter: largest relative change of a colour channel's gain; 0 keeps the colours.
        flip: mirror half of the crops (and turn those of pictures without up and down).
        classes: draw only these; all classes of the split by default.
        length: how many crops the source claims to have.
        folder: photographs of one's own.

    Raises:
        ConfigError: unknown split or class, a size below 8, or sides that don't ascend.
    """

    def __init__(
        self,
        size: int = 128,
        seed: int = 0,
        split: str = "train",
        *,
        sides: tuple[int, int] = (96, 256),
        jitter: float = 0.0,
        flip: bool = True,
        classes: tuple[str, ...] | None = None,
        length: int = 1 << 30,
        folder: Path = SHIPPED,
    ):
        if split not in SPLITS:
            raise ConfigError(f"expected a split out of {SPLITS}, got {split!r}")
        if size < 8 or not 8 <= sides[0] <= sides[1]:
            raise ConfigError(
                f"expected size >= 8 and 8 <= sides[0] <= sides[1], got {size} and {sides}"
            )
        self.size, self.seed, self.split, self.sides = size, seed, split, sides
        self.jitter, self.flip, self.length = jitter, flip, length
        self.class_ids = {name: i for i, name in enumerate(class_names(folder))}
        self._places: dict[str, list[tuple[Photo, Region]]] = {}
        for photo in load_photos(folder):
            for region in photo.regions:
                if region.split == split:
                    self._places.setdefault(region.class_name, []).append((photo, region))
        self.classes = tuple(self._places) if classes is None else tuple(classes)
        if unknown := [name for name in self.classes if name not in self._places]:
            known = ", ".join(self._places)
            raise ConfigError(f"expected classes with {split} regions ({known}), got {unknown}")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, n: int) -> Crop:
        return self.crop(n, np.random.default_rng((self.seed, int(n))))

    def crop(self, n: int, rng: np.random.Generator, class_name: str | None = None) -> Crop:
        """A crop numbered n, drawn with the caller's generator (of one class, if it is named)."""
        name = class_name or self.classes[rng.integers(len(self.classes))]
        places = self._places[name]
        photo, region = places[rng.integers(len(places))]
        box = self._square(region.box, rng)
        image, outlines = self._cut(photo, name, box)
        image, outlines = self._augment(image, outlines, photo.any_orientation, rng)
        phrase = region.phrases[rng.integers(len(region.phrases))]
        caption = TEMPLATES[rng.integers(len(TEMPLATES))].format(phrase)
        class_id = self.class_ids[name]
        return Crop(int(n), image, class_id, name, phrase, caption, outlines, photo.name, box)

    def _square(self, box: Box, rng: np.random.Generator) -> Box:
        left, top, right, bottom = box
        largest = min(right - left, bottom - top, self.sides[1])
        side = int(rng.integers(min(self.sides[0], largest), largest + 1))
        x = int(rng.integers(left, right - side + 1))
        y = int(rng.integers(top, bottom - side + 1))
        return x, y, x + side, y + side

    def _cut(self, photo: Photo, name: str, box: Box) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        left, top, right, bottom = box
        # Area averaging is antialiased when shrinking, but amounts to nearest when enlarging.
        how = cv2.INTER_AREA if right - left >= self.size else cv2.INTER_CUBIC
        pixels = photo.pixels[top:bottom, left:right]
        image = cv2.resize(pixels, (self.size, self.size), interpolation=how)
        scale = self.size / (right - left)
        corner = np.array((left, top), np.float32)
        return image, tuple((o - corner) * scale for kind, o in photo.objects if kind == name)

    def _augment(self, image, outlines, turn: bool, rng: np.random.Generator):
        flip, turns = rng.random() < 0.5, int(rng.integers(4))
        gains = 1 + self.jitter * rng.uniform(-1, 1, 3)
        if self.flip and flip:
            image = image[:, ::-1]
            outlines = tuple(np.stack([self.size - o[:, 0], o[:, 1]], axis=1) for o in outlines)
        if self.flip and turn and turns:
            image = np.rot90(image, turns)
            for _ in range(turns):  # a quarter turn against the clock takes (x, y) to (y, size - x)
                outlines = tuple(np.stack([o[:, 1], self.size - o[:, 0]], axis=1) for o in outlines)
        if self.jitter:
            image = np.clip(np.rint(image * gains), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(image), outlines


def class_crops(
    split: str, class_name: str, n: int, size: int = 128, seed: int = 0, folder: Path = SHIPPED
) -> UInt8[np.ndarray, "n size size 3"]:
    """n crops of one class, for instance as the real examples of a nearest-class check."""
    source = PhotoSource(size, seed, split, classes=(class_name,), folder=folder)
    return np.stack([source[i].image for i in range(n)])
