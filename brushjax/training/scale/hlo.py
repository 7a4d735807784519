"""A compiled program's text as instructions, with the operations each does and the bytes it moves.

Counts as XLA's own HloCostAnalysis does, but for two things that a time needs: loops run as often
as the program says, and what stays in a TPU's on-chip memory costs no traffic.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}  # others carry their width in their name
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("partition-id", "replica-id", "opt-barrier", "async-update"),
}
"""Instructions that compute and move nothing of their own."""
TRANSCENDENTAL = {
    *("exponential", "exponential-minus-one", "log", "log-plus-one", "logistic", "power", "sqrt"),
    *("rsqrt", "cbrt", "tanh", "sine", "cosine", "tan", "erf", "atan2"),
}
ELEMENTWISE = {
    *("add", "subtract", "multiply", "divide", "remainder", "maximum", "minimum", "negate", "abs"),
    *("sign", "floor", "ceil", "round-nearest-afz", "round-nearest-even", "convert", "compare"),
    *("select", "clamp", "and", "or", "xor", "not", "is-finite", "shift-left", "map"),
    *("shift-right-logical", "shift-right-arithmetic", "popcnt", "count-leading-zeros"),
}

_HEAD = re.compile(r"^(ENTRY )?%?([A-Za-z_][\w.-]*) (?:\(.*\) -> .*)?\{", re.MULTILINE)
_ARRAY = re.compile(r"\b(pred|token|opaque|bf16|[a-z]\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([\w.-]+)")
_METADATA = re.compile(r"kernel_metadata=\{\n.*\n\}")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.-]+) = ")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array of a program: its width in bits, its sides, and how it lies in memory."""

    bits: int
    sides: tuple[int, ...]
    layout: str = ""

    @property
    def bytes(self) -> float:
        """Without padding."""
        return math.prod(self.sides) * self.bits / 8

    @property
    def traffic(self) -> float:
        """Bytes that reading it once from a chip's main memory moves: with the padding of its
        tiles, and none where it lies in on-chip memory (space 1)."""
        if "S(1)" in self.layout:
            return 0.0
        order = re.match(r"\{([\d,]+)", self.layout)
        tile = re.search(r"T\((\d+),(\d+)\)", self.layout)
        if not order or not tile or len(self.sides) < 2:
            return self.bytes
        minor = [int(axis) for axis in order.group(1).split(",")]
        sides = list(self.sides)
        for axis, step in zip(minor, (int(tile.group(2)), int(tile.group(1)))):
            sides[axis] = math.ceil(sides[axis] / step) * step
        return math.prod(sides) * self.bits / 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]
    """Of its results."""
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool
    line: str = dataclasses.field(repr=False)

    def called(self, attribute: str) -> str:
        """Name of the computation behind an attribute such as calls, body or to_apply."""
        found = re.search(rf"\b{attribute}=%?([\w.-]+)", self.attributes)
        return found.group(1) if found else ""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What an instruction needs.

    Attributes:
      flops: all of them; transcendental functions aside, as in XLA's own count.
      products: FLOPs of its convolutions and matrix products.
      padded: the same, with channels filled up to the sides of a matrix unit.
      bytes: read and written, without padding.
      traffic: read from and written to main memory, with padding.
    """

    flops: float = 0.0
    products: float = 0.0
    padded: float = 0.0
    bytes: float = 0.0
    traffic: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other))
        return Cost(*(a + b for a, b in pairs))

    def times(self, turns: float) -> Cost:
        """As often."""
        return Cost(*(turns * part for part in dataclasses.astuple(self)))


class Module:
    """A compiled program.

    Args:
      text: `compiled.as_text()`.
      unit: side of the chip's matrix unit, to which channels are filled up.
    """

    def __init__(self, text: str, unit: int = 1):
        self._unit = unit
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        text = _METADATA.sub("", text)  # of kernels; it goes over several lines
        for head in _HEAD.finditer(text):
            end = text.find("\n}", head.end())
            lines = text[head.end() : end].splitlines()
            self.computations[head.group(2)] = [i for line in lines if (i := _parsed(line))]
            if head.group(1):
                self.entry = head.group(2)
        self._shapes = {
            name: {one.name: one.shapes for one in body} for name, body in self.computations.items()
        }

    def costs(self) -> Iterator[tuple[Instruction, Cost]]:
        """Yields the entry's instructions with what each needs, once."""
        for one in self.computations[self.entry]:
            yield one, self.cost(one, self.entry)

    def turns(self, loop: Instruction) -> int:
        """How often a loop runs: as the program says, or (on TPUs) up to the constant that its
        condition compares with; 1 where neither is known."""
        if said := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(said.group(1))
        body = self.computations.get(loop.called("condition"), ())
        constants = {one.name: one.operands[0] for one in body if one.opcode == "constant"}
        for one in body:
            bound = (
                constants.get(one.operands[-1]) if one.root and one.opcode == "compare" else None
            )
            if bound is not None and "direction=LT" in one.attributes:
                return int(bound)
        return 1

    def times(self) -> dict[str, int]:
        """How often each computation runs: the turns of the loops around it, multiplied."""
        found: dict[str, int] = {}

        def walk(computation: str, times: int) -> None:
            if found.get(computation, 0) >= times:
                return
            found[computation] = times
            for one in self.computations[computation]:
                inside = times * (self.turns(one) if one.opcode == "while" else 1)
                for name in _NAME.findall(one.attributes):
                    if name in self.computations:
                        walk(name, inside)

        if self.entry:
            walk(self.entry, 1)
        return found

    def cost(self, one: Instruction, computation: str) -> Cost:
        """What an instruction of a computation needs: a loop one turn of its body, a fusion what
        goes in and comes out."""
        if one.opcode == "while":
            return self.total(one.called("body")) + self.total(one.called("condition"))
        if one.opcode in ("call", "async-start"):
            return self.total(one.called("to_apply") or one.called("calls"))
        if one.opcode == "conditional":
            branches = re.findall(r"%([\w.-]+)", one.attributes.split("branch_computations=")[-1])
            totals = [self.total(name) for name in branches if name in self.computations]
            return max(totals, key=lambda cost: cost.flops, default=Cost())
        if one.opcode in FREE or one.opcode.endswith("-done"):
            return Cost()
        work = self._work(one, computation)
        moved = self._moved(one, computation)
        return dataclasses.replace(work, bytes=moved[0], traffic=moved[1])

    @functools.cache  # noqa: B019 - a module lives as long as its counting
    def total(self, computation: str) -> Cost:
        """The sum over a computation's instructions."""
        parts = (self.cost(one, computation) for one in self.computations.get(computation, ()))
        return sum(parts, Cost())

    def inputs(self, one: Instruction, computation: str) -> list[Shape]:
        """Shapes of an instruction's operands."""
        known = self._shapes[computation]
        return [shape for name in one.operands for shape in known.get(name, ())]

    def _work(self, one: Instruction, computation: str) -> Cost:
        size = sum(math.prod(shape.sides) for shape in one.shapes[:1])
        if one.opcode == "fusion":
            name = one.called("calls")
            return sum((self._work(i, name) for i in self.computations[name]), Cost())
        if one.opcode in ("convolution", "dot"):
            shapes = self.inputs(one, computation)
            count = _convolution if one.opcode == "convolution" else _dot
            flops, fill = count(one, shapes, self._unit)
            return Cost(flops=flops, products=flops, padded=flops * fill)
        if one.opcode in ELEMENTWISE:
            return Cost(flops=float(size))
        if one.opcode == "reduce":
            given = math.prod(self.inputs(one, computation)[0].sides)
            each = self.total(one.called("to_apply")).flops
            return Cost(flops=(given - size) * each)
        return Cost()

    def _moved(self, one: Instruction, computation: str) -> tuple[float, float]:
        """Bytes and traffic of an instruction."""
        shapes, known = list(one.shapes), self._shapes[computation]
        if one.opcode == "fusion":
            parts = [self._fusion_reads(one, computation), self._fusion_writes(one)]
        elif one.opcode in ("dynamic-slice", "slice", "gather"):
            parts = [shapes, shapes]
        elif one.opcode == "dynamic-update-slice":
            update = list(known.get(one.operands[1], ()))
            parts = [update, update]
        elif one.opcode == "copy-start":
            parts = [self.inputs(one, computation), shapes[:1]]
        elif one.opcode == "slice-start":  # a slice goes from main memory to the chip's own
            parts = [[dataclasses.replace(shapes[1], layout="")], shapes[1:2]]
        else:
            parts = [self.inputs(one, computation), shapes]
        every = [shape for part in parts for shape in part]
        return sum(s.bytes for s in every), sum(s.traffic for s in every)

    def _fusion_reads(self, one: Instruction, computation: str) -> list[Shape]:
        inner = one.called("calls")
        outer = [self._shapes[computation].get(name, ()) for name in one.operands]
        return [
            read
            for parameter in self.computations[inner]
            if parameter.opcode == "parameter"
            for shape in outer[_number(parameter)]
            for read in self._reads(parameter, inner, shape)
        ]

    def _reads(self, value: Instruction, computation: str, shape: Shape) -> list[Shape]:
        """What a fusion reads of an operand: slices, or all of it, once."""
        found, whole = [], False
        for user in self.computations[computation]:
            if value.name not in user.operands:
                continue
            if user.opcode == "fusion":
                inner, at = user.called("calls"), user.operands.index(value.name)
                same = (i for i in self.computations[inner] if i.opcode == "parameter")
                parameter = next(i for i in same if _number(i) == at)
                found += self._reads(parameter, inner, shape)
            elif user.opcode in ("slice", "dynamic-slice") and user.operands[0] == value.name:
                found += [dataclasses.replace(s, layout=shape.layout) for s in user.shapes]
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
                update = self._shapes[computation].get(user.operands[1], ())
                found += [dataclasses.replace(s, layout=shape.layout) for s in update]
            elif not whole:
                whole = True
                found.append(shape)
        return found

    def _fusion_writes(self, one: Instruction) -> list[Shape]:
        body = self.computations[one.called("calls")]
        root = next(i for i in body if i.root)
        if root.opcode == "dynamic-update-slice":
            update = self._shapes[one.called("calls")].get(root.operands[1], ())
            return [dataclasses.replace(s, layout=one.shapes[0].layout) for s in update]
        return list(one.shapes)


