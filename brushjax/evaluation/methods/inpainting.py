"""Fills of a given hole by a diffusion model: branches on bases, and the base alone."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from brushjax.evaluation.methods.contract import Filling, Made, Method, Recipe, Resources, Task
from brushjax.evaluation.models import ZERO, Models, named_paths

if TYPE_CHECKING:
    from brushjax.inference import Inpainter, InpaintSettings

Paint = Callable[..., Any]
"""(images, masks, prompts, [negative prompts,] seed=) -> uint8 [B, H, W, 3], all of them lists; see
`brushjax.Inpainter`."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How pictures are sampled; see `brushjax.Inpainter`.

    Attributes:
        guidance_end: share of the steps after which guidance stops, see `Approximations`.
    """

    steps: int = 20
    guidance: float = 7.5
    scheduler: str = "unipc"
    scale: float = 1.0
    guidance_end: float = 1.0

    def __str__(self) -> str:
        end = "" if self.guidance_end == 1 else f" until {self.guidance_end:g} of the steps"
        return f"{self.scheduler}, {self.steps} steps, guidance {self.guidance:g}{end}"

    def settings(self, blend: str, together: int | None = None) -> InpaintSettings:
        """How `brushjax.Inpainter` paints with it.

        Raises:
            ValueError: a value that is out of range.
        """
        from brushjax.inference.engine.approximations import Approximations
        from brushjax.inference.inpaint_settings import InpaintSettings

        named = dataclasses.asdict(self)
        left_out = Approximations(guidance_end=named.pop("guidance_end"))
        return InpaintSettings(**named, blend=blend, together=together, approximations=left_out)


class Painting(Recipe):
    """A recipe for which a branch on a base paints.

    Attributes:
        checkpoint: of the branch; empty: what --weights names.
        base: pipeline folder; empty: the sweep's.
        sampling: how pictures are sampled.
        blend: how the fill is put into the source.
    """

    checkpoint: str
    base: str
    sampling: Sampling
    blend: str

    @property
    def takes_weights(self) -> bool:
        """Where it names no checkpoint."""
        return not self.checkpoint

    def with_weights(self, label: str, path: str) -> Recipe:
        """The same with another branch."""
        own: Any = self  # each recipe is a dataclass
        return dataclasses.replace(own, label=label, checkpoint=path)

    def painter(self, resources: Resources) -> tuple[dict[str, Any], Paint]:
        """Digests of the base and the branch, and what paints; the base is read at its first call.

        Raises:
            ValueError: a value of the sampling that is out of range.
        """
        models = resources.models
        branch = models.branch(self.checkpoint, self.base)
        digests = {"base": models.base_digests(self.base), "branch": models.digest(branch)}
        settings = self.sampling.settings(self.blend, resources.together)

        @functools.cache
        def inpainter() -> Inpainter:
            from brushjax.inference import Inpainter

            parts = models.base(self.base)
            return Inpainter.from_parts(brushnet=branch, mesh=resources.mesh, **parts)

        def paint(images: Sequence[Any], masks: Sequence[Any], *prompts: Any, seed: Any) -> Any:
            return inpainter()(images, masks, *prompts, seed=seed, settings=settings).images

        return digests, paint


def blending(blend: str) -> str:
    """How fills are put into the source, for readers, who may take a seam for a fault."""
    seams = ": not put back into the source, so that seams show" if blend == "none" else ""
    return f"blend {blend}{seams}"


@dataclasses.dataclass(frozen=True)
class Branch(Painting):
    """A BrushNet branch on a base.

    Attributes:
        label: its name in the report.
        checkpoint: of the branch; empty: what --weights names; "zero": the one training starts
            from, which adds nothing, so that it is the base model alone.
        base: pipeline folder; empty: the sweep's.
        sampling: how pictures are sampled.
        blend: how the fill is put into the source; "none" leaves the seam as it is.
    """

    label: str = "trained"
    checkpoint: str = ""
    base: str = ""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    blend: str = "none"
    seeded = True
    reads = ("prompt",)

    def explain(self, models: Models) -> str:
        """What it is, for the legend."""
        if self.checkpoint == ZERO:
            what = "the branch that training starts from; it adds nothing: the base model alone"
        else:
            what = f"the branch {models.source(self.checkpoint, self.base)}"
        scale = "" if self.sampling.scale == 1 else f", scale {self.sampling.scale:g}"
        return f"{what} ({self.sampling}{scale}, {blending(self.blend)})"

    def method(self, resources: Resources) -> Method:
        """The inpainter of its branch and base."""
        digests, paint = self.painter(resources)
        how = {**dataclasses.asdict(self.sampling), "blend": self.blend}

        def fill(tasks: Sequence[Task]) -> Made:
            pictures = paint(
                [task.pixels.source for task in tasks],
                [task.hole > 0 for task in tasks],
                [task.record.prompt for task in tasks],
                seed=[task.seed for task in tasks],
            )
            return Made(pictures)

        return Filling({"kind": "branch", **how, **digests}, fill)


@dataclasses.dataclass(frozen=True)
class Grid(Recipe):
    """Every combination of these settings, one branch each.

    Attributes:
        checkpoints, bases: paths, see `Branch`; "NAME=PATH" names one in the report.
        schedulers, steps, guidance, scales, blends: see `Sampling` and `Branch`.
        label: what every name in the report starts with.
    """

    checkpoints: tuple[str, ...] = ("",)
    bases: tuple[str, ...] = ("",)
    schedulers: tuple[str, ...] = ("unipc",)
    steps: tuple[int, ...] = (50,)
    guidance: tuple[float, ...] = (7.5,)
    scales: tuple[float, ...] = (1.0,)
    blends: tuple[str, ...] = ("feather",)
    label: str = "branch"

    def methods(self) -> list[Branch]:
        """The branches, labelled by what varies between them."""
        axes = (
            named_paths(self.checkpoints),
            named_paths(self.bases),
            {name: name for name in self.schedulers},
            {f"steps {number}": number for number in self.steps},
            {f"g {number}": number for number in self.guidance},
            {f"w {number}": number for number in self.scales},
            {name: name for name in self.blends},
        )
        methods = []
        for names in itertools.product(*axes):
            varied = [name for axis, name in zip(axes, names) if len(axis) > 1]
            chosen: list[Any] = [axis[name] for axis, name in zip(axes, names)]
            checkpoint, base, scheduler, steps, guidance, scale, blend = chosen
            sampling = Sampling(steps, guidance, scheduler, scale)
            label = " ".join([self.label, *varied])
            methods.append(Branch(label, checkpoint, base, sampling, blend))
        return methods


@dataclasses.dataclass(frozen=True)
class Blended(Recipe):
    """Blended latents: the base model alone, its estimate pasted into the source at every step.

    Attributes:
        label: its name in the report.
        base: pipeline folder; empty: the sweep's.
        sampling: how pictures are sampled; the branch's scale has no meaning here.
        blend: how the fill is put into the source.
    """

    label: str = "blended"
    base: str = ""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    blend: str = "none"
    seeded = True
    reads = ("prompt",)

    def explain(self, models: Models) -> str:
        """What it is, for the legend."""
        del models
        what = "blended latents: the base model alone, pasted into the source at every step"
        return f"{what} ({self.sampling}, {blending(self.blend)})"

    def method(self, resources: Resources) -> Method:
        """The base's painter."""
        models = resources.models
        how = {**dataclasses.asdict(self.sampling), "blend": self.blend}
        own = {"kind": "blended latents", **how, "base": models.base_digests(self.base)}
        settings = self.sampling.settings(self.blend, resources.together)

        @functools.cache
        def painter():
            from brushjax.inference.blended import BlendedLatents

            return BlendedLatents(models.base(self.base), resources.mesh)

        def fill(tasks: Sequence[Task]) -> Made:
            pictures = painter()(
                [task.pixels.source for task in tasks],
                [task.hole > 0 for task in tasks],
                [task.record.prompt for task in tasks],
                [task.seed for task in tasks],
                settings,
            )
            return Made(pictures)

        return Filling(own, fill)
