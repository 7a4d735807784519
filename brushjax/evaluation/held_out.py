"""Which held-out samples are evaluated: crops with random masks, crops with swapped prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from brushjax.data.photos import PhotoSource, class_crops
from brushjax.data.pipeline import PhotoData
from brushjax.evaluation.units import Sample


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out crops with random masks and their own captions.

    Attributes:
        count: how many.
        data: where they come from; sample n depends on it and n alone.
    """

    count: int = 64
    data: PhotoData = dataclasses.field(default_factory=lambda: PhotoData(split="held_out", seed=1))

    def samples(self) -> list[Sample]:
        """The samples, numbered from 0."""
        photos = self.data.source(_no_tokens)
        described = [photos.describe(n) for n in range(self.count)]
        return [
            Sample(one.id, one.image, one.mask[..., 0], one.caption, one.class_name)
            for one in described
        ]


@dataclasses.dataclass(frozen=True)
class Swap:
    """The same samples with their own captions and with those of another class, the target."""

    own: list[Sample]
    swapped: list[Sample]
    targets: list[str]


@dataclasses.dataclass(frozen=True)
class Steering:
    """Held-out crops of clearly different classes with a square hole and another class's caption.

    Attributes:
        count: how many.
        classes: what a prompt may name. Real crops of them must be easy to tell apart, or a miss
            would say nothing about the fill.
        hole: side of the centred hole, in pixels.
        rim: width of the hole's border that the check leaves out, in pixels: there a good fill is a
            transition between two classes (one latent cell by default).
        size: side of the crops, in pixels.
        seed: of the crops, and of which class is named.
        examples: real crops per class behind the nearest-class check, and again for its accuracy.
    """

    count: int = 64
    classes: tuple[str, ...] = (
        "galaxies",
        "flower",
        "sky",
        "foliage",
        "retina",
        "wood",
        "brick",
        "temple",
    )
    hole: int = 64
    rim: int = 8
    size: int = 128
    seed: int = 2
    examples: int = 48

    def __post_init__(self) -> None:
        if not 0 < self.hole < self.size:
            raise ValueError(f"expected 0 < hole < size {self.size}, got {self.hole}")
        if not 0 <= 2 * self.rim < self.hole:
            raise ValueError(f"expected 0 <= 2 * rim < hole {self.hole}, got rim {self.rim}")
        if len(set(self.classes)) < 2:
            raise ValueError(f"expected at least two classes to swap, got {self.classes}")

    def plan(self) -> Swap:
        """The samples of the steering test."""
        photos = PhotoSource(self.size, self.seed, "held_out", classes=self.classes)
        mask = np.zeros((self.size, self.size), np.uint8)
        mask[self._window(0)] = 1
        own, swapped, targets = [], [], []
        for n in range(self.count):
            crop = photos[n]
            # A stream of its own, so that which crops are drawn does not depend on the classes
            # named.
            rng = np.random.default_rng((self.seed, n, 1))
            others = [name for name in self.classes if name != crop.class_name]
            target = others[rng.integers(len(others))]
            caption = photos.crop(n, rng, target).caption
            own.append(Sample(n, crop.image, mask, crop.caption, crop.class_name))
            swapped.append(dataclasses.replace(own[-1], prompt=caption))
            targets.append(target)
        return Swap(own, swapped, targets)

    def real_crops(self, split: str) -> tuple[UInt8[np.ndarray, "n side side 3"], list[str]]:
        """What the check sees of real crops, `examples` of every class, with the class names."""
        crops = [
            self.cut(class_crops(split, name, self.examples, self.size, self.seed))
            for name in self.classes
        ]
        names = [name for name in self.classes for _ in range(self.examples)]
        return np.concatenate(crops), names

    def cut(self, pictures: UInt8[np.ndarray, "n H W 3"]) -> UInt8[np.ndarray, "n side side 3"]:
        """The part of pictures that the check looks at: the hole without its rim."""
        return pictures[(slice(None), *self._window(self.rim))]

    def _window(self, rim: int) -> tuple[slice, slice]:
        start = (self.size - self.hole) // 2
        window = slice(start + rim, start + self.hole - rim)
        return window, window


def _no_tokens(captions: Sequence[str]) -> np.ndarray:
    raise RuntimeError(f"captions are evaluated as text, but tokens of {captions} were asked for")
