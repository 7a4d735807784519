"""What the sweep runs: a `Recipe` stands in a config, and gives a `Method` once networks are there.

The sweep knows these and no class of them, so that a new method is one file beside this one.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from brushjax.evaluation.models import Models
from brushjax.evaluation.records import TEXTS, BenchmarkError, Pixels, Record
from brushjax.identity import code, numerics, outside

if TYPE_CHECKING:
    from jax.sharding import Mesh

REPORTING = ("training", "app", "evaluation/report")  # code without a part in pictures and scores


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


@dataclasses.dataclass(frozen=True, eq=False)
class Made:
    """What a method made of tasks with sources of one size.

    Attributes:
        pictures: as large as the sources.
        regions: True where the method decided to edit; None where it finds no region itself.
        plans: what it took each instruction for, a category of `brushjax.agents.CATEGORIES` and the
            object, ("", "") where it understood nothing; None where it makes no plans.
    """

    pictures: UInt8[np.ndarray, "B H W 3"]
    regions: Bool[np.ndarray, "B H W"] | None = None
    plans: Sequence[tuple[str, str]] | None = None


Fill = Callable[[Sequence[Task]], Made]
"""Turns tasks with sources of one size into results, each depending on its own task alone."""


@runtime_checkable
class Method(Protocol):
    """What makes pictures, once everything is loaded."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Everything its pictures depend on besides record and seed, the code included; JSON."""
        ...

    def fill(self, tasks: Sequence[Task], /) -> Made:
        """Makes the pictures of tasks whose sources are of one size.

        Raises:
            FloatingPointError: the networks gave NaN or infinity for one of them.
        """
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Filling:
    """A method: what it was set to, and the function that makes its pictures."""

    own: Mapping[str, Any]
    fill: Fill

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its own settings, the code, and how JAX computes."""
        foreign = outside(self.fill)
        own = {**self.own, "own code": foreign} if foreign else self.own
        return {**own, "code": code(REPORTING), "jax": dict(numerics())}


class Resources:
    """What methods are made with: networks, devices, and how many pictures a device makes at once.

    Args:
        devices: of this process; by default all of them, looked for when they are needed.
    """

    def __init__(self, models: Models, devices: Sequence[Any] | None = None, together: int = 1):
        self.models, self.together, self._devices = models, together, devices

    @functools.cached_property
    def devices(self) -> Sequence[Any]:
        """That make pictures."""
        if self._devices:
            return self._devices
        import jax  # here: scoring pictures of others needs no accelerator

        return jax.local_devices()

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """Over the devices; None for a single one."""
        if len(self.devices) < 2:
            return None
        from brushjax.sharding import make_mesh

        return make_mesh(devices=self.devices)


class Recipe:
    """What a config says about a method; frozen dataclasses with a `label` fill this in.

    Attributes:
        label: its name in the report.
        seeded: it draws noise, and is run with every seed.
        sees_truth: it is shown the right answer, and no rival of the others.
        reads: fields of a record, besides its pictures, that its pictures depend on.
        makes: it makes pictures; False: they lie in files already, which `find` gives.
    """

    label: str
    seeded = False
    sees_truth = False
    reads: tuple[str, ...] = TEXTS
    makes = True

    def method(self, resources: Resources) -> Method:
        """What makes the pictures; what only `fill` needs is loaded at its first call."""
        raise NotImplementedError(f"{type(self).__name__} makes no pictures")

    def methods(self) -> Sequence[Recipe]:
        """What it stands for: itself, or several."""
        return [self]

    def explain(self, models: Models) -> str:
        """What it is, for the legend: the first lines of what its class says."""
        del models
        words = (inspect.getdoc(type(self)) or "").partition("\n\n")[0]
        return " ".join(words.split()).removesuffix(".")

    @property
    def takes_weights(self) -> bool:
        """Whether it runs the weights that the command names."""
        return False

    def with_weights(self, label: str, path: str) -> Recipe:
        """The same, called `label`, with the weights at a path."""
        raise NotImplementedError(f"{type(self).__name__} ({label}) takes no weights, got {path}")

    def check(self, records: Sequence[Record]) -> None:
        """Raises BenchmarkError where it can't be run on some of these scored records."""

    def find(self, record: Record) -> Path | None:
        """The file of a record's picture, where it does not make them."""
        del record
        return None


def unfolded(recipes: Sequence[Recipe]) -> list[Recipe]:
    """Recipes, with what some stand for in their place."""
    return [one for recipe in recipes for one in recipe.methods()]
