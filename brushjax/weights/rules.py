"""The rules that join parameter paths, checkpoint names and older checkpoint names.

Everything meets at the *checkpoint name*: the name a tensor has in a published diffusers or
transformers checkpoint, for instance ``down_blocks.0.resnets.1.conv1.weight``. Two rules lead to
it:

* **Leaf rule** (our side). Modules carry the published attribute names, so a parameter path joined
with dots
  is the checkpoint name up to its leaf; the leaf and the axes follow from the kind of layer.
* **Dialects** (their side). Other programs name and shape the same tensors differently. A dialect
is a table of
  prefix pairs, made from the model's config and read in both directions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

Shapes = Mapping[str, tuple[int, ...]]
Path = tuple[str | int, ...]


class WeightsError(ValueError):
    """Weights could not be read, did not fit the model, or could not be written as asked."""


# --- leaf rule
# -----------------------------------------------------------------------------------------

LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
STACK = "stack"  # the module of equal layers whose arrays have a leading axis, one entry a layer
EACH = "*"  # what stands for the layers' numbers in the name of such an array


def checkpoint_name(path: Path) -> str:
    """Returns a parameter path's checkpoint name: ("conv_in", "kernel") -> "conv_in.weight".

    Of stacked layers, ("layers", "stack", "norm", "scale") -> "layers.*.norm.weight", whose tensor
    has the layers' tensors along its first axis.
    """
    *modules, leaf = (EACH if part == STACK else str(part) for part in path)
    return ".".join([*modules, LEAVES.get(leaf, leaf)])


def checkpoint_axes(path: Path, ndim: int) -> tuple[int, ...]:
    """Returns the axes that bring a parameter of ours into checkpoint order, as
    ``array.transpose(axes)`` takes them.

    Kernels are kept as (*spatial, in, out) here and as (out, in, *spatial) in checkpoints, for
    linear layers (no spatial axis) as for convolutions. Every other leaf has the same axes on both
    sides. The axis of stacked layers stays in front.
    """
    if path[-1] != "kernel":
        return tuple(range(ndim))
    if STACK in path:
        return (0, *(axis + 1 for axis in checkpoint_axes(path[-1:], ndim - 1)))
    return (ndim - 1, ndim - 2, *range(ndim - 2))


# --- dialects
# ------------------------------------------------------------------------------------------

Form = Literal["same", "conv1x1", "transposed", "lead1", "lead2"]
LEADING = {"lead1": 1, "lead2": 2}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A pair of name prefixes below a module, and how their tensors differ.

    Attributes:
        ours: prefix in the checkpoint name, such as ``"norm1."``.
        theirs: prefix in the dialect, such as ``"in_layers.0."``.
        form: "conv1x1": matrices are stored there as 1x1 convolutions, (out, in, 1, 1);
            "transposed": matrices are stored there as (in, out); "lead1", "lead2": tensors are
            stored there with one or two leading axes of length 1.
        part: (index, count) when the dialect stores `count` of our tensors stacked along the first
            axis.
    """

    ours: str
    theirs: str
    form: Form = "same"
    part: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Module:
    """A pair of module prefixes, and the leaf pairs below; by default names go on the same."""

    ours: str
    theirs: str
    leaves: tuple[Leaf, ...] = (Leaf("", ""),)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One tensor of ours and where the dialect keeps it."""

    name: str
    other: str
    form: Form = "same"
    part: tuple[int, int] | None = None


IDENTITY = (Module("", ""),)


def pairs_of(
    names: Iterable[str], modules: tuple[Module, ...], root: str, theirs: bool
) -> dict[str, list[Pair]]:
    """Looks names up in a table, in either direction.

    Args:
        names: checkpoint names, or names of the dialect when `theirs` is true.
        modules: the dialect's table.
        root: what every name of the dialect starts with.
        theirs: which side `names` is on.

    Returns:
        {name: pairs}; a name the table does not know has no pairs, one that stacks three tensors
        has three.
    """
    found: dict[str, list[Pair]] = {}
    for name in names:
        found[name] = []
        for module in modules:
            prefix = root + module.theirs if theirs else module.ours
            if name.startswith(prefix):
                found[name] += _leaf_pairs(name[len(prefix) :], module, root, theirs)
    return found


def _leaf_pairs(rest: str, module: Module, root: str, theirs: bool) -> list[Pair]:
    pairs = []
    for leaf in module.leaves:
        mine = leaf.theirs if theirs else leaf.ours
        if rest.startswith(mine):
            end = rest[len(mine) :]
            ours, other = module.ours + leaf.ours + end, root + module.theirs + leaf.theirs + end
            pairs.append(Pair(ours, other, leaf.form, leaf.part))
    return pairs


# --- a model's table
# -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Names that are left out on purpose, and why."""

    pattern: str
    reason: str

    def matches(self, name: str) -> bool:
        return re.search(self.pattern, name) is not None


