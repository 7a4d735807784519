"""What an edit's program takes: its inputs, which vary freely, and its options, which don't."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

PER_STEP = ("scales", "guidance", "full")  # fields of EditInputs without a batch axis


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Condition:
    """What one prediction is conditioned on.

    Attributes:
        context: [B, L, D], a prompt's features.
        added: AddedCondition of the prompt, for SDXL.
    """

    context: Any
    added: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EditInputs:
    """All that varies between two edits run by one program.

    Attributes:
        masked: uint8 [B, H, W, 3], the hole black.
        masks: uint8 [B, H, W, 1], 1 = edit.
        noise: float32 [B, h, w, 4], standard normal.
        conditions: one Condition without guidance; with it several, each saying more than the one
            before it: (negative prompt, prompt). Where only the last has `added`, all share it, and
            then they share the branch too.
        guidance: float32 scalar, [n] or [n, conditions - 1]: see `diffusion.guidance.guided`.
        scales: float32 [n], the branch's scale at every step.
        seeds: uint32 [B], for samplers that draw noise at every step.
        full: bool [n], the steps at which all layers run, for options.fresh_layers.
    """

    masked: Any
    masks: Any
    noise: Any
    conditions: tuple[Condition, ...]
    guidance: Any
    scales: Any
    seeds: Any = None
    full: Any = None

    def samples(self) -> dict[str, Any]:
        """The fields with a batch axis, by name."""
        return {name: values for name, values in vars(self).items() if name not in PER_STEP}

    def per_step(self) -> dict[str, Any]:
        """The fields with a value for each network call, or one for all of them."""
        return {name: getattr(self, name) for name in PER_STEP}


@dataclasses.dataclass(frozen=True)
class Savings:
    """Work that is left out without changing the result; off only in tests and benchmarks.

    Attributes:
        branch_once: all conditions of guidance share one run of the branch.
        prefix_once: they share the UNet up to its first text attention.
        text_once: keys and values of the text are projected once an edit.
        time_once: what layers make of the timestep is tabulated for all steps.
        skip_idle: the branch does not run while its scale is 0.
    """

    branch_once: bool = True
    prefix_once: bool = True
    text_once: bool = True
    time_once: bool = True
    skip_idle: bool = True


NAIVE = Savings(*(False,) * len(dataclasses.fields(Savings)))


@dataclasses.dataclass(frozen=True)
class EditOptions:
    """What a program is compiled for, beside the networks and the sizes.

    Attributes:
        guess_mode: the branch's maps grow from 0.1 to 1 and, under guidance, reach only the last
            condition.
        tile: side in pixels of the tiles in which the VAE works, a multiple of 8; None takes
            pictures whole.
        together: samples that a device works on at once, one group after the other; None takes its
            whole share of the batch. See `brushjax.inference.engine.batch.by_groups`.
        guidance_switches: at steps whose guidance is 1 or less only the last condition runs.
        fresh_layers: between the full steps only this many of the UNet's last layers run, 0 has
            every step run in full.
    """

    guess_mode: bool = False
    tile: int | None = None
    together: int | None = None
    guidance_switches: bool = False
    fresh_layers: int = 0
    savings: Savings = Savings()

    def __post_init__(self) -> None:
        if self.tile is not None and (self.tile < 64 or self.tile % 8):
            raise ValueError(f"expected tile a multiple of 8 from 64, got {self.tile}")
        if self.together is not None and self.together < 1:
            raise ValueError(f"expected together of at least 1, got {self.together}")
