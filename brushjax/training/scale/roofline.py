"""How long a compiled step would take on a TPU, from its program's text.

Each instruction takes the larger of its products over the chip's peak and its traffic over the
memory's bandwidth; what runs beside others (copies, exchanges) costs what is left of it when it is
waited for.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from brushjax.training.scale.collectives import FUSED_SCATTER, in_computation
from brushjax.training.scale.hlo import Instruction, Module

CAUSES = ("products", "memory", "kernels", "exposed", "waiting")
KERNEL = "tpu_custom_call"  # target of the kernels that Pallas makes
ASSUMED = """\
An estimate: peak, bandwidth and links as published, channels filled up to the matrix unit;
elementwise work, starts of kernels and changes of layout within the chip cost nothing, and an
exchange uses all links of a chip. A run's program, optimised further than this one, moves less."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of one step on one chip, as the estimate has it.

    Attributes:
      products: where a matrix unit's peak decides.
      memory: where the bandwidth of the main memory does.
      kernels: of kernels written by hand, from what they compute.
      exposed: exchanges that nothing hides.
      waiting: copies into the chip's memory that nothing hides.
    """

    products: float
    memory: float
    kernels: float
    exposed: float
    waiting: float

    @property
    def seconds(self) -> float:
        """Of the step."""
        return self.products + self.memory + self.kernels + self.exposed + self.waiting


def forecast(text: str, chip: Any, devices: int, kernel_flops: float = 0.0) -> Forecast:
    """Returns what a compiled program takes, about.

    Args:
      text: `compiled.as_text()`.
      chip: a Chip of brushjax.training.scale.ahead.
      devices: that the program runs on.
      kernel_flops: what its hand-written kernels compute on one chip, which the text hides.
    """
    module = Module(text, chip.unit)
    clock = _Clock(module, chip, devices)
    spent = clock.run(module.entry)
    kernels = max(spent["kernels"], kernel_flops / (chip.peak * 1e12))
    return Forecast(
        products=spent["products"],
        memory=spent["memory"],
        kernels=kernels,
        exposed=spent["exposed"],
        waiting=spent["waiting"],
    )


class _Clock:
    """Walks a scheduled program."""

    def __init__(self, module: Module, chip: Any, devices: int):
        self._module, self._chip, self._devices = module, chip, devices

    def run(self, computation: str) -> dict[str, float]:
        """Seconds by cause of one pass over a computation."""
        spent: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
        under_way: dict[str, float] = {}  # seconds that each started copy or exchange still needs
        for one in self._module.computations[computation]:
            if one.opcode == "while":
                turn, turns = self.run(one.called("body")), self._module.turns(one)
                took = {cause: turns * value for cause, value in turn.items()}
            elif one.opcode.endswith("-start"):
                under_way[one.name] = max(self._exchange(one), self._copy(one, computation))
                continue
            elif one.opcode.endswith("-done"):
                cause = "waiting" if one.opcode in ("copy-done", "slice-done") else "exposed"
                took = {cause: under_way.pop(one.operands[0], 0.0)}
            else:
                took = self._alone(one, computation)
            seconds = sum(took.values())
            under_way = {name: max(0.0, left - seconds) for name, left in under_way.items()}
            spent = {cause: spent[cause] + took.get(cause, 0.0) for cause in CAUSES}
        return spent

    def _alone(self, one: Instruction, computation: str) -> dict[str, float]:
        cost, exchange = self._module.cost(one, computation), self._exchange(one)
        matrix = cost.padded / (self._chip.peak * 1e12)
        memory = cost.traffic / (self._chip.bandwidth * 1e9)
        took = max(matrix, memory)
        cause = "products" if matrix >= memory else "memory"
        if KERNEL in one.attributes:
            cause = "kernels"
        return {cause: took, "exposed": max(0.0, exchange - took)}

    def _copy(self, one: Instruction, computation: str) -> float:
        return self._module.cost(one, computation).traffic / (self._chip.bandwidth * 1e9)

    def _exchange(self, one: Instruction) -> float:
        """Seconds of the exchanges that an instruction, or what it calls, is made of."""
        called = one.called("calls") or one.called("to_apply")
        inside = self._module.computations.get(called, ()) if one.opcode != "reduce" else ()
        text = "\n".join([one.line, *(inner.line for inner in inside), ""])
        found = [exchange for _, exchange in in_computation(text, self._devices)]
        if called.startswith(FUSED_SCATTER):
            found = [dataclasses.replace(exchange, kind=FUSED_SCATTER) for exchange in found]
        sent = sum(exchange.bytes for exchange in found)
        return sent / (self._chip.links * 1e9)