def shapes_of(text: str) -> tuple[Shape, ...]:
    """Returns the arrays of a type as a program writes it."""
    plain = re.sub(r"/\*.*?\*/", "", text)
    return tuple(
        Shape(_bits(dtype), tuple(int(s) for s in sides.split(",") if s), layout)
        for dtype, sides, layout in _ARRAY.findall(plain)
    )


def _bits(dtype: str) -> int:
    return BITS[dtype] if dtype in BITS else int(re.sub(r"^[a-z]+(\d+).*", r"\1", dtype))


def _parsed(line: str) -> Instruction | None:
    head = _LINE.match(line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    kind, call = rest[:end], rest[end:].lstrip()
    opening = call.find("(")
    closing = _closing(call, opening)
    opcode, inside = call[:opening], call[opening + 1 : closing]
    names = tuple(_NAME.findall(inside)) if opcode not in ("parameter", "constant") else (inside,)
    return Instruction(
        name=head.group(2),
        shapes=shapes_of(kind),
        opcode=opcode,
        operands=names,
        attributes=call[closing + 1 :],
        root=bool(head.group(1)),
        line=line,
    )


def _closing(text: str, start: int) -> int:
    """Returns where the bracket that opens at `start` is closed."""
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] == "(") - (text[place] == ")")
        if not depth:
            return place
    raise ValueError(f"expected a closed bracket in {text[:80]!r}")


