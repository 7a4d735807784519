"""The text of a compilation ahead of time: memory, work, communication, and what to change."""

from __future__ import annotations

import itertools

from brushjax.training.scale.ahead import GIB, OPTIMISATION, Program
from brushjax.training.scale.roofline import ASSUMED

SHOWN = 6  # of the largest arrays that lie whole on every chip
UNKNOWN = """\
Not known without the chips: how far a real step is from the estimate above, and what the run's
other programs need: preparing samples, validation, exports.
Memory is that of optimisation level {level}; a real run compiles at the default one."""


def describe(program: Program, price: float = 0.0) -> str:
    """Returns what is known of a compiled step, for a person who is about to rent the slice.

    Args:
      price: of a chip for an hour, in any currency; 0 says nothing of cost.
    """
    plan, config = program.plan, program.config
    chips = plan.mesh.size
    samples = config.batch_size / (plan.mesh.shape["data"] * plan.mesh.shape["fsdp"])
    head = [
        f"{program.name}: {chips} chips, mesh {dict(plan.mesh.shape)}, batch {config.batch_size} "
        f"({samples:g} a chip, in {config.accumulation} part"
        f"{'s' if config.accumulation > 1 else ''}), {config.compute_dtype}, "
        f"rematerialise {config.rematerialise!r}",
    ]
    parts = [head, _memory(program), _work(program)]
    if program.fits:
        parts += [_communication(program), _time(program, price)]
    parts += [_whole(program)]
    if not program.fits:
        parts += [advice(program)]
    trace, compile = program.seconds
    parts += [
        [f"Traced in {trace:.0f} s, compiled in {compile:.0f} s (level {OPTIMISATION})."],
        [UNKNOWN.format(level=OPTIMISATION)],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def advice(program: Program) -> list[str]:
    """Lists what could be changed so that a step fits, what costs nothing first."""
    plan, config, held = program.plan, program.config, program.held
    parallel = plan.mesh.shape["data"]
    state = sum(held[name] for name in ("trained parameters", "optimizer", "moving average"))
    lines = []
    if not config.optimizer_rules and parallel > 1:
        saved = state * (1 - 1 / parallel) / GIB
        lines += [
            "drop optimizer_rules = (), so that each chip keeps a part of parameters and moments "
            f"(ZeRO-1): about {saved:.1f} GiB less, for no more communication"
        ]
    if config.rematerialise == "nothing":
        lines += [
            "--rematerialise elementwise: norms and activations are computed twice, no product is"
        ]
    if config.rematerialise != "layers":
        lines += ["--rematerialise layers: much less within a step, for about a third more work"]
    samples = config.batch_size // (parallel * plan.mesh.shape["fsdp"])
    if samples > config.accumulation:
        lines += [
            f"--accumulation {_next_divisor(samples, config.accumulation)}: the same batch in more "
            "parts",
            f"--batch_size {config.batch_size // 2}: half the samples",
        ]
    if plan.mesh.shape["fsdp"] == 1 and parallel > 1:
        saved = held["frozen parameters"] * 3 / 4 / GIB
        lines += [
            "--mesh.fsdp 4 with frozen_rules = FULLY_SHARDED: the frozen models are cut over four "
            f"chips and gathered layer by layer: {saved:.1f} GiB less, for more communication"
        ]
    lines += ["a slice of chips with more memory"]
    over = program.total / GIB - program.chip.memory
    return [f"It does not fit, by {over:.2f} GiB. What to change, cheapest first:"] + [
        f"  - {line}" for line in lines
    ]


def _next_divisor(samples: int, parts: int) -> int:
    return next(more for more in range(parts + 1, samples + 1) if samples % more == 0)


def _memory(program: Program) -> list[str]:
    rows = [(name, size) for name, size in program.held.items() if size]
    if program.temporary is not None:
        rows.append(("within a step", program.temporary))
    lines = [f"  {name:<22}{size / GIB:8.2f}" for name, size in rows]
    verdict = "fits" if program.fits else "DOES NOT FIT"
    total = f"  {'at the fullest':<22}{program.total / GIB:8.2f} of {program.chip.memory}"
    return ["Memory of a chip, GiB", *lines, f"{total}: {verdict}"]


def _work(program: Program) -> list[str]:
    chips = program.plan.mesh.size
    useful, done = program.useful / chips / 1e12, program.flops / chips / 1e12
    after, peak = program.compiled / 1e12, program.chip.peak  # as published
    least = useful / peak * 1e3
    return [
        "Work of a chip in a step, TFLOP of convolutions and matrix products",
        f"  useful                {useful:8.2f}   {least:.0f} ms or more at {peak:g} TFLOP/s",
        f"  in the program        {done:8.2f}   {done / useful:.3f} of the useful",
        f"  after optimisation    {after:8.2f}   without kernels written by hand",
    ][: None if program.fits else -1]


def _communication(program: Program) -> list[str]:
    exchanges = sorted(program.exchanges, key=lambda one: one.kind)
    rows = []
    for kind, group in itertools.groupby(exchanges, key=lambda one: one.kind):
        same = list(group)
        size = sum(one.bytes for one in same) / 2**20
        rows.append(f"  {kind:<20}{sum(one.times for one in same):5} of {size:10.1f} MiB")
    needed = [("gradients added up and parameters handed out", program.ideal)]
    if program.sums:
        needed.append(("activations added up over the tensor axis", program.sums))
    if program.least:
        times = program.sent / program.least
        rows.append(f"  together{'':25}{program.sent / 2**20:10.1f} MiB, {times:.3f} of the least:")
        rows += [f"    {size / 2**20:10.1f} MiB  {what}" for what, size in needed]
    return ["Communication of a step: what a chip sends if they stand in rings", *rows]


def _time(program: Program, price: float) -> list[str]:
    best, chips = program.forecast(), program.plan.mesh.size
    rate = program.config.batch_size / chips / best.seconds
    parts = (
        ("matrix products", best.products),
        ("memory traffic", best.memory),
        ("kernels by hand", best.kernels),
        ("exchanges in the open", best.exposed),
        ("waiting for copies", best.waiting),
    )
    lines = [
        f"Time of a step, about: {best.seconds * 1e3:.1f} ms, {rate:.1f} samples/s a chip",
        *(f"  {name:<22}{seconds * 1e3:8.1f} ms" for name, seconds in parts),
    ]
    if price:
        cost = 1e6 / rate / 3600 * price
        lines += [f"  a million samples cost about {cost:.2f} at {price:g} a chip-hour"]
    return [*lines, ASSUMED]


def _whole(program: Program) -> list[str]:
    total = sum(size for *_, size in program.whole) / GIB
    lines = [f"  {size / 2**20:8.1f} MiB  {shape}  {name}" for name, shape, size in program.whole]
    return [f"Arrays that every chip holds whole, {total:.2f} GiB; the largest:", *lines[:SHOWN]]
