"""Benchmarks of held-out photographs: crops with random masks, crops with swapped prompts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from brushjax.data.pipeline import PhotoData
from brushjax.data.sets.photos import PhotoSource, class_crops
from brushjax.evaluation.records import Benchmark, Pixels, Record, pixel_digest
from brushjax.metrics.metric import Metric
from brushjax.metrics.nearest_class import NearestClass
from brushjax.metrics.profiles.seams import SEAM_METRICS
from brushjax.metrics.views import RESULT, Views


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """A crop with its hole (1 = hole), its prompt and its class."""

    id: int
    image: UInt8[np.ndarray, "H W 3"]
    mask: UInt8[np.ndarray, "H W"]
    prompt: str
    label: str

    def record(self, benchmark: str, group: str = "", named: str = "") -> Record:
        """As a record; `group` is its class by default, `named` the class that its prompt names."""
        pixels = Pixels(self.image, self.mask, self.image)
        return Record(
            benchmark,
            str(self.id),
            self.prompt,
            lambda: pixels,
            pixel_digest(pixels),
            group=group or self.label,
            source_caption=self.label,
            target_caption=self.prompt,
            local_caption=named or self.label,
        )


@dataclasses.dataclass(frozen=True)
class HeldOut(Benchmark):
    """Held-out crops with random masks and their own captions.

    Attributes:
        count: how many.
        data: where they come from; sample n depends on it and n alone.
    """

    count: int = 64
    data: PhotoData = dataclasses.field(default_factory=lambda: PhotoData(split="held_out", seed=1))

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "fill"

    def samples(self) -> list[Sample]:
        """The samples, numbered from 0."""
        photos = self.data.source(not_encoded)
        described = [photos.describe(n) for n in range(self.count)]
        return [
            Sample(one.id, one.image, one.mask[..., 0], one.caption, one.class_name)
            for one in described
        ]

    def records(self) -> list[Record]:
        """The samples as records."""
        return [one.record(self.name) for one in self.samples()]

    def metrics(self) -> tuple[Metric, ...]:
        """How visible the hole's edge is."""
        return SEAM_METRICS


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


@dataclasses.dataclass(frozen=True)
class Steered(Benchmark):
    """Whether the prompt decides what the hole shows, by the nearest class of real crops.

    Attributes:
        steering: the samples.
        part: "swapped": with another class's caption; "own": the same samples, same noise, with
            their own captions - what would be found if prompts did nothing.
        methods: labels of the methods that run on it, each with the first seed only.
    """

    steering: Steering = dataclasses.field(default_factory=Steering)
    part: Literal["swapped", "own"] = "swapped"
    methods: tuple[str, ...] = ("trained",)

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.part

    def records(self) -> list[Record]:
        """The samples as records, grouped by the class that the swapped prompt names."""
        plan = self.steering.plan()
        samples = plan.swapped if self.part == "swapped" else plan.own
        return [
            one.record(self.name, target, target)
            for one, target in zip(samples, plan.targets, strict=True)
        ]

    def metrics(self) -> tuple[Metric, ...]:
        """Shares of fills nearest to a class: the named one, and the true one."""
        return (
            *(
                Metric("clean", name, (caption,), self._nearest(caption), scale="share")
                for name, caption in (
                    ("nearest_named", "local_caption"),
                    ("nearest_true", "source_caption"),
                )
            ),
        )

    def note(self) -> str:
        """How far the check itself can be trusted."""
        chance = 1 / len(self.steering.classes)
        return (
            f"{self.part}: chance is {100 * chance:.1f} %; the check tells"
            f" {100 * check_accuracy(self.steering):.1f} % of held-out real crops rightly"
        )

    def relabelled(self, labels: Mapping[str, Sequence[str]]) -> Steered:
        """Asks the methods that took the place of its own."""
        methods = tuple(new for old in self.methods for new in labels.get(old, (old,)))
        return dataclasses.replace(self, methods=methods)

    def wants(self, label: str, repeat: int) -> bool:
        """Whether the method with this label is run on it, with the repeat-th seed."""
        return label in self.methods and repeat == 0

    def _nearest(self, field: str):
        def hit(views: Views) -> float:
            crop = self.steering.cut(views.picture(RESULT)[None])
            return float(nearest_class(self.steering).predict(crop)[0] == views.text(field))

        return hit


@functools.lru_cache(maxsize=2)
def nearest_class(steering: Steering) -> NearestClass:
    """The check, fitted to real training crops."""
    return NearestClass.fit(*steering.real_crops("train"))


def check_accuracy(steering: Steering) -> float:
    """Share of held-out real crops that the check tells rightly, which no fill can be above."""
    crops, names = steering.real_crops("held_out")
    found = nearest_class(steering).predict(crops)
    return float(np.mean([one == other for one, other in zip(found, names, strict=True)]))


def not_encoded(record: Any) -> Mapping[str, np.ndarray]:
    """Stands for an objective's `encode` where records are read as they are."""
    raise RuntimeError(f"pictures and captions are evaluated as such, but {record} was encoded")
