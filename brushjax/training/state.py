"""What a training run carries from step to step, as one pure dict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brushjax import sharding
from brushjax.typing import Params

State = dict[str, Any]
"""{"params", "optimizer", "step"} and, where a run averages its parameters, "ema"."""


def make_state(params: Params, optimizer: optax.GradientTransformation, ema: bool = False) -> State:
    """Returns the state of step 0; works on arrays and, under jax.eval_shape, on shapes."""
    state = {
        "params": params,
        "optimizer": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
    }
    if ema:
        state["ema"] = jax.tree.map(jnp.copy, params)  # a copy: the step donates both
    return state


def state_shardings(
    state: State,
    mesh: Mesh,
    parameter_rules: Sequence[sharding.Rule],
    optimizer_rules: Sequence[sharding.Rule],
) -> State:
    """Returns the sharding of each array of a state; the moving average lies as the parameters
    do."""
    whole = NamedSharding(mesh, PartitionSpec())
    layout = {
        "params": sharding.shardings(state["params"], mesh, parameter_rules),
        "optimizer": sharding.shardings(state["optimizer"], mesh, optimizer_rules),
        "step": whole,
    }
    if "ema" in state:
        layout["ema"] = sharding.shardings(state["ema"], mesh, parameter_rules)
    return layout


def export_parameters(state: State) -> Params:
    """Returns the parameters that users get: the moving average where there is one."""
    return state.get("ema", state["params"])


def cast(tree: Any, dtype: Any) -> Any:
    """Returns the tree with its floating-point arrays in `dtype`."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def count(tree: Any) -> int:
    """Returns the number of parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def named_keys(key: jax.Array, *names: str) -> Mapping[str, jax.Array]:
    """Splits a key once, by name, so that none is used twice."""
    return dict(zip(names, jax.random.split(key, len(names)), strict=True))
