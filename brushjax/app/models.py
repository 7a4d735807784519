"""What a server can paint with: loaded when it is first asked for, by names that pages know."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from brushjax.agents.editors import editor
from brushjax.agents.instructors import instructor_of
from brushjax.agents.protocols import Editor, Instructor, Segmenter
from brushjax.app.arguments import AppArguments
from brushjax.app.requests import Paint
from brushjax.pipelines.bases import base_path, training_side

if TYPE_CHECKING:
    from brushjax.inference.fireedit import FireEditor
    from brushjax.inference.inpaint import Inpainter
    from brushjax.pipelines.regions import RegionFinder

TINY = "tiny"  # the base in the package
OWN = "its own"  # the branch that lies beside a base
CONTEXT = 2.0  # side of what is worked on over the mask's
SHIPPED_GUIDANCE, GUIDANCE = 3.0, 7.5
KEPT = 2  # painters in memory

Check = Callable[[Sequence[UInt8[np.ndarray, "H W 3"]]], Sequence[bool]]


class Withheld(ValueError):
    """A safety checker objects to a picture."""


class Models:
    """All models of a server."""

    def __init__(self, arguments: AppArguments):
        self._arguments = arguments
        self.bases = _named(arguments.base) or {TINY: None}
        self.branches = _named(arguments.brushnet) or {OWN: None}
        self._painters: dict[tuple[str, str], Any] = {}
        self._lock = threading.Lock()
        self._check = None if arguments.safety is None else _imported(arguments.safety)

    @property
    def methods(self) -> list[str]:
        """The methods that there are models for."""
        fireedit = self._arguments.fireedit is not None
        return ["agent", "region", *(["fireedit"] if fireedit else [])]

    @property
    def finds(self) -> list[str]:
        """The ways of finding a mask that there are models for."""
        ways = {"phrase": ["grounded-sam"], "click": ["grounded-sam", "click"]}
        found = [way for way, names in ways.items() if self._arguments.segmenter in names]
        return [*found, "region"]  # a predictor is in the package

    def describe(self) -> dict[str, Any]:
        """What a page offers."""
        given = self._arguments
        shipped = next(iter(self.bases.values())) is None
        guidance = given.guidance or (SHIPPED_GUIDANCE if shipped else GUIDANCE)
        return {
            "bases": [*self.bases],
            "branches": [*self.branches],
            "methods": self.methods,
            "finds": self.finds,
            "steps": given.steps,
            "guidance": guidance,
            "safety": self._check is not None,
        }

    @functools.cached_property
    def instructor(self) -> Instructor:
        """Makes plans."""
        return instructor_of(self._arguments)

    @functools.cached_property
    def segmenter(self) -> Segmenter | None:
        """Finds what a phrase names, if there is a model for that."""
        from brushjax.agents.segmenters import segmenter

        return segmenter("grounded-sam") if "phrase" in self.finds else None

    @functools.cached_property
    def sam(self) -> Any:
        """SAM, for clicks."""
        from brushjax.agents.segmenters import GroundedSAM, SAMMasks

        return self.segmenter.sam if isinstance(self.segmenter, GroundedSAM) else SAMMasks()

    @functools.cached_property
    def finder(self) -> RegionFinder:
        """The region predictor; without `--region` the small one in the package."""
        from brushjax.pipelines.regions import SHIPPED_REGION, RegionFinder

        return RegionFinder.load(self._arguments.region or SHIPPED_REGION)

    @functools.cached_property
    def fireedit(self) -> FireEditor:
        """What edits without a mask."""
        from brushjax.inference.fireedit import FireEditor

        assert self._arguments.fireedit is not None  # `methods` said so
        return FireEditor.load(self._arguments.fireedit)

    def check_names(self, asked: Paint) -> None:
        """Raises ValueError for a base, branch or method that is not offered."""
        offered = {"base": self.bases, "branch": self.branches, "method": self.methods}
        for name, known in offered.items():
            if getattr(asked, name) not in known:
                raise ValueError(f"expected {name} of {', '.join(known)}")

    def editor(self, asked: Paint, progress: Callable[[int, int], None]) -> Editor:
        """What carries out a request; raises what loading raises."""
        names = ("steps", "guidance", "scale", "scheduler", "blend", "negative_prompt")
        fire = asked.method == "fireedit"
        settings = {name: getattr(asked, name) for name in names}
        return editor(
            asked.method,
            lambda: self.fireedit if fire else self.painter(asked.base, asked.branch),
            **settings,
            crop=CONTEXT,
            progress=progress,
        )

    def painter(self, base: str, branch: str) -> Inpainter:
        """A base with a branch; the ones that were used last stay in memory."""
        import jax.numpy as jnp

        from brushjax.inference.inpaint import Inpainter

        with self._lock:
            key = base, branch
            made = self._painters.pop(key, None)
            if made is None:
                while len(self._painters) >= KEPT:
                    self._painters.pop(next(iter(self._painters)))
                dtype = jnp.dtype(self._arguments.dtype)
                made = Inpainter.load(self.bases[base], self.branches[branch], dtype)
            self._painters[key] = made  # the newest is the last
            return made

    def first(self) -> Paint:
        """A request of the first base and branch, as `describe` sets a page up."""
        offered = self.describe()
        first = Paint(base=offered["bases"][0], branch=offered["branches"][0])
        how = {"steps": offered["steps"], "guidance": float(offered["guidance"])}
        return dataclasses.replace(first, **how)

    def side(self, base: str) -> int:
        """Side in pixels of the pictures that a base was trained on."""
        from brushjax.inference.images import DEFAULT_SIDE

        return training_side(base_path(self.bases[base])) or DEFAULT_SIDE

    def check(self, pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> None:
        """Asks the safety checker, if there is one.

        Raises:
            Withheld: it objects.
        """
        if self._check is not None and any(self._check(pictures)):
            raise Withheld("the safety checker withholds this picture")


def _named(places: Sequence[str]) -> dict[str, Any]:
    """Places by the last part of their names; where two have the same, with a number."""
    named: dict[str, Any] = {}
    for place in places:
        name = stem = Path(place).name or place
        while name in named:
            name = f"{stem} ({len(named) + 1})"
        named[name] = place
    return named


def _imported(name: str) -> Check:
    """Imports module:function.

    Raises:
        ValueError: it is not there.
    """
    module, colon, function = name.partition(":")
    try:
        made: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected --safety module:function, got {name!r}: {error}") from error
    if not colon or not callable(made):
        raise ValueError(f"expected --safety module:function, got {name!r}")
    check: Any = made
    return check
