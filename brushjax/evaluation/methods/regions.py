"""Edits of a region that an instruction gives, and regions to compare it with.

All are scored by the overlap of their region with the benchmark's mask, whether they paint or not.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool

from brushjax.evaluation.methods.contract import Filling, Made, Method, Resources, Task
from brushjax.evaluation.methods.inpainting import Painting, Sampling
from brushjax.evaluation.records import Record, check_instructions
from brushjax.identity import arrays

if TYPE_CHECKING:
    from brushjax.pipelines.regions import RegionFinder

Find = Callable[[Sequence[Task]], list[Any]]
"""Gives the region of each task, bool [H, W]."""


@dataclasses.dataclass(frozen=True)
class _Regions(Painting):
    """What all of them have.

    Attributes:
        label: its name in the report.
        paints: whether the region is painted after the target caption; else the picture is the
            source as it is, and the region alone means something.
        checkpoint, base, sampling, blend: as for `brushjax.evaluation.methods.inpainting.Branch`.
    """

    label: str = "region"
    paints: bool = False
    checkpoint: str = ""
    base: str = ""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    blend: str = "paste"
    seeded = True
    reads = ("instruction", "prompt")

    @property
    def takes_weights(self) -> bool:
        """Where it paints and names no checkpoint."""
        return self.paints and super().takes_weights

    def finder(self, resources: Resources) -> tuple[dict[str, Any], Find]:
        """What the regions depend on, and what finds them."""
        raise NotImplementedError

    def method(self, resources: Resources) -> Method:
        """Finds each task's region, then paints those that there are, together."""
        found_by, find = self.finder(resources)
        digests, paint = self.painter(resources) if self.paints else ({}, None)
        own = {**dataclasses.asdict(self), "kind": type(self).__name__, **found_by, **digests}

        def fill(tasks: Sequence[Task]) -> Made:
            regions = np.stack(find(tasks))
            pictures = np.stack([task.pixels.source for task in tasks])
            there = [i for i, region in enumerate(regions) if region.any()]
            if paint and there:
                pictures[there] = paint(
                    list(pictures[there]),
                    [regions[i] * np.uint8(255) for i in there],
                    [tasks[i].record.prompt for i in there],
                    seed=[tasks[i].seed for i in there],
                )
            return Made(pictures, regions)

        return Filling(own, fill)


@dataclasses.dataclass(frozen=True)
class Predicted(_Regions):
    """The region that a predictor finds for the instruction.

    Attributes:
        predictor: export folder of a region predictor's run; empty is the small one that ships.
    """

    label: str = "predicted region"
    predictor: str = ""

    def check(self, records: Sequence[Record]) -> None:
        """Instructions are read."""
        check_instructions(self.label, records)

    def finder(self, resources: Resources) -> tuple[dict[str, Any], Find]:
        finder = _loaded(self)

        def find(tasks: Sequence[Task]) -> list[np.ndarray]:
            asked = [(task.pixels.source, task.record.instruction) for task in tasks]
            return [finder.find(source, instruction).region for source, instruction in asked]

        return _identity(finder), find


@dataclasses.dataclass(frozen=True)
class Proposed(_Regions):
    """The box whose edit CLIP likes best: no region was learnt.

    The edits are parts of one painting of the whole picture by the base alone.

    Attributes:
        predictor: as for `Predicted`; its CLIP is taken.
    """

    label: str = "boxes, CLIP's choice"
    predictor: str = ""

    def finder(self, resources: Resources) -> tuple[dict[str, Any], Find]:
        from brushjax.pipelines.proposals import ChosenBox

        finder = _loaded(self)
        box = ChosenBox.of(finder)
        settings = self.sampling.settings("none", resources.together)

        @functools.cache
        def painter() -> Any:
            from brushjax.inference.blended import BlendedLatents

            return BlendedLatents(resources.models.base(self.base), resources.mesh)

        def find(tasks: Sequence[Task]) -> list[np.ndarray]:
            donors = painter()(
                [task.pixels.source for task in tasks],
                [np.ones(task.pixels.source.shape[:2], bool) for task in tasks],
                [task.record.prompt for task in tasks],
                [task.seed for task in tasks],
                settings,
            )
            return [
                box.find(task.pixels.source, donor, task.record.prompt).region
                for task, donor in zip(tasks, donors, strict=True)
            ]

        return _identity(finder) | {"donors": resources.models.base_digests(self.base)}, find


@dataclasses.dataclass(frozen=True)
class Fixed(_Regions):
    """A region that does not depend on what the instruction says.

    Attributes:
        by: "oracle" is the benchmark's mask; "everything" the whole picture; "random" a box.
        area: share of the picture that a random box covers.
    """

    label: str = "everything"
    by: Literal["oracle", "everything", "random"] = "everything"
    area: float = 0.25

    def __post_init__(self) -> None:
        if not 0 < self.area <= 1:
            raise ValueError(f"expected an area above 0 and at most 1, got {self.area}")

    @property
    def sees_truth(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The oracle does."""
        return self.by == "oracle"

    def finder(self, resources: Resources) -> tuple[dict[str, Any], Find]:
        def one(task: Task) -> np.ndarray:
            if self.by == "oracle":
                return task.hole > 0
            height, width = task.pixels.source.shape[:2]
            if self.by == "everything":
                return np.ones((height, width), bool)
            return random_box(height, width, self.area, np.random.default_rng(task.seed))

        return {}, lambda tasks: [one(task) for task in tasks]


def random_box(
    height: int, width: int, area: float, rng: np.random.Generator
) -> Bool[np.ndarray, "H W"]:
    """Returns a box that covers about `area` of a picture, of any shape that fits, anywhere."""
    tall = float(np.exp(rng.uniform(np.log(max(area, 1 / height)), 0)))  # share of the height
    rows = max(1, round(tall * height))
    columns = min(width, max(1, round(area / tall * width)))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    region = np.zeros((height, width), bool)
    region[top : top + rows, left : left + columns] = True
    return region


def _loaded(recipe: Predicted | Proposed) -> RegionFinder:
    from brushjax.pipelines.regions import SHIPPED_REGION, RegionFinder

    return RegionFinder.load(recipe.predictor or SHIPPED_REGION)


def _identity(finder: RegionFinder) -> dict[str, Any]:
    """What its regions depend on: values, not places."""
    from flax import nnx

    models = {name: nnx.to_pure_dict(nnx.state(model)) for name, model in finder.models.items()}
    encoders = dataclasses.asdict(finder.encoders) | {"clip": "", "reader": ""}
    return {"encoders": encoders, "models": arrays(models)}
