"""Opt-in approximations: less work for a slightly different picture. None is on by default."""

from __future__ import annotations

import dataclasses

import numpy as np

from brushjax.inference.engine.options import EditInputs, EditOptions


@dataclasses.dataclass(frozen=True)
class Approximations:
    """What may be left out of an edit; the defaults leave out nothing.

    Shares are of the steps, from 0 to 1. `benchmarks/approximations.py` measures what each saves
    and how far its result is from the exact one. Few steps with a consistency model are no setting
    here but `scheduler="lcm"`, `steps=4..8`, `guidance=1` and a model (or LoRA) made for it.

    Attributes:
        guidance_start, guidance_end: guidance acts between these shares; outside, only the prompt's
            prediction runs. Source: Kynkäänniemi et al. 2024 (arXiv 2404.07724).
        branch_end: the branch stops at this share.
        reuse_every: all layers run at every n-th step; between them, the deep features and the
            branch's maps of the last full step serve again. Source: DeepCache (arXiv 2312.00858).
        fresh_layers: how many of the UNet's last layers run in those steps.
    """

    guidance_start: float | int = 0.0
    guidance_end: float | int = 1.0
    branch_end: float | int = 1.0
    reuse_every: int = 1
    fresh_layers: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_start < self.guidance_end <= 1:
            raise ValueError(
                "expected 0 <= guidance_start < guidance_end <= 1, got "
                f"{self.guidance_start} and {self.guidance_end}"
            )
        if not 0 <= self.branch_end <= 1:
            raise ValueError(f"expected branch_end in 0..1, got {self.branch_end}")
        if self.reuse_every < 1 or self.fresh_layers < 1:
            raise ValueError(
                "expected reuse_every and fresh_layers of at least 1, got "
                f"{self.reuse_every} and {self.fresh_layers}"
            )
        if self.reuse_every > 1 and self._limits_guidance:
            raise ValueError(
                "expected a guidance interval or reuse_every, got both: features of an unguided "
                "step can't serve a guided one"
            )

    @property
    def _limits_guidance(self) -> bool:
        return (self.guidance_start, self.guidance_end) != (0, 1)

    def apply(
        self, steps: int, inputs: EditInputs, options: EditOptions
    ) -> tuple[EditInputs, EditOptions]:
        """Returns what an edit of so many network calls then takes."""
        first, last = np.arange(steps) / steps, (np.arange(steps) + 1) / steps
        if self._limits_guidance:
            inside = (first >= self.guidance_start) & (last <= self.guidance_end)
            guidance = np.asarray(inputs.guidance)
            inside = inside[:, None] if guidance.ndim == 2 else inside
            guidance = np.where(inside, guidance, 1.0).astype(np.float32)
            inputs = dataclasses.replace(inputs, guidance=guidance)
            options = dataclasses.replace(options, guidance_switches=True)
        if self.branch_end < 1:
            scales = np.where(last <= self.branch_end, inputs.scales, 0.0).astype(np.float32)
            inputs = dataclasses.replace(inputs, scales=scales)
        if self.reuse_every > 1:
            full = np.arange(steps) % self.reuse_every == 0
            inputs = dataclasses.replace(inputs, full=full)
            options = dataclasses.replace(options, fresh_layers=self.fresh_layers)
        return inputs, options
