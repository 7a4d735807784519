"""What a training run carries from step to step, as one pure dict."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Places:
    """Where a step's arrays live.

    Attributes:
      state: shardings of the state: of the float32 parameters, their moments and their average.
      params: shardings of the copy that the forward and backward pass computes with. Where it is
        whole and the state is cut, the copy is gathered once a step, in the compute dtype (ZeRO-1).
    """

    mesh: Mesh
    state: State
    params: Params

    @property
    def by_hand(self) -> bool:
        """Whether every device computes the gradient of its samples with whole parameters.

        The gradients are then added up by an explicit reduce-scatter (where the state is cut) or
        all-reduce, in a dtype of our choice. Otherwise the compiler places all communication.
        """
        sizes = dict(self.mesh.shape)
        whole = all(place.is_fully_replicated for place in jax.tree.leaves(self.params))
        return sizes["data"] > 1 and sizes["data"] == self.mesh.size and whole


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


def state_shardings(state: State, mesh: Mesh, rules: Sequence[sharding.Rule]) -> State:
    """Returns the sharding of each array of a state: the float32 parameters, their moments and
    their moving average all lie where the optimizer works on them."""
    layout = {name: sharding.shardings(part, mesh, rules) for name, part in state.items()}
    return {**layout, "step": NamedSharding(mesh, PartitionSpec())}


def export_parameters(state: State) -> Params:
    """Returns the parameters that users get: the moving average where there is one."""
    return state.get("ema", state["params"])


def cast(tree: Any, dtype: Any) -> Any:
    """Returns the tree with its floating-point arrays in `dtype`."""
    return jax.tree.map(
        lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf, tree
    )


def widened(tree: Any) -> Any:
    """Returns the tree with its floating-point arrays in at least float32."""
    return jax.tree.map(
        lambda leaf: (
            leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else leaf
        ),
        tree,
    )


def count(tree: Any) -> int:
    """Returns the number of parameters in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def named_keys(keys: jax.Array, *names: str) -> Mapping[str, jax.Array]:
    """Splits a key, or each of a batch of keys, once and by name, so that none is used twice."""
    parts = jnp.vectorize(lambda key: jax.random.split(key, len(names)), signature="()->(n)")(keys)
    return {name: parts[..., index] for index, name in enumerate(names)}


def sample_keys(seed: int | jax.Array, step: jax.Array | int, ids: Any) -> jax.Array:
    """Returns a key for each sample of a step.

    It depends on the run's seed, the step, the sample's id and, where a batch has a sample several
    times, on which of these it is: where in the batch and on which device a sample lies changes
    nothing.

    Args:
      ids: integers [B], of the whole batch.
    """
    key, ids = jax.random.fold_in(jax.random.key(seed), step), jnp.asarray(ids)

    def draw(number: jax.Array, earlier: jax.Array) -> jax.Array:
        again = jax.random.fold_in(key, -earlier)  # far from any id, as these count from 0 upwards
        return jax.random.fold_in(jnp.where(earlier > 0, again, key), number)

    return jax.vmap(draw)(ids, jnp.tril(ids[:, None] == ids, -1).sum(axis=1))
