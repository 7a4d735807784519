"""What a run will hold and where, worked out from shapes alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from brushjax import config as configs
from brushjax import sharding
from brushjax.config import ConfigError
from brushjax.training.objectives.contract import join, split
from brushjax.training.optimizers import make_optimizer
from brushjax.training.recipe import TrainConfig
from brushjax.training.state import Places, State, cast, count, make_state, state_shardings
from brushjax.typing import Params

MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Plan:
    """Shapes and shardings of everything that lives on the devices from step to step."""

    mesh: Mesh
    optimizer: optax.GradientTransformation
    state: State
    """jax.ShapeDtypeStruct tree."""
    frozen: Params
    """jax.ShapeDtypeStruct tree."""
    places: Places
    """Shardings of the state and of the parameters that a step computes with."""
    frozen_layout: Params

    def wanted(self, trained: bool) -> Params:
        """Returns what has to be loaded: dtype and sharding of every frozen parameter and, for a
        run that starts, of those that are trained."""
        frozen = jax.tree.map(_in_place, self.frozen, self.frozen_layout)
        if not trained:
            return frozen
        own = jax.tree.map(_in_place, self.state["params"], self.places.state["params"])
        return join(own, frozen)


def make_plan(config: TrainConfig, devices: Sequence[Any] | None = None) -> Plan:
    """Works out the shapes and shardings of a run; allocates nothing.

    Args:
      devices: that the run would have; None for those of this machine.
    Raises: ConfigError if the batch can't be divided over the mesh, or a sharding rule does not
      fit.
    """
    mesh = sharding.make_mesh(config.mesh, devices)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.batch_size % (parts * config.accumulation):
        raise ConfigError(
            f"expected a batch_size that {parts} devices (data x fsdp) times accumulation "
            f"{config.accumulation} divide; got {config.batch_size}"
        )
    optimizer = make_optimizer(config.optimizer, config.steps)
    trainable, frozen = split(config.objective.shapes(), config.objective.trains)
    frozen = config.objective.working(frozen, jnp.dtype(config.compute_dtype))
    state = jax.eval_shape(
        lambda params: make_state(params, optimizer, config.ema_decay > 0), trainable
    )
    return Plan(
        mesh=mesh,
        optimizer=optimizer,
        state=state,
        frozen=frozen,
        places=Places(
            mesh,
            state=state_shardings(state, mesh, config.optimizer_rules),
            params=sharding.shardings(trainable, mesh, config.parameter_rules),
        ),
        frozen_layout=sharding.shardings(frozen, mesh, config.frozen_rules),
    )


def _in_place(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def cast_shapes(tree: Any, dtype: str) -> Any:
    """Returns the shapes with their floating-point ones in `dtype`."""
    return jax.eval_shape(lambda tree: cast(tree, jnp.dtype(dtype)), tree)


def describe(config: TrainConfig, plan: Plan) -> str:
    """Returns the text of a dry run: config, shardings, parameter counts, bytes per device."""
    working, copied = cast_shapes(plan.state["params"], config.compute_dtype), plan.places.params
    if config.compute_dtype == "float32" and copied == plan.places.state["params"]:
        working = copied = {}  # they are the trained parameters themselves
    trees = {
        "trained parameters": (plan.state["params"], plan.places.state["params"]),
        "their working copy": (working, copied),
        "optimizer": (plan.state["optimizer"], plan.places.state["optimizer"]),
        "moving average": (plan.state.get("ema", {}), plan.places.state.get("ema", {})),
        "frozen parameters": (plan.frozen, plan.frozen_layout),
    }
    lines = [configs.dump(config).rstrip(), "", "Sharding (arrays by layout):"]
    for name, (tree, layout) in trees.items():
        lines += [f"  {name:<20} {row}" for row in _layouts(tree, layout)]
    devices = plan.mesh.devices.flat
    lines += ["", f"Mesh: {dict(plan.mesh.shape)} of {devices[0].platform} devices", ""]
    lines += [f"{'':22}{'count':>14} {'MiB/device':>12}"]
    total = 0
    for name, (tree, layout) in trees.items():
        size = sharding.bytes_per_device(tree, layout)
        total += size
        lines += [f"  {name:<20}{count(tree):>14,} {size / MIB:>12.1f}"]
    lines += [
        f"  {'together':<20}{'':>14} {total / MIB:>12.1f}   (activations and gradients come on top)"
    ]
    return "\n".join(lines)


def _layouts(tree: Any, layout: Any) -> list[str]:
    """Counts the arrays of each layout."""
    counts: dict[str, list[int]] = {}
    for leaf, place in zip(jax.tree.leaves(tree), jax.tree.leaves(layout), strict=True):
        row = counts.setdefault(str(tuple(place.spec)) if place.spec else "whole", [0, 0])
        row[0] += 1
        row[1] += leaf.size
    return [f"{spec:<36} {n:>5} arrays {size:>14,} values" for spec, (n, size) in counts.items()]
