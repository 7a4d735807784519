"""Compiles a run's step for TPUs that are not there, and says what it would need and do."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import NamedSharding

from brushjax import sharding
from brushjax.config import ConfigError
from brushjax.training.plan import Plan, make_plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.collectives import Collective, collectives
from brushjax.training.scale.flops import batch_shapes, useful_flops
from brushjax.training.scale.program import Operation, flops, operations
from brushjax.training.scale.roofline import Forecast, forecast
from brushjax.training.step import step_of

GIB = 2**30
OPTIMISATION = "O1"  # the default level takes 5 to 10 times as long, for about the same memory


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU generation.

    Attributes:
      memory: GiB that a program may use.
      peak: TFLOP/s in bfloat16, as published.
      bandwidth: GB/s of its main memory, as published.
      links: GB/s that it sends to its neighbours over all links, as published.
      unit: side of a matrix unit.
      cores: that a slice's name counts for each chip.
      shapes: chips along the sides of the slices that are rented out, by their number.
    """

    memory: int | float
    peak: int | float
    bandwidth: int | float
    links: int | float
    unit: int
    cores: int
    shapes: dict[int, str]


FLAT = {
    1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"
}  # fmt: skip
CUBES = {
    4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8",
    512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16",
}  # fmt: skip
CHIPS = {
    "v4": Chip(30.75, 275, 1228, 300, unit=128, cores=2, shapes=CUBES),
    "v5e": Chip(15.75, 197, 819, 200, unit=128, cores=1, shapes=FLAT),
    "v5p": Chip(95.74, 459, 2765, 600, unit=128, cores=2, shapes=CUBES),
    "v6e": Chip(31.25, 918, 1640, 448, unit=256, cores=1, shapes=FLAT),
}


@dataclasses.dataclass(frozen=True)
class Program:
    """What is known of a step that was compiled for a slice.

    Attributes:
      name: of the slice, as it is rented.
      held: bytes on each device of what stays from step to step, by kind.
      temporary: bytes of what lives within a step; None if it did not fit.
      total: bytes at the fullest moment, which the compiler found.
      flops: of the traced step over all devices, matrix products and convolutions.
      useful: of `useful_flops`.
      exchanges: between the devices, within one step.
      branch: bytes of the working copy of what is trained.
      whole: name, shape and bytes of arrays that each device holds whole, largest first.
      seconds: of tracing and of compiling.
      compiled: FLOPs of a chip after optimisation, without kernels; what the compiler says.
      text: of the compiled program.
      kernels: FLOPs of a chip in kernels written by hand.
      sums: bytes that a device must send beside `ideal`, see `sums_over_tensor`.
    """

    name: str
    plan: Plan
    config: TrainConfig
    held: dict[str, int]
    temporary: int | None
    total: int | float
    flops: int | float
    useful: int | float
    exchanges: list[Collective]
    branch: int
    whole: list[tuple[str, tuple[int, ...], int]]
    seconds: tuple[float, float]
    compiled: int | float = 0
    text: str = dataclasses.field(default="", repr=False)
    kernels: int | float = 0
    sums: int | float = 0

    def forecast(self) -> Forecast:
        """How long the step takes, about."""
        return forecast(self.text, self.chip, self.plan.mesh.size, self.kernels)

    @property
    def chip(self) -> Chip:
        return CHIPS[self.name.split("-")[0]]

    @property
    def fits(self) -> bool:
        return self.temporary is not None

    @property
    def ideal(self) -> float:
        """Bytes that a device must send at least, where every sample's gradient changes every
        trained parameter: the gradients to where they are added up, the new parameters back."""
        devices = self.plan.mesh.size
        return 2 * self.branch * (devices - 1) / devices

    @property
    def least(self) -> float:
        """Bytes that a device must send at least on this mesh."""
        return self.ideal + self.sums

    @property
    def sent(self) -> float:
        """Bytes that a device sends."""
        return float(sum(one.bytes for one in self.exchanges))


def slice_devices(name: str) -> list[Any]:
    """Returns stand-ins for the chips of a TPU slice.

    Args:
      name: as it is rented, such as "v5e-256"; v4 and v5p count two cores for each chip.
    Raises:
      ConfigError: for a slice that is not offered, or without libtpu.
    """
    kind, _, size = name.partition("-")
    chip = CHIPS.get(kind)
    chips = int(size) / chip.cores if chip and size.isdigit() else 0
    if chip is None or chips not in chip.shapes:
        known = ", ".join(
            f"{kind}-{count * chip.cores}" for kind, chip in CHIPS.items() for count in chip.shapes
        )
        raise ConfigError(f"expected a TPU slice of {known}; got {name!r}")
    from jax.experimental import topologies

    # libtpu looks for chips and for other users of them; a stand-in needs neither.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    try:
        topology = topologies.get_topology_desc(
            platform="tpu", topology_name=f"{kind}:{chip.shapes[int(chips)]}"
        )
    except Exception as error:
        raise ConfigError(
            f"expected libtpu to describe {name}; it failed with {error}. "
            "Install it with: pip install -e '.[tpu]'"
        ) from error
    return list(topology.devices)


