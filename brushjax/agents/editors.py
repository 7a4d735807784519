"""What carries plans out. BrushNet's inpainting is one; anything of `Editor`'s shape is another."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.agents.masks import prompts
from brushjax.agents.plan import EditPlan
from brushjax.agents.protocols import Editor
from brushjax.diffusion.guidance import blend
from brushjax.inference.crops import squared_context
from brushjax.inference.engine.program import Progress
from brushjax.inference.fireedit import FireEditor
from brushjax.inference.inpaint import Inpainter

NOT_SETTINGS = ("painter", "progress")


@dataclasses.dataclass(frozen=True)
class InpaintingEditor:
    """Paints a plan's mask with a base model and a BrushNet branch.

    Attributes:
        painter: what paints.
        crop: None, or works on a window around the mask, so many times as large as the mask (less
            where that keeps it a square), at the base's size: for pictures larger than that.
        progress: called after steps; an exception from it ends the edit.
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


@dataclasses.dataclass(frozen=True)
class FireEditing:
    """Edits the whole picture as a plan's instruction says; needs no mask, but keeps to one.

    Attributes:
        edits: what edits.
        steps, scheduler: as `FireEditor` takes them.
        guidance, image_guidance: by the instruction and by the picture.
    """

    edits: FireEditor
    steps: int = 100
    guidance: float | int = 7.5
    image_guidance: float | int = 1.5
    scheduler: str = "euler-a"

    @property
    def settings(self) -> dict[str, Any]:
        """What its results depend on besides plan, seed and weights."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "edits"]
        return {name: getattr(self, name) for name in names}

    def __call__(self, plan: EditPlan, seed: int = 0) -> UInt8[np.ndarray, "H W 3"]:
        """Returns the edited picture; outside a plan's mask it is as it was.

        Raises:
            ValueError: a plan without picture or instruction; what the editor raises.
        """
        if plan.image is None or not plan.instruction:
            raise ValueError("expected a plan with picture and instruction")
        result = self.edits(
            plan.image,
            plan.instruction,
            steps=self.steps,
            text_guidance=self.guidance,
            image_guidance=self.image_guidance,
            scheduler=self.scheduler,
            seed=seed,
        )
        if plan.mask is None:
            return result.images[0]
        hole = (plan.mask >= 128).astype(np.uint8)[..., None]
        return blend(plan.image, result.images[0], hole, "paste")


def editor(method: str, load: Callable[[], Any], **settings: Any) -> Editor:
    """Makes an editor by a method's name: "agent" and "region" inpaint, "fireedit" takes the
    instruction as it is.

    Args:
        load: gives the painter, or the FireEditor; called only where it is needed.
        settings: of which a method takes those that it has.

    Raises:
        ValueError: a method that is not there.
    """
    if method not in EDITORS:
        raise ValueError(
            f"expected a method of {', '.join(EDITORS)}; got {method!r}, which no part of this "
            "installation carries out"
        )
    return EDITORS[method](load, **settings)


def _of_fields(kind: Callable[..., Editor], load: Callable[[], Any], **settings: Any) -> Editor:
    names = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    return kind(load(), **{name: value for name, value in settings.items() if name in names})


_INPAINTING = functools.partial(_of_fields, InpaintingEditor)
EDITORS: dict[str, Callable[..., Editor]] = {
    "agent": _INPAINTING,
    "region": _INPAINTING,
    "fireedit": functools.partial(_of_fields, FireEditing),
}
"""Methods by name; others are added here."""
