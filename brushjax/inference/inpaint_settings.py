"""How pictures are painted: one value, checked once, for the Inpainter, the command and sweeps."""

from __future__ import annotations

import dataclasses
import difflib
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from brushjax.data.sources.mask_files import ALPHAS
from brushjax.diffusion.guidance import BLENDS
from brushjax.diffusion.samplers import SAMPLERS
from brushjax.inference.engine.approximations import Approximations
from brushjax.inference.engine.batch import control_scales
from brushjax.inference.engine.options import EditOptions


@dataclasses.dataclass(frozen=True)
class InpaintSettings:
    """How pictures are painted, whichever they are.

    Attributes:
        steps: of the scheduler.
        guidance: g; at 1 or below the negative prompt is not used at all.
        scale: preservation scale w of the branch.
        control_start, control_end: shares of the steps between which the branch works.
        scheduler: a name in `brushjax.diffusion.samplers.SAMPLERS`.
        blend: a name in `brushjax.diffusion.guidance.BLENDS`.
        guess_mode: the branch's maps grow from weak to strong with their depth.
        tile: side in pixels of the tiles in which the VAE works, for large pictures.
        together: samples that a device works on at once; None takes its whole share. With 1 a
            picture is the same, bit for bit, in any batch and on any number of devices.
        approximations: less work for a slightly different picture.
        mask_alpha, resize_mask: how masks are read, see `brushjax.inference.images.prepare`.
        crop: for large pictures: a window around the hole, whose side is this many times the
            hole's, is worked on at the base's size and put back; None works on the whole picture.
        weights: read (word:1.2), ((word)) and [word] in the prompts as weights, not as words.
        clip_skip: layer of the text encoder that is read, counted from the end; 1 is the published
            way. See `brushjax.pipelines.text.TextEncoders`.

    Raises:
        ValueError: a value that is out of range, with the range.
    """

    steps: int = 50
    guidance: float | int = 7.5
    scale: float | int = 1.0
    control_start: float | int = 0.0
    control_end: float | int = 1.0
    scheduler: str = "unipc"
    blend: str = "feather"
    guess_mode: bool = False
    tile: int | None = None
    together: int | None = None
    approximations: Approximations | None = None
    mask_alpha: str = "auto"
    resize_mask: bool = False
    crop: float | int | None = None
    weights: bool = False
    clip_skip: int = 1

    def __post_init__(self) -> None:
        named = {"scheduler": sorted(SAMPLERS), "blend": BLENDS, "mask_alpha": ALPHAS}
        for name, known in named.items():
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name} in {known}, got {getattr(self, name)!r}")
        if self.steps < 1:
            raise ValueError(f"expected steps of at least 1, got {self.steps}")
        if not math.isfinite(self.guidance):
            raise ValueError(f"expected a finite guidance, got {self.guidance}")
        if self.crop is not None and not 1 <= self.crop < math.inf:
            raise ValueError(f"expected crop of at least 1, got {self.crop}")
        if self.clip_skip < 1:
            raise ValueError(
                f"expected clip_skip of at least 1, the last layer, got {self.clip_skip}"
            )
        self.scales(self.steps)
        _ = self.options

    def changed(self, **changes: Any) -> InpaintSettings:
        """The same with other values.

        Raises:
            TypeError: no setting of that name; names the nearest.
            ValueError: as for a new one.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in changes.keys() - {*known}:
            near = difflib.get_close_matches(name, known)
            hint = f"; did you mean {' or '.join(near)}?" if near else f": {', '.join(known)}"
            raise TypeError(f"expected settings of an edit, got {name!r}{hint}")
        return dataclasses.replace(self, **changes)

    def scales(self, calls: int) -> Float[np.ndarray, " n"]:
        """The branch's scale at every call of the networks."""
        return control_scales(calls, self.scale, self.control_start, self.control_end)

    @property
    def options(self) -> EditOptions:
        """What a program is compiled for."""
        return EditOptions(guess_mode=self.guess_mode, tile=self.tile, together=self.together)

    @property
    def reading(self) -> dict[str, Any]:
        """How `brushjax.inference.images.prepare` reads pictures and masks."""
        return {name: getattr(self, name) for name in ("mask_alpha", "resize_mask", "crop")}
