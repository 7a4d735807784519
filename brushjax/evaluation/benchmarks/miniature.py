"""A small benchmark of edits by instruction whose right answers are known: it ships, or lies here.

A scene is a collage: a thing pasted into a picture of something else. Five edits are asked of every
scene, and what is right is made in the same way as the scene itself, with the same seam.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from brushjax.data.masks.collage import paste
from brushjax.data.masks.shapes import MaskConfig, sample_mask
from brushjax.data.sets.collages import bare, distinct
from brushjax.data.sets.photos import PhotoSource
from brushjax.evaluation.benchmarks import packaged
from brushjax.evaluation.records import Benchmark, Pixels, Record, pixel_digest
from brushjax.metrics.metric import Metric
from brushjax.metrics.profiles.plans import PLAN_METRICS
from brushjax.metrics.profiles.seams import SEAM_METRICS

Part = Literal["held-out", "unseen"]
KINDS = ("removal", "replacement", "colour", "darkening", "background")
COLOURS = {"red": (230, 50, 40), "green": (60, 190, 60), "blue": (50, 90, 230)}
DARK = 0.35  # share of the light that a darker thing keeps
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
SHAPES = MaskConfig(
    brush=0.0, outline=0.0, blob=0.4, ellipse=0.3, box=0.3, share=(0.1, 0.3), invert=0.0
)


@dataclasses.dataclass(frozen=True)
class Miniature(Benchmark):
    """Removals, replacements, new colours, darkenings and new backgrounds of collages.

    Attributes:
        count: scenes of every part; each gives a record of every kind.
        size: side in pixels.
        seed: of everything random; scene n depends on size, seed and n alone.
        parts: "held-out": of the regions of the package's photographs that no training crop shares
            a pixel with; "unseen": of pictures that packages on this machine carry, which none of
            the shipped models saw. A part without enough pictures is left out, and the note says
            so.
        kinds: of `KINDS`.
    """

    count: int = 4
    size: int = 128
    seed: int = 3
    parts: tuple[Part, ...] = ("held-out", "unseen")
    kinds: tuple[str, ...] = KINDS
    choosing = ("count", "size", "seed", "parts", "kinds")

    def __post_init__(self) -> None:
        if odd := sorted({*self.kinds} - {*KINDS}):
            raise ValueError(f"expected kinds of {', '.join(KINDS)}; got {', '.join(odd)}")

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "miniature"

    def records(self) -> list[Record]:
        """The edits, scene by scene."""
        return [
            self._record(part, n, scene, kind)
            for part in self.parts
            for n, scene in enumerate(self.scenes(part))
            for kind in self.kinds
        ]

    def scenes(self, part: Part) -> Iterator[Scene]:
        """What the records of a part are made of; nothing where pictures are missing."""
        found = packaged.found()
        if part == "unseen" and len(found) < packaged.LEAST:
            return
        photos = PhotoSource(self.size, self.seed, "held_out")
        for n in range(self.count):
            # The second number keeps the streams of the two parts apart.
            rng = np.random.default_rng((self.seed, 0 if part == "held-out" else 1, n))
            if part == "held-out":
                crops = distinct(photos, n, rng, 3)
                around, pasted, other = (Thing(crop.image, crop.phrase) for crop in crops)
            else:
                chosen = rng.choice(len(found), 3, replace=False)
                three = [found[k] for k in chosen]
                around, pasted, other = (Thing(x.crop(self.size, rng), x.phrase) for x in three)
            mask = sample_mask(SHAPES, self.size, rng)
            colour = list(COLOURS)[rng.integers(len(COLOURS))]
            seam = int(rng.integers(1 << 30))
            yield Scene(around, pasted, other, mask, colour, seam)

    def metrics(self) -> tuple[Metric, ...]:
        """How visible the edge of the edit is, and whether plans are right."""
        return (*SEAM_METRICS, *PLAN_METRICS)

    def note(self) -> str:
        """What was left out, and what the scenes are."""
        text = f"miniature: {len(self.kinds)} edits of each of {self.count} collages a part"
        there, absent = packaged.found(), packaged.absent()
        if "unseen" not in self.parts:
            return f"{text}; the part of unseen pictures was not asked for"
        if len(there) < packaged.LEAST:
            return (
                f"{text}; the part of unseen pictures is left out: expected {packaged.LEAST}"
                f" pictures of installed packages, found {len(there)}; pip install"
                f" {' '.join(absent)}"
            )
        names = ", ".join(f"{one.package} ({one.phrase})" for one in there)
        missing = f"; not installed: {', '.join(absent)}" if absent else ""
        return f"{text}; unseen pictures: {names}{missing}"

    def _record(self, part: Part, n: int, scene: Scene, kind: str) -> Record:
        edit = scene.edit(kind)
        return Record(
            self.name,
            f"{part}/{n}/{kind}",
            edit.target_caption,
            lambda: edit.pixels,
            pixel_digest(edit.pixels),
            session=f"{part}/{n}",
            group=kind if part == "held-out" else f"{kind} ({part})",
            instruction=edit.instruction,
            source_caption=scene.caption,
            target_caption=edit.target_caption,
            local_caption=edit.local_caption,
            asked=asked(kind, scene.pasted.phrase),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
    """A picture and what it shows ("a tabby cat")."""

    image: UInt8[np.ndarray, "H W 3"]
    phrase: str


@dataclasses.dataclass(frozen=True, eq=False)
class Edit:
    """An edit of a scene: the pixels hold source, mask and the right answer."""

    pixels: Pixels
    instruction: str
    target_caption: str
    local_caption: str


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """A thing in a picture of another, and what is needed for its edits.

    Attributes:
        around, pasted: what is seen.
        other: what comes in the place of either.
        mask: 1 where the thing is pasted.
        colour: a name in `COLOURS`.
        seam: seed of the seam, one for the scene and its answers.
    """

    around: Thing
    pasted: Thing
    other: Thing
    mask: UInt8[np.ndarray, "H W 1"]
    colour: str
    seam: int

    @functools.cached_property
    def source(self) -> UInt8[np.ndarray, "H W 3"]:
        """The collage."""
        return self._laid(self.around.image, self.pasted.image)

    @property
    def caption(self) -> str:
        """Of the collage."""
        return f"{self.around.phrase} with {self.pasted.phrase}"

    def edit(self, kind: str) -> Edit:
        """One of `KINDS`.

        What is outside the mask is the same in source and truth, to the bit.
        """
        around, pasted, other = self.around, self.pasted, self.other
        thing = bare(pasted.phrase)
        if kind == "removal":
            return self._edit(around.image, f"remove the {thing}", around.phrase, around.phrase)
        if kind == "background":
            return self._new_background()
        if kind == "replacement":
            inside, words = other.image, f"replace the {thing} with {other.phrase}"
            phrase = other.phrase
        elif kind == "colour":
            inside, words = tinted(pasted.image, self.colour), f"make the {thing} {self.colour}"
            phrase = described(self.colour, pasted.phrase)
        else:
            inside = np.rint(pasted.image * DARK).astype(np.uint8)
            words, phrase = f"make the {thing} darker", described("dark", pasted.phrase)
        truth = self._laid(around.image, inside)
        return self._edit(truth, words, f"{around.phrase} with {phrase}", phrase)

    def _edit(self, truth: np.ndarray, words: str, caption: str, local: str) -> Edit:
        pixels = Pixels(self.source, self.mask[..., 0], truth)
        return Edit(pixels, words, caption, local)

    def _new_background(self) -> Edit:
        """Kept is what shows nothing of the old background: the thing without its seam."""
        shape = self.source.shape
        shown = self._laid(np.zeros(shape, np.uint8), np.full(shape, 255, np.uint8))
        hole = (shown[..., 0] < 255).astype(np.uint8)
        laid = self._laid(self.other.image, self.pasted.image)
        truth = np.where(hole[..., None] > 0, laid, self.source)
        words = f"change the background to {self.other.phrase}"
        caption = f"{self.other.phrase} with {self.pasted.phrase}"
        return Edit(Pixels(self.source, hole, truth), words, caption, self.other.phrase)

    def _laid(self, around: np.ndarray, inside: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
        return paste(around, inside, self.mask, np.random.default_rng(self.seam))


def asked(kind: str, phrase: str) -> tuple[str, str]:
    """Category and object of one of `KINDS`, of a thing that is pasted."""
    if kind == "background":
        return "background", ""
    return "removal" if kind == "removal" else "local", bare(phrase)


def described(word: str, phrase: str) -> str:
    """The phrase with a word more, behind its article: "a tabby cat" -> "a blue tabby cat"."""
    thing = bare(phrase)
    article = phrase.removesuffix(thing).replace("an ", "a ")  # no word of ours starts with a vowel
    return f"{article}{word} {thing}"


def tinted(image: UInt8[np.ndarray, "H W 3"], colour: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in shades of one colour."""
    light = (image @ np.array(LUMA))[..., None] / 255
    return np.rint(np.clip(1.2 * light * COLOURS[colour], 0, 255)).astype(np.uint8)
