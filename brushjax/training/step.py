"""The training step: one jitted function for every objective."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from brushjax.training.objectives import Batch, Objective
from brushjax.training.state import State, cast
from brushjax.typing import Params

Metrics = dict[str, jax.Array]
Step = Callable[[State, Params, Batch], tuple[State, Metrics]]


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    compute_dtype: Any = jnp.float32,
    ema_decay: float = 0.0,
    prepared: bool = False,
    layout: State | None = None,
) -> Step:
    """Builds the jitted step `(state, frozen, batch) -> (state, metrics)`; the state is donated.

    Trainable and frozen parameters are two arguments, so that no gradient of a frozen one is ever
    formed.

    Args:
      objective: gives the loss.
      optimizer: of make_optimizer.
      seed: of the run; the step's key is this seed folded with the step's number.
      compute_dtype: of the forward and backward pass; the parameters in the state stay float32.
      ema_decay: of the moving average of the parameters; 0 for a state without one.
      prepared: the batches went through `objective.prepare` already.
      layout: shardings of the state that comes out; None leaves them to the compiler.
    """

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state["step"])
        if not prepared:
            batch = objective.prepare(frozen, batch)

        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            return objective.loss(cast(params, compute_dtype), frozen, batch, key)

        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state["params"])
        updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
        new = {
            **state,
            "params": optax.apply_updates(state["params"], updates),
            "optimizer": moments,
            "step": state["step"] + 1,
        }
        if ema_decay:
            new["ema"] = _average(state["ema"], new["params"], ema_decay, new["step"])
        return new, {"loss": value, "gradient_norm": optax.tree.norm(gradients), **metrics}

    out = None if layout is None else (layout, None)
    return jax.jit(step, donate_argnums=0, out_shardings=out)


def _average(ema: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """Moves the average towards the parameters; early steps faster, to forget the first values."""
    share = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda mean, new: mean + share * (new - mean), ema, params)
