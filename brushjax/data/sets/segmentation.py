"""Segmentation as edits: "paint the dog blue", with the picture that has it painted.

Source: the idea is InstructDiffusion's (arXiv 2309.03895); SmartEdit trains on the same three sets.
"""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
import re
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image

from brushjax.data import boxes as regions
from brushjax.data.faults import Fault, as_fault
from brushjax.data.masks import rle
from brushjax.data.schema import EditPair
from brushjax.data.sets.edit_pairs import picture_file
from brushjax.data.sets.shuffled import Pictured, PicturedData, member, stretched, words
from brushjax.data.sources.pictures import Picture, decode

COLOURS = {
    "red": (255, 0, 0),
    "purple": (128, 0, 128),
    "blue": (0, 0, 255),
    "green": (0, 128, 0),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "gray": (128, 128, 128),
}  # CSS's
REQUESTS = (
    "Colour every pixel of {thing} {colour} and keep all else as it is.",
    "Tint {thing} {colour}; the rest stays.",
    "Show where {thing} is by painting it {colour}.",
    "Lay {colour} over {thing}, and over nothing else.",
    "Cover {thing} with a {colour} layer.",
    "Mark {thing} in {colour}. Leave everything else untouched.",
    "Give the area of {thing} a {colour} tone.",
    "Find {thing} and make it {colour}.",
    "Blend {colour} into the pixels that belong to {thing}.",
    "Turn {thing} {colour}, without touching other parts.",
)
UNCHANGED = "Leave the picture as it is."
OPACITY = 0.5  # of the colour
VOID = 255  # pixels of COCO-Stuff's maps without a class


@dataclasses.dataclass(frozen=True)
class Segmentation(PicturedData):
    """Pictures with named masks, as edits.

    Attributes:
      path: COCO-Stuff's folder of PNG maps (stuffthingmaps/train2017), or the file of referring
        expressions: RefCOCO's refs(unc).p, gRefCOCO's grefs(unc).json.
      images: folder of the pictures, COCO's train2017 or train2014.
      labels: COCO-Stuff's labels.txt ("1: person"), or COCO's instances.json with the polygons.
      split: of the referring expressions that are read.
      absent: share of COCO-Stuff's samples that ask for what is not there, and change nothing.
      form: whose layout it is.
      size: side in pixels.
    """

    path: str = ""
    images: str = ""
    labels: str = ""
    form: Literal["coco-stuff", "refcoco", "grefcoco"] = "coco-stuff"
    split: str = "train"
    absent: float | int = 0.2
    size: int = 256

    def stored(self) -> Pictured:
        return Stuff(self) if self.form == "coco-stuff" else Referred(self)

    def shapes(self) -> dict[str, Any]:
        """Returns a record of zeros, for programs that are compiled where the data is not."""
        image = np.zeros((self.size, self.size, 3), np.uint8)
        return {"image": image, "target": image, "id": np.int64(0)}


class Stuff(Pictured):
    """COCO-Stuff: a map of classes for each picture.

    Raises:
      FileNotFoundError: if there are no maps.
      ValueError: for labels of another form.
    """

    def __init__(self, config: Segmentation):
        self._config = config
        self._maps, self._images = Path(config.path).expanduser(), Path(config.images).expanduser()
        self._names = sorted(place.stem for place in self._maps.glob("*.png"))
        if not self._names:
            raise FileNotFoundError(f"expected *.png in {self._maps}, found none")
        lines = Path(config.labels).expanduser().read_text(encoding="utf-8").splitlines()
        found = [re.fullmatch(r"(\d+):\s*(.+)", line.strip()) for line in lines if line.strip()]
        if not found or not all(found):
            raise ValueError(f"{config.labels}: expected lines such as '1: person'")
        # The list counts from 1, the maps from 0.
        self._classes = {int(m[1]) - 1: m[2].lower() for m in found if m and int(m[1]) > 0}
        self.found = config.found(len(self))

    def __len__(self) -> int:
        return len(self._names)

    def name(self, number: int) -> str:
        return self._names[number]

    def picture(self, number: int) -> Picture:
        return decode(picture_file(self._images, f"{self._names[number]}.jpg"))

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> EditPair:
        name, size = self._names[number], self._config.size
        picture = self.picture(number)
        met.extend(picture.notes)
        classes = class_map(picture_file(self._maps, f"{name}.png"))
        if classes.shape != picture.pixels.shape[:2]:
            raise Fault("wrong size", f"map {classes.shape}, picture {picture.pixels.shape[:2]}")
        cut = square(classes.shape, rng)
        boxes = regions.cut(self.regions(number), cut, classes.shape)
        image = _resized(picture.pixels[cut], size, Image.Resampling.LANCZOS)
        classes = _resized(classes[cut], size, Image.Resampling.NEAREST)
        present = [int(c) for c in np.unique(classes) if c in self._classes]
        if rng.random() < self._config.absent:
            missing = sorted(self._classes.keys() - present)
            thing = self._classes[missing[rng.integers(len(missing))]] if missing else ""
            edit = painted(number, image, np.zeros_like(classes, bool), thing, rng)
        elif present:
            chosen = present[rng.integers(len(present))]
            edit = painted(number, image, classes == chosen, self._classes[chosen], rng)
        else:
            edit = EditPair(number, image, image, UNCHANGED)
        return dataclasses.replace(edit, boxes=boxes)


