"""What the parts of an agent promise each other; anything of these shapes takes part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from brushjax.agents.plan import EditPlan


@dataclasses.dataclass(frozen=True)
class Segments:
    """Where an object is.

    Attributes:
        masks: white = the object, one for each instance, best first. [N, H, W]
        boxes: left, top, right, bottom in pixels. [N]
        scores: 0..1, falling. [N]
    """

    masks: UInt8[np.ndarray, "N H W"]
    boxes: Sequence[Sequence[float]]
    scores: Sequence[float]

    def mask(self, instances: Sequence[int] | None = None) -> UInt8[np.ndarray, "H W"]:
        """The union of instances, of all by default."""
        chosen = self.masks if instances is None else self.masks[list(instances)]
        return chosen.max(axis=0, initial=0)


@runtime_checkable
class Instructor(Protocol):
    """Steps 1, 2 and 4: from an instruction to category, object and captions."""

    def __call__(self, instruction: str, image: Any = None, source_caption: str = "") -> EditPlan:
        """Returns the plan, without mask; raises NotUnderstood."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Step 3: where an object is."""

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], phrase: str) -> Segments:
        """Returns the instances of what a noun phrase names; none is an empty result."""
        ...


@runtime_checkable
class Editor(Protocol):
    """Carries out a plan.

    Attributes:
        settings: all that its results depend on besides plan and seed; of JSON's types.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """What its results depend on besides plan and seed."""
        ...

    def __call__(self, plan: EditPlan, seed: int = 0) -> UInt8[np.ndarray, "H W 3"]:
        """Returns the edited picture, of the size of the plan's."""
        ...
