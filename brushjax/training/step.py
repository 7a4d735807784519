"""The training step: one jitted function for every objective, mesh and sharding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from brushjax.config import ConfigError
from brushjax.nn import Execution, executing
from brushjax.sharding import AXES, BATCH
from brushjax.training.objectives.contract import Batch, Objective
from brushjax.training.plan import Plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.exchange import Exchange
from brushjax.training.state import Places, State, cast, sample_keys, widened
from brushjax.typing import Params

Metrics = dict[str, Any]
Step = Callable[[State, Params, Batch], tuple[State, Metrics]]
VALIDATION = 0x5EED  # in the place of a step's number: the noise that validation always uses


def step_of(config: TrainConfig, plan: Plan) -> Step:
    """Builds the step of a run."""
    return make_step(
        config.objective,
        plan.optimizer,
        seed=config.seed,
        compute_dtype=jnp.dtype(config.compute_dtype),
        reduce_dtype=jnp.dtype(config.reduce_dtype) if config.reduce_dtype else None,
        ema_decay=config.ema_decay,
        accumulation=config.accumulation,
        prepared=config.encode_once,
        skip=config.nonfinite == "skip",
        places=plan.places,
        execution=Execution(mesh=plan.mesh, rematerialise=config.rematerialise),
    )


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    compute_dtype: Any = jnp.float32,
    reduce_dtype: Any = None,
    ema_decay: float = 0.0,
    accumulation: int = 1,
    prepared: bool = False,
    skip: bool = False,
    places: Places | None = None,
    execution: Execution | None = None,
) -> Step:
    """Builds the jitted step `(state, frozen, batch) -> (state, metrics)`; the state is donated.

    Trainable and frozen parameters are two arguments, so that no gradient of a frozen one is ever
    formed.

    Args:
      objective: gives the loss.
      optimizer: of make_optimizer.
      seed: of the run; a sample's key is this seed folded with the step and the sample's id.
      compute_dtype: of the forward and backward pass; the parameters in the state stay float32.
      reduce_dtype: of the gradients while they are added up over devices; None is compute_dtype.
      ema_decay: of the moving average of the parameters; 0 for a state without one.
      accumulation: parts that the batch is worked through in, one after the other; their gradients
        are added up in float32.
      prepared: the batches went through `objective.prepare` already.
      skip: a step whose loss or gradient is not finite leaves everything but its number as it was.
      places: None for one device.
      execution: how layers run; None is the default.
    """
    if places and reduce_dtype and reduce_dtype != compute_dtype and not places.by_hand:
        raise ConfigError(
            f"expected gradients reduced in the compute dtype, {jnp.dtype(compute_dtype)}, on the "
            f"mesh {dict(places.mesh.shape)}: another dtype needs whole parameters on a mesh that "
            "has the data axis alone"
        )
    gradient = functools.partial(
        _accumulated, functools.partial(_gradient, objective, prepared), accumulation
    )
    if places is not None and places.by_hand:
        gradient = _over_devices(gradient, places, reduce_dtype or compute_dtype)

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
        keys = sample_keys(seed, state["step"], batch["id"])
        batch = objective.across(batch)
        params = cast(state["params"], compute_dtype)
        if places is not None:
            # Cast where they lie, or the compiler gathers float32 and casts what it gathered.
            params = jax.lax.with_sharding_constraint(params, places.state["params"])
            if not places.by_hand:
                params = jax.lax.with_sharding_constraint(params, places.params)
        with executing(execution or Execution()):
            gradients, metrics = gradient(params, frozen, batch, keys)
        if places is not None:
            gradients = jax.lax.with_sharding_constraint(gradients, places.state["params"])
        gradients = widened(gradients)  # the norm and the moments add up millions of squares
        metrics["gradient_norm"] = optax.tree.norm(gradients)

        updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
        new = {
            **state,
            "params": optax.apply_updates(state["params"], updates),
            "optimizer": moments,
        }
        if ema_decay:
            new["ema"] = _average(state["ema"], new["params"], ema_decay, state["step"] + 1)
        if skip:
            good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            new = jax.tree.map(lambda ours, old: jnp.where(good, ours, old), new, state)
        return {**new, "step": state["step"] + 1}, metrics

    out = None if places is None else (places.state, NamedSharding(places.mesh, PartitionSpec()))
    return jax.jit(step, donate_argnums=0, out_shardings=out)


def make_validation(
    objective: Objective,
    *,
    seed: int,
    compute_dtype: Any = jnp.float32,
    places: Places | None = None,
    execution: Execution | None = None,
) -> Callable[[Params, Params, Batch], Metrics]:
    """Builds the jitted `(parameters, frozen, batch) -> metrics` of a forward pass whose noise and
    timesteps depend on the samples' ids alone, so that the numbers of different steps compare."""

    def validate(params: Params, frozen: Params, batch: Batch) -> Metrics:
        keys = sample_keys(seed, VALIDATION, batch["id"])
        params = cast(params, compute_dtype)
        if places is not None:
            params = jax.lax.with_sharding_constraint(params, places.params)
        with executing(execution or Execution()):
            prepared = objective.prepare(frozen, objective.across(batch))
            loss, metrics = objective.loss(params, frozen, prepared, keys)
        return {"loss": loss, **metrics}

    out = None if places is None else NamedSharding(places.mesh, PartitionSpec())
    return jax.jit(validate, out_shardings=out)


