"""What carries plans out. BrushNet's inpainting is one; anything of `Editor`'s shape is another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.agents.masks import prompts
from brushjax.agents.plan import EditPlan
from brushjax.agents.protocols import Editor
from brushjax.inference.crops import squared_context
from brushjax.inference.engine.program import Progress
from brushjax.inference.inpaint import Inpainter

NOT_SETTINGS = ("painter", "progress")


@dataclasses.dataclass(frozen=True)
class InpaintingEditor:
    """Paints a plan's mask with a base model and a BrushNet branch.

    Attributes:
        painter: what paints.
        crop: None, or works on a window around the mask, so many times as large as the mask (less
            where that keeps it a square), at the base's size: for pictures larger than that.
        progress: is told of the steps; what it raises ends the edit.
        steps, guidance, scale, scheduler, blend, negative_prompt: as `Inpainter` takes them; blend
            "paste" leaves every pixel outside the mask as it was.
    """

    painter: Inpainter
    steps: int = 50
    guidance: float | int = 7.5
    scale: float | int = 1.0
    scheduler: str = "unipc"
    blend: str = "paste"
    negative_prompt: str = ""
    crop: float | int | None = None
    progress: Progress | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What its results depend on besides plan, seed and weights."""
        names = [field.name for field in dataclasses.fields(self)]
        return {name: getattr(self, name) for name in names if name not in NOT_SETTINGS}

    def __call__(self, plan: EditPlan, seed: int = 0) -> UInt8[np.ndarray, "H W 3"]:
        """Returns the edited picture.

        Raises:
            ValueError: a plan without picture or mask; what the painter raises.
        """
        if plan.image is None or plan.mask is None:
            raise ValueError("expected a plan with picture and mask; make the mask first")
        sampling = self.settings
        prompt, negative = prompts(plan, sampling.pop("negative_prompt"))
        if self.crop is not None:
            sampling["crop"] = squared_context(plan.mask >= 128, self.crop)
        result = self.painter(
            plan.image, plan.mask, prompt, negative, seed=seed, progress=self.progress, **sampling
        )
        return result.images[0]


def editor(method: str, load: Callable[[], Inpainter], **settings: Any) -> Editor:
    """Makes an editor by a method's name; "agent" inpaints.

    Args:
        load: gives the painter; called only where it is needed.

    Raises:
        ValueError: a method that is not there.
    """
    if method not in EDITORS:
        raise ValueError(
            f"expected a method of {', '.join(EDITORS)}; got {method!r}, which no part of this "
            "installation carries out"
        )
    return EDITORS[method](load, **settings)


def _inpainting(load: Callable[[], Inpainter], **settings: Any) -> Editor:
    return InpaintingEditor(load(), **settings)


EDITORS: dict[str, Callable[..., Editor]] = {"agent": _inpainting, "region": _inpainting}
"""Methods by name; others are added here."""
