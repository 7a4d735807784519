"""Does training the branch pay? A sweep of the trained branch, what it started from, and baselines.

The zero-initialised branch adds nothing, so it is the base model alone: what is won over it is what
the training taught. All methods get the same noise for the same sample, so differences are paired.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brushjax.evaluation.benchmarks.held_out import HeldOut, Steered, Steering
from brushjax.evaluation.benchmarks.own import OwnHeldOut
from brushjax.evaluation.methods.baselines import Autoencoder, Copy, Telea
from brushjax.evaluation.methods.inpainting import Blended, Branch, Sampling
from brushjax.evaluation.models import ZERO
from brushjax.evaluation.results import Shown
from brushjax.evaluation.sweep import Sweep
from brushjax.metrics.bootstrap import Bootstrap

METRICS = (
    "ring_error",
    "edge_discontinuity",
    "edge_step",
    "psnr_hole",
    "mse_hole",
    "psnr_keep",
    "mse_keep",
)
STEERING = ("nearest_named", "nearest_true")
HEADLINE = ("ring_error", "edge_discontinuity")  # what a branch is there to lower


@dataclasses.dataclass(frozen=True)
class BranchEvaluation:
    """Inpaints held-out samples with a trained and with a zero-initialised branch, and compares.

    Run it as a sweep, or hand it to a training run as an evaluator. Results are the raw, unblended
    pictures: blending would hide the seam that is measured.

    Attributes:
        base: pipeline folder of the base model; empty takes the training run's, or the one in the
            package.
        weights: the trained branch, where the command is given none; empty: the base's own.
        held_out: the samples on which the branches are compared: shipped photographs, or, as
            OwnHeldOut, the pictures that a training run's own data hold out.
        steering: the samples whose prompt is swapped; None leaves that part out.
        sampling: how pictures are sampled.
        seeds: of the noise.
        baselines: also blended latents, OpenCV's fill and the copy of the input.
        batch_size: pictures per call.
        strips: how many samples of each part are shown in the picture strips.
        bootstrap: how the intervals are resampled.
    """

    base: str = ""
    weights: str = ""
    held_out: HeldOut | OwnHeldOut = dataclasses.field(default_factory=HeldOut)
    steering: Steering | None = dataclasses.field(default_factory=Steering)
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    seeds: tuple[int, ...] = (0,)
    baselines: bool = False
    batch_size: int = 16
    strips: int = 12
    bootstrap: Bootstrap = dataclasses.field(default_factory=Bootstrap)

    def sweep(self) -> Sweep:
        """The sweep that this stands for."""
        steered = ()
        if self.steering:
            swapped = Steered(self.steering, "swapped")
            steered = (swapped, Steered(self.steering, "own", ("trained", "autoencoder")))
        methods = (
            Branch("trained", sampling=self.sampling),
            Branch("zero", ZERO, sampling=self.sampling),
            *((Blended(sampling=self.sampling), Telea()) if self.baselines else ()),
            Autoencoder(),
            Copy(),
        )
        return Sweep(
            benchmarks=(self.held_out, *steered),
            methods=methods,
            seeds=self.seeds,
            profiles=("clean",),
            metrics=(*METRICS, *(STEERING if self.steering else ())),
            baseline="zero",
            headline=HEADLINE,
            base=self.base,
            weights=self.weights,
            batch_size=self.batch_size,
            shown=Shown(self.strips),
            bootstrap=self.bootstrap,
        )

    def describe(self) -> str:
        """What a run would make."""
        return self.sweep().describe()

    def for_run(self, config: Any) -> Sweep:
        """As an evaluator of a training run: on the run's base where it names none, checked."""
        return self.sweep().for_run(config)

    def __call__(self, step: int, export: Path, workdir: Path) -> Mapping[str, float]:
        """As an evaluator of a training run: writes to workdir/samples, returns the means."""
        return self.sweep()(step, export, workdir)
