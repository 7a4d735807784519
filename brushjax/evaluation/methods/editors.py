"""Editors that are given picture and instruction alone, and make the whole picture anew."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.evaluation.methods.contract import Filling, Made, Method, Recipe, Resources, Task
from brushjax.evaluation.records import Record, check_instructions


@dataclasses.dataclass(frozen=True)
class _Editor(Recipe):
    """What they have in common.

    Attributes:
        label: its name in the report.
        steps, scheduler: of the sampling.
        text_guidance, image_guidance: s_T and s_I of instruct-pix2pix's equation 3.
        side: pixels of the longer side that is worked on; 0 is what the UNet was trained at.
    """

    label: str = "editor"
    steps: int = 100
    scheduler: str = "euler-a"
    text_guidance: float = 7.5
    image_guidance: float = 1.5
    side: int = 0
    seeded = True
    reads = ("instruction",)

    def check(self, records: Sequence[Record]) -> None:
        """Instructions are read."""
        check_instructions(self.label, records)


@dataclasses.dataclass(frozen=True)
class Pix2Pix(_Editor):
    """An 8-channel UNet alone, as instruct-pix2pix: no mask, no language model.

    Attributes:
        base: published pipeline folder, such as timbrooks/instruct-pix2pix.
    """

    label: str = "instruct-pix2pix"
    base: str = ""

    def method(self, resources: Resources) -> Method:
        """The editor of its folder."""
        from brushjax.inference.engine.pix2pix import EditSettings, InstructPix2Pix
        from brushjax.inference.fireedit import SIDE, worked_at
        from brushjax.inference.images import resize

        models = resources.models
        own = {**dataclasses.asdict(self), "kind": "instruct-pix2pix", "base": ""}
        own |= {"networks": models.base_digests(self.base)}
        guidance = (self.text_guidance, self.image_guidance)
        how = EditSettings(self.steps, *guidance, self.scheduler, resources.together)

        @functools.cache
        def editor() -> Any:
            return InstructPix2Pix(models.base(self.base), resources.mesh)

        def fill(tasks: Sequence[Task]) -> Made:
            height, width = tasks[0].pixels.source.shape[:2]
            side = self.side or models.base(self.base).get("side") or SIDE
            size = worked_at(height, width, side)
            sources = np.stack([resize(task.pixels.source, size) for task in tasks])
            words = [task.record.instruction for task in tasks]
            made = editor()(sources, words, [task.seed for task in tasks], how)
            return Made(np.stack([resize(one, (height, width)) for one in made]))

        return Filling(own, fill)


@dataclasses.dataclass(frozen=True)
class FireEdit(_Editor):
    """FireEdit: region tokens, a language model and hybrid attention drive an 8-channel UNet.

    Attributes:
        folder: as `python train.py configs/fireedit/...` exports it; empty is the small one that
            ships.
    """

    label: str = "FireEdit"
    folder: str = ""

    def method(self, resources: Resources) -> Method:
        """The editor of its folder."""
        from brushjax.evaluation.models import network_digest
        from brushjax.identity import arrays, digest
        from brushjax.pipelines.fireedit import SHIPPED_FIREEDIT
        from brushjax.weights.fireedit import load_fireedit

        folder = Path(self.folder or SHIPPED_FIREEDIT).expanduser()
        parts = load_fireedit(folder)
        own = {**dataclasses.asdict(self), "kind": "fireedit", "folder": ""}
        own |= {"parts": {kind: network_digest(model) for kind, model in parts.models.items()}}
        own |= {"null": arrays(parts.null_context)}
        # How the parts are joined, the words around an instruction, tokenizer and noise.
        files = [
            file
            for place in ("*.json", "scheduler/*", "tokenizer/*")
            for file in sorted(folder.glob(place))
        ]
        own |= {
            "files": digest(
                *(x for file in files for x in (str(file.relative_to(folder)), file.read_bytes()))
            )
        }
        names = ("steps", "scheduler", "text_guidance", "image_guidance")
        how = {name: getattr(self, name) for name in names}

        @functools.cache
        def editor() -> Any:
            from brushjax.inference.fireedit import FireEditor

            return FireEditor.load(folder, mesh=resources.mesh)

        def fill(tasks: Sequence[Task]) -> Made:
            result = editor()(
                [task.pixels.source for task in tasks],
                [task.record.instruction for task in tasks],
                seed=[task.seed for task in tasks],
                together=resources.together,
                side=self.side or None,
                **how,
            )
            return Made(result.images)

        return Filling(own, fill)
