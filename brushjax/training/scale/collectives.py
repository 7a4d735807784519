"""What a compiled program sends between devices, read from its text."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

from brushjax.training.scale.hlo import Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16}  # others carry their width in their name: f32, s8, u32, f8e4m3fn

# What a TPU runs as one reduce-scatter: a fusion of an all-reduce and a slice, named so.
FUSED_SCATTER = "all-reduce-scatter"

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$", re.MULTILINE)
_LINE = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (.*?) ({'|'.join(KINDS)})(-start)?\(", re.MULTILINE)
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices."""

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    """Dtype and shape of each result on one device; of a fused scatter, of what is added up."""
    group: int
    """Devices that take part together."""
    times: int = 1
    """How often it is run: the turns of the loops around it."""

    @property
    def bytes(self) -> float:
        """What one device sends in all these, if the devices of a group stand in a ring."""
        size = float(sum(_bytes(dtype, shape) for dtype, shape in self.arrays))
        others = self.group - 1
        share = {
            "all-gather": others / self.group,
            "all-reduce": 2 * others / self.group,
            "reduce-scatter": others,
            FUSED_SCATTER: others / self.group,
            "all-to-all": others / self.group,
            "collective-permute": 1,
        }
        return self.times * size * share[self.kind]


def collectives(text: str, devices: int) -> list[Collective]:
    """Returns the exchanges of a compiled program, each once.

    Args:
      text: `compiled.as_text()`.
      devices: that the program runs on.
    """
    found: dict[tuple, list[Collective]] = {}
    times = Module(text).times()
    heads = list(_COMPUTATION.finditer(text))
    starts = [0, *(head.start() for head in heads), len(text)]
    names = ["", *(head.group(1) for head in heads)]
    for name, start, end in zip(names, starts, starts[1:]):
        here: dict[tuple, list[Collective]] = {}
        for channel, one in in_computation(text[start:end], devices):
            one = dataclasses.replace(one, times=times.get(name, 1))
            if one.kind == "all-reduce" and name.startswith(FUSED_SCATTER):
                one, channel = dataclasses.replace(one, kind=FUSED_SCATTER), name
            here.setdefault((channel, one.kind, one.arrays), []).append(one)
        for key, ones in here.items():
            # One that overlaps with work stands in several computations under one channel.
            found[key] = max(found.get(key, []), ones, key=lambda ones: sum(x.times for x in ones))
    return [one for ones in found.values() for one in ones]


def in_computation(text: str, devices: int) -> Iterator[tuple[str, Collective]]:
    """Yields the exchanges of one computation with their channels."""
    for match in _LINE.finditer(text):
        result, kind, start = match.groups()
        line = text[match.start() : text.index("\n", match.end())]
        arrays = [
            (dtype, tuple(int(side) for side in sides.split(",") if side))
            for dtype, sides in _ARRAY.findall(re.sub(r"/\*.*?\*/|\{[^}]*\}", "", result))
        ]
        if start and kind in ("all-gather", "collective-permute"):
            arrays = _results(kind, arrays)
        channel = re.search(r"channel_id=(\d+)", line)
        number = channel.group(1) if channel else ""
        yield number, Collective(kind, tuple(arrays), _group(line, devices))


def _results(kind: str, arrays: list) -> list:
    """Leaves the operands out of what a started exchange returns: (operands, results, ...)."""
    if kind == "collective-permute":
        return arrays[1:2]
    return arrays[len(arrays) // 2 :]


def _group(line: str, devices: int) -> int:
    """Returns the size of the groups, in any of the three ways in which a program writes them."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return listed.group(1).count(",") + 1
    if counted := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(counted.group(1))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named.group(2)))
    return devices


def _bytes(dtype: str, shape: tuple[int, ...]) -> float:
    bits = BITS.get(dtype) or int(re.sub(r"^[a-z]+(\d+).*", r"\1", dtype))
    return math.prod(shape) * bits / 8
