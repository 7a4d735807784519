"""What a traced program computes: its convolutions and matrix products, with their FLOPs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxprs_in_params


@dataclasses.dataclass(frozen=True)
class Operation:
    """One convolution or matrix product of a program."""

    kind: str
    """"conv" or "dot"."""
    dtypes: tuple[str, ...]
    """Of the two operands."""
    shape: tuple[int, ...]
    """Of the result."""
    times: int
    """How often it runs: loops around it, multiplied."""
    flops: float
    """Of all its runs; a multiply-add counts as two."""
    in_kernel: bool
    """It is part of a hand-written kernel, which decides its own precision."""


def trace(function: Callable[..., Any], *shapes: Any) -> ClosedJaxpr:
    """Returns the program of a function (jitted or not) of jax.ShapeDtypeStruct trees."""
    if hasattr(function, "trace"):
        return function.trace(*shapes).jaxpr  # type: ignore[attr-defined]
    return jax.make_jaxpr(function)(*shapes)


def operations(program: ClosedJaxpr | Jaxpr) -> Iterator[Operation]:
    """Yields every convolution and matrix product of a program, those of inner programs included.

    Norms, activations and softmax are left out, as published operation counts do. The zeros that a
    strided convolution's gradient puts between its inputs count as no work; padding does count.

    Raises:
      ValueError: at a matrix product inside a loop whose number of turns isn't known.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    yield from _walk(jaxpr, 1, False)


def flops(program: ClosedJaxpr | Jaxpr) -> float:
    """Returns the FLOPs of a program's convolutions and matrix products."""
    return float(sum(operation.flops for operation in operations(program)))


def _walk(jaxpr: Jaxpr, times: int, in_kernel: bool) -> Iterator[Operation]:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ("dot_general", "conv_general_dilated"):
            one = _dot_flops(equation) if name == "dot_general" else _conv_flops(equation)
            operands: list[Any] = [var.aval for var in equation.invars]
            result: Any = equation.outvars[0].aval
            yield Operation(
                kind=name.split("_")[0],
                dtypes=tuple(str(operand.dtype) for operand in operands),
                shape=result.shape,
                times=times,
                flops=float(one * times),
                in_kernel=in_kernel,
            )
        elif name == "cond":
            branches = [list(_walk(inner, times, in_kernel)) for inner in _inner(equation)]
            yield from max(branches, key=lambda branch: sum(one.flops for one in branch))
        else:
            turns = _turns(equation)
            for inner in _inner(equation):
                found = _walk(inner, times * (turns or 1), in_kernel or name == "pallas_call")
                yield from found if turns else _refuse(found)


def _inner(equation: Any) -> Iterable[Jaxpr]:
    return jaxprs_in_params(equation.params)


def _turns(equation: Any) -> int | None:
    """Returns how often an equation runs its inner programs; None where that is unknown."""
    name, params = equation.primitive.name, equation.params
    if name == "scan":
        return params["length"]
    if name == "while":
        return None
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    if name == "shard_map":  # its inner program is that of one device
        return math.prod(params["mesh"].shape[axis] for axis in params["newly_manual_axes"])
    return 1


def _refuse(found: Iterator[Operation]) -> Iterator[Operation]:
    for operation in found:
        raise ValueError(
            f"expected loops of a known number of turns; a {operation.kind} of shape "
            f"{operation.shape} stands in a while loop. Write it as a scan or fori_loop with "
            "constant bounds."
        )
    yield from ()


def _dot_flops(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    return 2 * math.prod(equation.outvars[0].aval.shape) * depth


def _conv_flops(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    channels_out = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    window = math.prod(kernel) // channels_out  # kernel sides times the channels of one group
    zeros = math.prod(equation.params["lhs_dilation"])
    return 2 * math.prod(equation.outvars[0].aval.shape) * window // zeros