def compile_for(config: TrainConfig, name: str) -> Program:
    """Compiles the step of a run for a TPU slice that is not there.

    Raises:
      ConfigError: for an unknown slice, or a batch or layout that does not fit its mesh.
    """
    plan = make_plan(config, slice_devices(name))
    state, frozen, batch = step_shapes(config, plan)
    useful = useful_flops(config)
    start = time.perf_counter()
    traced = step_of(config, plan).trace(state, frozen, batch)
    done = flops(traced.jaxpr)
    lowered = traced.lower()
    traced_at = time.perf_counter()
    temporary, total, after, text = None, 0.0, 0.0, ""
    try:
        with quick():
            compiled = lowered.compile()
        memory = compiled.memory_analysis()
        temporary, total = memory.temp_size_in_bytes, float(memory.peak_memory_in_bytes)
        after, text = (compiled.cost_analysis() or {}).get("flops", 0), compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        total = _asked_for(str(error), sum(_held(plan, batch).values()))
    seconds = (traced_at - start, time.perf_counter() - traced_at)
    products = list(operations(traced.jaxpr))
    working = jax.tree.leaves(plan.state["params"])
    width = jax.numpy.dtype(config.compute_dtype).itemsize
    return Program(
        name=name,
        plan=plan,
        config=config,
        held=_held(plan, batch),
        temporary=temporary,
        total=total,
        flops=done,
        useful=useful,
        exchanges=collectives(text, plan.mesh.size),
        branch=sum(leaf.size * width for leaf in working),
        whole=_whole(state, frozen),
        seconds=seconds,
        compiled=after,
        text=text,
        kernels=sum(one.flops for one in products if one.in_kernel) / plan.mesh.size,
        sums=sums_over_tensor(plan, products, width),
    )


def sums_over_tensor(plan: Plan, products: list[Operation], width: int) -> float:
    """Returns the bytes that a device must send to add up activations, in a step.

    A matrix whose input side is cut over the tensor axis gives parts of a sum; on the way back the
    gradient of what went into the matrices before it is such a sum too.

    Args:
      products: of the traced step; they tell how many tokens go through a matrix.
      width: bytes of a value.
    """
    devices = plan.mesh.shape["tensor"]
    held = (plan.frozen, plan.frozen_layout), (plan.state["params"], plan.places.params)
    total = 0.0
    for tree, layout in held:
        for leaf, place in zip(jax.tree.leaves(tree), jax.tree.leaves(layout), strict=True):
            cuts = [*place.spec, *[None] * leaf.ndim]
            if devices == 1 or leaf.ndim < 2 or cuts[leaf.ndim - 2] != "tensor":
                continue
            *stack, depth, features = leaf.shape
            ahead = _rows(products, depth, features)
            passes = 1 + bool(_rows(products, features, depth))
            total += math.prod(stack) * passes * ahead * features * width
    parts = plan.mesh.shape["data"] * plan.mesh.shape["fsdp"]
    return total / parts * 2 * (devices - 1) / devices


def _rows(products: list[Operation], depth: int, features: int) -> int:
    """Rows that go through a matrix at a time; 0 where it is not used so."""
    found = (
        math.prod(one.shape[:-1])
        for one in products
        if one.kind == "dot" and one.shape[-1:] == (features,)
        if one.flops == 2 * math.prod(one.shape) * depth * one.times
    )
    return max(found, default=0)


def step_shapes(config: TrainConfig, plan: Plan) -> tuple[Any, Any, Any]:
    """Returns the arguments of a run's step as shapes that know where they lie."""
    batch = batch_shapes(config)
    if config.encode_once:
        prepared = jax.eval_shape(config.objective.prepare, plan.frozen, batch)
        batch = {**prepared, "id": batch["id"]}
    rows = NamedSharding(plan.mesh, sharding.BATCH)
    layout = jax.tree.map(lambda _: rows, batch)
    return tuple(
        jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, places)
        for tree, places in (
            (plan.state, plan.places.state),
            (plan.frozen, plan.frozen_layout),
            (batch, layout),
        )
    )


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Compiles at a lower level of optimisation, and past JAX's cache of compiled programs, which
    can't read what was compiled without the chips."""
    settings = {"jax_optimization_level": OPTIMISATION, "jax_enable_compilation_cache": False}
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _asked_for(message: str, held: int) -> float:
    """Returns the bytes that a program which does not fit asked for.

    Args:
      message: of the compiler; when what lives within a step is more than a chip has, it names
        that alone.
      held: bytes of what stays from step to step.
    Raises:
      RuntimeError: if that isn't what the compiler complains of.
    """
    for pattern, besides in (
        (r"Used ([\d.]+)([KMG]) of", 0),
        (r"HLO temporaries \(([\d.]+)([KMG])\) exceeds", held),
    ):
        if found := re.search(pattern, message):
            asked = float(found.group(1)) * {"K": 2**10, "M": 2**20, "G": 2**30}[found.group(2)]
            return asked + besides
    raise RuntimeError(f"expected the compiler to say what does not fit; it said {message}")


def _held(plan: Plan, batch: Any) -> dict[str, int]:
    trees = {
        "trained parameters": (plan.state["params"], plan.places.state["params"]),
        "optimizer": (plan.state["optimizer"], plan.places.state["optimizer"]),
        "moving average": (plan.state.get("ema", {}), plan.places.state.get("ema", {})),
        "frozen parameters": (plan.frozen, plan.frozen_layout),
        "batch": (batch, jax.tree.map(lambda leaf: leaf.sharding, batch)),
    }
    return {name: sharding.bytes_per_device(*pair) for name, pair in trees.items()}


def _whole(*trees: Any) -> list[tuple[str, tuple[int, ...], int]]:
    found = [
        (sharding.path_name(path), leaf.shape, leaf.size * leaf.dtype.itemsize)
        for tree in trees
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if leaf.sharding.is_fully_replicated
    ]
    return sorted(found, key=lambda row: -row[2])
