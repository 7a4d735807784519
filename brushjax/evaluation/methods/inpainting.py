"""What makes the pictures: branches on bases, and the baselines they have to beat."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from brushjax.evaluation.models import ZERO, Models, named_paths
from brushjax.evaluation.records import BenchmarkError, Pixels, Record

if TYPE_CHECKING:
    from jax.sharding import Mesh


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """A record to edit, with its pictures and the seed of its noise."""

    record: Record
    pixels: Pixels
    seed: int

    @property
    def hole(self) -> UInt8[np.ndarray, "H W"]:
        """The mask.

        Raises:
            BenchmarkError: the benchmark has none.
        """
        if self.pixels.hole is None:
            raise BenchmarkError(
                f"{self.record.benchmark} has no masks, so that only methods that find the region"
                " themselves can be run on it: score their pictures with --score-only"
            )
        return self.pixels.hole


Fill = Callable[[Sequence[Task]], UInt8[np.ndarray, "B H W 3"]]
"""Turns tasks with sources of one size into results, each depending on its own task alone."""


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

    @property
    def arguments(self) -> dict[str, Any]:
        """What `brushjax.Inpainter` takes."""
        from brushjax.inference.engine.approximations import Approximations

        named = dataclasses.asdict(self)
        end = named.pop("guidance_end")
        return {**named, "approximations": Approximations(guidance_end=end)}


@dataclasses.dataclass(frozen=True)
class Branch:
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
    sees_truth = False

    def explain(self, models: Models) -> str:
        """What it is, for the legend."""
        if self.checkpoint == ZERO:
            what = "the branch that training starts from; it adds nothing: the base model alone"
        else:
            what = f"the branch {models.source(self.checkpoint, self.base)}"
        scale = "" if self.sampling.scale == 1 else f", scale {self.sampling.scale:g}"
        return f"{what} ({self.sampling}{scale}, blend {self.blend})"

    def settings(self, models: Models) -> dict[str, Any]:
        """What the pictures depend on besides the record and the seed."""
        branch = models.digest(models.branch(self.checkpoint, self.base))
        how = {**dataclasses.asdict(self.sampling), "blend": self.blend}
        return {"kind": "branch", **how, "base": models.base_digests(self.base), "branch": branch}

    def fill(self, models: Models, mesh: Mesh | None, together: int = 1) -> Fill:
        """What makes the pictures, `together` at once on each device."""
        from brushjax.inference import Inpainter

        branch = models.branch(self.checkpoint, self.base)
        painter = Inpainter.from_parts(brushnet=branch, mesh=mesh, **models.base(self.base))

        def fill(tasks: Sequence[Task]) -> UInt8[np.ndarray, "B H W 3"]:
            return painter(
                [task.pixels.source for task in tasks],
                [task.hole > 0 for task in tasks],
                [task.record.prompt for task in tasks],
                seed=[task.seed for task in tasks],
                blend=self.blend,
                together=together,
                **self.sampling.arguments,
            ).images

        return fill


@dataclasses.dataclass(frozen=True)
class Grid:
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
class Blended:
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
    sees_truth = False

    def explain(self, models: Models) -> str:
        """What it is, for the legend."""
        del models
        what = "blended latents: the base model alone, pasted into the source at every step"
        return f"{what} ({self.sampling}, blend {self.blend})"

    def settings(self, models: Models) -> dict[str, Any]:
        """What the pictures depend on besides the record and the seed."""
        how = {**dataclasses.asdict(self.sampling), "blend": self.blend}
        return {"kind": "blended latents", **how, "base": models.base_digests(self.base)}

    def fill(self, models: Models, mesh: Mesh | None, together: int = 1) -> Fill:
        """What makes the pictures, `together` at once on each device."""
        from brushjax.inference.blended import BlendedLatents

        painter = BlendedLatents(models.base(self.base), mesh, together)
        how = self.sampling

        def fill(tasks: Sequence[Task]) -> UInt8[np.ndarray, "B H W 3"]:
            return painter(
                [task.pixels.source for task in tasks],
                [task.hole > 0 for task in tasks],
                [task.record.prompt for task in tasks],
                [task.seed for task in tasks],
                steps=how.steps,
                guidance=how.guidance,
                guidance_end=how.guidance_end,
                scheduler=how.scheduler,
                blend=self.blend,
            )

        return fill


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """The true picture through the base's autoencoder and back: what a perfect branch could reach.

    Attributes:
        label: its name in the report.
        base: pipeline folder; empty: the sweep's.
    """

    label: str = "autoencoder"
    base: str = ""
    seeded = False
    reads = ()
    sees_truth = True

    def settings(self, models: Models) -> dict[str, Any]:
        """What the pictures depend on besides the record."""
        return {"kind": "autoencoder", "vae": models.base_digests(self.base)["vae"]}

    def fill(self, models: Models, mesh: Mesh | None, together: int = 1) -> Fill:
        """What makes the pictures, `together` at once on each device."""
        import jax
        from flax import nnx

        from brushjax.inference.engine.batch import by_groups

        del mesh, together  # a small share of any sweep
        graph, state = nnx.split(models.base(self.base)["vae"])

        @jax.jit
        def there_and_back(params: Any, pixels: jax.Array) -> jax.Array:
            model = nnx.merge(graph, params)
            return by_groups(lambda x: model.to_images(model.to_latents(x)), pixels, 1)

        def fill(tasks: Sequence[Task]) -> UInt8[np.ndarray, "B H W 3"]:
            pictures = np.stack([_truth(task.pixels) for task in tasks])
            pixels = pictures.astype(np.float32) / 127.5 - 1
            decoded = np.asarray(there_and_back(nnx.to_pure_dict(state), pixels))
            if not np.isfinite(decoded).all():
                raise FloatingPointError("the autoencoder produced NaN or infinity")
            return np.round(np.clip(decoded / 2 + 0.5, 0, 1) * 255).astype(np.uint8)

        return fill


@dataclasses.dataclass(frozen=True)
class Telea:
    """OpenCV's fill without a network: Telea's fast marching (2004).

    Attributes:
        label: its name in the report.
        radius: of the neighbourhood that a pixel is made from, in pixels.
    """

    label: str = "telea"
    radius: float = 3.0
    seeded = False
    reads = ()
    sees_truth = False

    def settings(self, models: Models) -> dict[str, Any]:
        """What the pictures depend on besides the record."""
        import cv2

        del models
        return {"kind": "telea", "radius": self.radius, "opencv": cv2.__version__}

    def fill(self, models: Models, mesh: Mesh | None, together: int = 1) -> Fill:
        """What makes the pictures, `together` at once on each device."""
        import cv2

        del models, mesh, together

        def fill(tasks: Sequence[Task]) -> UInt8[np.ndarray, "B H W 3"]:
            return np.stack(
                [
                    cv2.inpaint(task.pixels.source, task.hole, self.radius, cv2.INPAINT_TELEA)
                    for task in tasks
                ]
            ).astype(np.uint8)

        return fill


@dataclasses.dataclass(frozen=True)
class Copy:
    """The input as it is, which is the truth itself where the source is to be restored.

    Attributes:
        label: its name in the report.
    """

    label: str = "copy"
    seeded = False
    reads = ()
    sees_truth = True

    def settings(self, models: Models) -> dict[str, Any]:
        """What the pictures depend on besides the record."""
        del models
        return {"kind": "copy"}

    def fill(self, models: Models, mesh: Mesh | None, together: int = 1) -> Fill:
        """What makes the pictures, `together` at once on each device."""
        del models, mesh, together
        return lambda tasks: np.stack([task.pixels.source for task in tasks])


def _truth(pixels: Pixels) -> UInt8[np.ndarray, "H W 3"]:
    same = pixels.truth is not None and pixels.truth.shape == pixels.source.shape
    return pixels.truth if same and pixels.truth is not None else pixels.source
