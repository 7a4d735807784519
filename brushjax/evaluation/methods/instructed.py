"""Edits by instruction: an agent plans, BrushNet's inpainting paints."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from brushjax.evaluation.methods.contract import Filling, Made, Method, Resources, Task
from brushjax.evaluation.methods.inpainting import Painting, Sampling


@dataclasses.dataclass(frozen=True)
class Agent(Painting):
    """An agent's plan of the instruction, painted by a BrushNet branch.

    An instruction that is not understood, or whose thing is not found, leaves the picture as it is.

    Attributes:
        label: its name in the report.
        instructor: a name in `brushjax.agents.instructors.INSTRUCTORS`.
        instructor_settings: of it, such as model and url of an endpoint.
        masks: "given" takes the benchmark's mask, "found" a segmenter's.
        segmenter: a name in `brushjax.agents.segmenters.SEGMENTERS`.
        checkpoint, base, sampling: as for `brushjax.evaluation.methods.inpainting.Branch`.
        blend: "paste" leaves what is outside the mask as it was.
    """

    label: str = "agent"
    instructor: str = "patterns"
    instructor_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    masks: Literal["given", "found"] = "given"
    segmenter: str = "grounded-sam"
    checkpoint: str = ""
    base: str = ""
    sampling: Sampling = dataclasses.field(default_factory=Sampling)
    blend: str = "paste"
    seeded = True
    reads = ("instruction", "source_caption")

    def method(self, resources: Resources) -> Method:
        """Plans task by task, and paints what has a mask at once."""
        digests, paint = self.painter(resources)
        own = {**dataclasses.asdict(self), "kind": "agent", **digests}

        @functools.cache
        def planner() -> Planner:
            return Planner(self)

        def fill(tasks: Sequence[Task]) -> Made:
            from brushjax.agents.masks import prompts

            pictures = np.stack([task.pixels.source for task in tasks])
            regions = np.zeros(pictures.shape[:3], bool)
            made = [planner()(task) for task in tasks]
            plans = {i: plan for i, plan in enumerate(made) if plan is not None and _edits(plan)}
            if plans:
                told = [prompts(plan) for plan in plans.values()]
                pictures[list(plans)] = paint(
                    [plan.image for plan in plans.values()],
                    [plan.mask for plan in plans.values()],
                    [prompt for prompt, _ in told],
                    [negative for _, negative in told],
                    seed=[tasks[i].seed for i in plans],
                )
                regions[list(plans)] = [plan.mask >= 128 for plan in plans.values()]
            taken = [("", "") if plan is None else (plan.category, plan.object) for plan in made]
            return Made(pictures, regions if self.masks == "found" else None, taken)

        return Filling(own, fill)


class Planner:
    """Makes the plan of a task, as an `Agent` says."""

    def __init__(self, agent: Agent):
        from brushjax.agents import instructor
        from brushjax.agents.segmenters import segmenter

        self._agent = agent
        self._instructor = instructor(agent.instructor, **agent.instructor_settings)
        self._segmenter = segmenter(agent.segmenter) if agent.masks == "found" else None

    def __call__(self, task: Task) -> Any:
        """Returns the plan, with its mask where that was found; None where it understands none."""
        from brushjax.agents.masks import MaskRules, NothingFound
        from brushjax.agents.plan import NotUnderstood

        record = task.record
        try:
            plan = self._instructor(record.instruction, task.pixels.source, record.source_caption)
        except NotUnderstood:
            return None
        if self._segmenter is None:
            return dataclasses.replace(plan, mask=task.hole * np.uint8(255))
        try:
            return MaskRules()(plan, self._segmenter)
        except NothingFound:
            return plan


def _edits(plan: Any) -> bool:
    """Whether there is anything to paint."""
    return plan.mask is not None and bool((plan.mask >= 128).any())