class Referred(Pictured):
    """RefCOCO and gRefCOCO: expressions that name none, one or several things of a picture.

    Raises: ValueError if a file has another layout.
    """

    def __init__(self, config: Segmentation):
        self._config, self._images = config, Path(config.images).expanduser()
        file = Path(config.path).expanduser()
        content = file.read_bytes()
        plain = config.form == "grefcoco"
        refs = json.loads(content) if plain else plain_pickle(content, str(file))
        instances = json.loads(Path(config.labels).expanduser().read_text(encoding="utf-8"))
        if not isinstance(refs, list) or not {"images", "annotations"} <= instances.keys():
            raise ValueError(
                f"expected a list in {file}, and images and annotations in {config.labels}"
            )
        self._files = {one["id"]: one for one in instances["images"]}
        self._shapes = {one["id"]: one.get("segmentation") for one in instances["annotations"]}
        self._refs = [one for one in refs if one.get("split") == config.split]
        if not self._refs:
            raise ValueError(f"{file}: expected expressions of split {config.split!r}, found none")
        self.found = config.found(len(self))

    def __len__(self) -> int:
        return len(self._refs)

    def name(self, number: int) -> str:
        return f"ref {self._refs[number].get('ref_id', number)}"

    def picture(self, number: int) -> Picture:
        return decode(picture_file(self._images, member(self._about(number), "file_name")))

    def _about(self, number: int) -> dict[str, Any]:
        image = member(self._refs[number], "image_id")
        if image not in self._files:
            raise Fault("missing member", f"no image {image} in {self._config.labels}")
        return self._files[image]

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> EditPair:
        ref = self._refs[number]
        sentences = member(ref, "sentences")
        if not sentences:
            raise Fault("bad caption", "no sentences")
        thing = words(sentences[rng.integers(len(sentences))].get("sent"), "an expression")
        about, picture = self._about(number), self.picture(number)
        met.extend(picture.notes)
        height, width = picture.pixels.shape[:2]
        stated = about.get("height", height), about.get("width", width)
        if stated != (height, width):
            raise Fault("wrong size", f"expected {stated}, got {(height, width)}")
        named = member(ref, "ann_id")
        mask = np.zeros((height, width), bool)
        for one in named if isinstance(named, list) else [named]:
            if one != -1:  # gRefCOCO's mark of an expression that names nothing
                mask |= shape_mask(self._shapes.get(one), height, width)
        size = self._config.size
        small = _resized(mask.astype(np.uint8), size, Image.Resampling.NEAREST) > 0
        edit = painted(number, stretched(picture.pixels, size), small, thing, rng)
        return dataclasses.replace(edit, boxes=self.regions(number))


def painted(
    number: int, image: np.ndarray, mask: np.ndarray, thing: str, rng: np.random.Generator
) -> EditPair:
    """Lays a drawn colour over what the mask marks, in drawn words."""
    colour = list(COLOURS)[rng.integers(len(COLOURS))]
    request = REQUESTS[rng.integers(len(REQUESTS))].format(thing=thing.lower(), colour=colour)
    mixed = (1 - OPACITY) * image + OPACITY * np.array(COLOURS[colour])
    target = np.where(mask[..., None], np.round(mixed), image).astype(np.uint8)
    return EditPair(number, image, target, request)


def class_map(data: bytes) -> np.ndarray:
    """Decodes a map of classes, uint8 [H, W].

    Raises: Fault if it is no 8-bit PNG of one channel.
    """
    with as_fault("bad segmentation"), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"expected one channel of 8 bits, got mode {image.mode}")
        return np.asarray(image)


def shape_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Draws COCO's polygons, or decodes its uncompressed runs, bool [H, W].

    Raises: Fault if it is neither.
    """
    with as_fault("bad segmentation"):
        if isinstance(segmentation, dict):
            counts = np.asarray(segmentation["counts"], np.int64)  # gap and run by turns
            ends = np.cumsum(counts)
            runs = np.stack([ends[:-1:2], counts[1::2]], axis=1).ravel().tolist()
            return rle.decode(runs, height, width, first=0, order="column")
        mask = np.zeros((height, width), np.uint8)
        outlines = [np.asarray(one, np.float64).reshape(-1, 2) for one in segmentation]
        if not outlines:
            raise ValueError("expected polygons, got none")
        cv2.fillPoly(mask, [np.round(one).astype(np.int32) for one in outlines], (1,))
        return mask > 0


class _Plain(pickle.Unpickler):
    """Reads what is made of lists, dicts, numbers and texts, and runs nothing."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise ValueError(f"it names {module_name}.{global_name}, which would be run")


def plain_pickle(content: bytes, name: str) -> Any:
    """Returns the value of a pickle without code.

    Raises: ValueError if it names any function or class, or is damaged.
    """
    try:
        return _Plain(io.BytesIO(content)).load()
    except (ValueError, EOFError, pickle.UnpicklingError, IndexError, KeyError) as error:
        raise ValueError(f"{name}: expected a pickle of plain values, {error}") from error


def square(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, slice]:
    """Returns the largest square that fits, at random along the longer side."""
    side = min(shape)
    top, left = (int(rng.integers(length - side + 1)) for length in shape)
    return slice(top, top + side), slice(left, left + side)


def _resized(array: np.ndarray, size: int, how: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize((size, size), how))