@dataclasses.dataclass(frozen=True)
class Alias:
    """Another spelling: `pattern` in a name becomes `replacement` (re.sub)."""

    pattern: str
    replacement: str


@dataclasses.dataclass(frozen=True)
class Dialect:
    """One way in which a file may hold a model.

    Attributes:
        layout: "diffusers" (published names) or "ldm" (the original Stable Diffusion code's names).
        root: what the model's names start with in the file.
        sign: a name below the root that is there if, and only if, the file holds this model in this
            dialect.
        infer: shapes by name below the root -> config dict, as far as shapes tell it.
        modules: config dict -> table.
    """

    layout: Literal["diffusers", "ldm"]
    root: str
    sign: str
    infer: Callable[[Shapes], dict[str, Any]]
    modules: Callable[[dict[str, Any]], tuple[Module, ...]] = lambda config: IDENTITY


@dataclasses.dataclass(frozen=True)
class WeightMap:
    """All that the loader has to know about one kind of model.

    Attributes:
        kind: the name used on the command line, such as "unet".
        folder: the component's folder in a pipeline.
        stem: file name of the weights without its ending, as the PyTorch library writes it.
        classes: class names that its config.json may carry; None: it may carry none.
        model: (module, model class, config class), imported only when needed.
        dialects: the ways to find it in a file, the first that fits is taken.
        ldm_dialect: config dict, all kinds in the file -> the "ldm" dialect to write, or None when
            there is none.
        aliases: older spellings, which are read and never written.
        ignored: names that are left out.
        copies: a tensor whose name matches is written a second time, under the replacement.
        flat: pattern of the checkpoint names that may also be stored as 1x1 convolutions.
        stacks: prefixes of numbered layers that are one stack in our model.
        settings: a published config -> that of the part which is read.
        ignored_for: config -> more names that are left out.
    """

    kind: str
    folder: str
    stem: str
    classes: tuple[str | None, ...]
    model: tuple[str, str, str]
    dialects: tuple[Dialect, ...]
    ldm_dialect: Callable[[dict[str, Any], frozenset[str]], Dialect | None]
    aliases: tuple[Alias, ...] = ()
    ignored: tuple[Ignored, ...] = ()
    copies: tuple[Alias, ...] = ()
    flat: str | None = None
    stacks: tuple[str, ...] = ()
    settings: Callable[[dict[str, Any]], dict[str, Any]] = lambda config: config
    ignored_for: Callable[[dict[str, Any]], tuple[Ignored, ...]] = lambda config: ()

    def spelled_today(self, name: str) -> str:
        """Returns a name with older spellings brought up to date."""
        for alias in self.aliases:
            name = re.sub(alias.pattern, alias.replacement, name)
        return name

    def names_of(self, name: str) -> tuple[str, ...]:
        """Returns all names under which a file holds a tensor, its checkpoint name first."""
        copies = (re.sub(copy.pattern, copy.replacement, name) for copy in self.copies)
        return tuple(dict.fromkeys((name, *copies)))

    def reason_to_ignore(self, name: str) -> str | None:
        """Returns why a name is left out, or None when it is not."""
        return next((rule.reason for rule in self.ignored if rule.matches(name)), None)