def _gradient(
    objective: Objective,
    prepared: bool,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
) -> tuple[Params, Metrics]:
    """Gradient and metrics of the samples at hand."""
    if not prepared:
        batch = objective.prepare(frozen, batch)

    def loss(params: Params) -> tuple[jax.Array, Metrics]:
        return objective.loss(params, frozen, batch, keys)

    (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    return gradients, {"loss": value, **metrics}


def _accumulated(
    gradient: Any, parts: int, params: Params, frozen: Params, batch: Batch, keys: jax.Array
) -> tuple[Params, Metrics]:
    """The same over `parts` parts of the batch, one after the other."""
    if parts == 1:
        return gradient(params, frozen, batch, keys)

    def cut(array: jax.Array) -> jax.Array:
        # Neighbours go to different parts: a device's samples are then cut where they lie.
        return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)  # [parts, B/parts]

    def add(total: Any, part: Any) -> tuple[Any, None]:
        ours = gradient(params, frozen, *part)
        return jax.tree.map(lambda sum, new: sum + new / parts, total, widened(ours)), None

    inputs = jax.tree.map(cut, (dict(batch), keys))
    shapes = jax.eval_shape(gradient, params, frozen, *jax.tree.map(lambda x: x[0], inputs))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    return jax.lax.scan(add, zeros, inputs)[0]


def _over_devices(gradient: Any, places: Places, dtype: Any) -> Any:
    """The same over the batch of all devices, each of which works on its own samples.

    The parameters come as the state lies and are gathered here, in the dtype that they come in.
    """
    cuts = jax.tree.map(lambda place: place.spec, places.state["params"])
    exchange = Exchange(cuts, places.mesh)

    def on_one_device(
        params: Params, frozen: Params, batch: Batch, keys: jax.Array
    ) -> tuple[Params, Metrics]:
        gradients, metrics = gradient(exchange.gather(params), frozen, batch, keys)
        return exchange.mean(gradients, dtype), jax.lax.pmean(metrics, "data")

    whole = PartitionSpec()
    return jax.shard_map(
        on_one_device,
        mesh=places.mesh,
        in_specs=(cuts, whole, BATCH, BATCH),
        out_specs=(cuts, whole),
        axis_names=set(AXES),
        check_vma=False,
    )


def _average(ema: Params, params: Params, decay: float, step: jax.Array) -> Params:
    """Moves the average towards the parameters; early steps faster, to forget the first values."""
    share = 1.0 - jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda mean, new: mean + share * (new - mean), ema, params)