def _number(parameter: Instruction) -> int:
    return int(parameter.operands[0])


def _dot(one: Instruction, shapes: Sequence[Shape], unit: int) -> tuple[float, float]:
    """Returns a matrix product's FLOPs, and by how much filling up makes them more."""
    left, right = shapes[:2]
    depth = math.prod(left.sides[axis] for axis in _axes(one, "lhs_contracting_dims"))
    apart = {*_axes(one, "rhs_contracting_dims"), *_axes(one, "rhs_batch_dims")}
    width = math.prod(side for axis, side in enumerate(right.sides) if axis not in apart)
    flops = 2.0 * math.prod(one.shapes[0].sides) * depth
    return flops, _fill(depth, unit) * _fill(width, unit)


def _axes(one: Instruction, attribute: str) -> list[int]:
    found = re.search(rf"{attribute}=\{{([\d,]*)\}}", one.attributes)
    return [int(axis) for axis in found.group(1).split(",") if axis] if found else []


def _fill(side: int, unit: int) -> float:
    return math.ceil(side / unit) * unit / max(side, 1)


def _convolution(one: Instruction, shapes: Sequence[Shape], unit: int) -> tuple[float, float]:
    """As `_dot`; places of a window that lie on padding or between dilated inputs don't count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.attributes)
    if labels is None:
        raise ValueError(f"expected dim_labels of the convolution {one.name}")
    left, kernel, out = labels.groups()
    lhs, rhs, result = shapes[0].sides, shapes[1].sides, one.shapes[0].sides
    window = _window(one)
    depth, width = rhs[kernel.index("i")], rhs[kernel.index("o")]
    places = 1
    for n, axis in enumerate(sorted(c for c in kernel if c.isdigit())):
        setting = {key: values[n] for key, values in window.items() if len(values) > n}
        places *= _places(
            lhs[left.index(axis)],
            rhs[kernel.index(axis)],
            result[out.index(axis)],
            int(setting.get("stride", "1")),
            int(setting.get("pad", "0_0").split("_")[0]),
            int(setting.get("lhs_dilate", "1")),
            int(setting.get("rhs_dilate", "1")),
        )
    groups = re.search(r"batch_group_count=(\d+)", one.attributes)
    batch = lhs[left.index("b")] / (int(groups.group(1)) if groups else 1)
    flops = 2.0 * depth * width * batch * places
    return flops, _fill(depth, unit) * _fill(width, unit)


def _window(one: Instruction) -> Mapping[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", one.attributes)
    parts = [part.split("=") for part in found.group(1).split()] if found else []
    return {key: value.split("x") for key, value in parts}


@functools.cache
def _places(given: int, window: int, out: int, stride: int, low: int, gaps: int, step: int) -> int:
    """How many pairs of an output and a window's place meet a true input, along one axis."""
    at = np.arange(out)[:, None] * stride + np.arange(window) * step - low
    inside = (at >= 0) & (at % gaps == 0) & (at // gaps < given)
    return int(inside.sum())
