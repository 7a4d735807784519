"""The training step: one jitted function for every objective, mesh and sharding."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval
from jax.sharding import NamedSharding, PartitionSpec

from brushjax.config import ConfigError
from brushjax.nn import Execution, constrain, executing
from brushjax.sharding import AXES, BATCH
from brushjax.training.objectives.contract import Batch, Losses, Objective, join
from brushjax.training.plan import Plan
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.exchange import Exchange
from brushjax.training.state import Places, State, cast, sample_keys, widened
from brushjax.typing import Params

Metrics = dict[str, Any]
Step = Callable[[State, Params, Batch], tuple[State, Metrics]]
VALIDATION = 0x5EED  # in the place of a step's number: the noise that validation always uses


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """What a step computes beside the objective's loss.

    Attributes:
      compute_dtype: of the forward and backward pass; the parameters in the state stay float32.
      reduce_dtype: of the gradients while they are added up over devices; None is compute_dtype.
      ema_decay: of the moving average of the parameters; 0 for a state without one.
      accumulation: parts that the batch is worked through in, one after the other; their gradients
        are added up in float32.
      prepared: the batches went through `objective.prepare` already.
      skip: a step whose loss or gradient is not finite leaves everything but its number as it was.
    """

    compute_dtype: Any = jnp.float32
    reduce_dtype: Any = None
    ema_decay: float = 0.0
    accumulation: int = 1
    prepared: bool = False
    skip: bool = False


def step_of(config: TrainConfig, plan: Plan) -> Step:
    """Builds the step of a run."""
    options = StepOptions(
        compute_dtype=jnp.dtype(config.compute_dtype),
        reduce_dtype=jnp.dtype(config.reduce_dtype) if config.reduce_dtype else None,
        ema_decay=config.ema_decay,
        accumulation=config.accumulation,
        prepared=config.encode_once,
        skip=config.nonfinite == "skip",
    )
    return make_step(
        config.objective,
        plan.optimizer,
        seed=config.seed,
        options=options,
        places=plan.places,
        execution=Execution(mesh=plan.mesh, rematerialise=config.rematerialise),
    )


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int | jax.Array,
    options: StepOptions = StepOptions(),
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
      options: what it computes.
      places: None for one device.
      execution: how layers run; None is the default.
    """
    gradient = _gradient_of(objective, options, places)

    def step(state: State, frozen: Params, batch: Batch) -> tuple[State, Metrics]:
        keys = sample_keys(seed, state["step"], batch["id"])
        batch = objective.across(batch)
        params = _working_copy(state["params"], options.compute_dtype, places)
        with executing(execution or Execution()):
            gradients, metrics = gradient(params, frozen, batch, keys)
        if places is not None:
            gradients = jax.lax.with_sharding_constraint(gradients, places.state["params"])
        gradients = widened(gradients)  # the norm and the moments add up millions of squares
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        new = _moved(state, gradients, optimizer, options.ema_decay)
        if options.skip:
            good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            new = jax.tree.map(lambda ours, old: jnp.where(good, ours, old), new, state)
        return {**new, "step": state["step"] + 1}, metrics

    out = None if places is None else (places.state, NamedSharding(places.mesh, PartitionSpec()))
    return jax.jit(step, donate_argnums=0, out_shardings=out)


def _gradient_of(
    objective: Objective, options: StepOptions, places: Places | None
) -> Callable[..., tuple[Params, Metrics]]:
    """Returns what gives gradient and metrics of a whole batch."""
    samples, parts = _Gradient(objective, options.prepared), options.accumulation
    dtype = options.reduce_dtype or options.compute_dtype
    if places is not None and places.by_hand:
        return _over_devices(samples, parts, places, dtype)
    if places and dtype != options.compute_dtype:
        raise ConfigError(
            f"expected gradients reduced in the compute dtype, {jnp.dtype(options.compute_dtype)}, "
            f"on the mesh {dict(places.mesh.shape)}: another dtype needs whole parameters on a "
            "mesh that has the data axis alone"
        )

    def over_the_mesh(
        params: Params, frozen: Params, batch: Batch, keys: jax.Array
    ) -> tuple[Params, Metrics]:
        batch = {name: constrain(array, "samples", ...) for name, array in batch.items()}
        return _accumulated(samples, parts, params, frozen, batch, keys)

    return over_the_mesh


def _working_copy(params: Params, dtype: Any, places: Places | None) -> Params:
    """The parameters as the forward and backward pass takes them."""
    params = cast(params, dtype)
    if places is not None:
        # Cast where they lie, or the compiler gathers float32 and casts what it gathered.
        params = jax.lax.with_sharding_constraint(params, places.state["params"])
        if not places.by_hand:
            params = jax.lax.with_sharding_constraint(params, places.params)
    return params


def _moved(
    state: State, gradients: Params, optimizer: optax.GradientTransformation, ema_decay: float
) -> State:
    """The state after an optimizer's step, its number aside."""
    updates, moments = optimizer.update(gradients, state["optimizer"], state["params"])
    params: Any = optax.apply_updates(state["params"], updates)
    new = {**state, "params": params, "optimizer": moments}
    if ema_decay:
        new["ema"] = _average(state["ema"], params, ema_decay, state["step"] + 1)
    return new


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
            losses = objective.loss(join(params, frozen), prepared, keys)
        return _metrics(losses, {name: term.weight for name, term in losses.terms.items()})

    out = None if places is None else NamedSharding(places.mesh, PartitionSpec())
    return jax.jit(validate, out_shardings=out)


Weights = dict[str, Any]
"""What the total of each term of the loss is divided by."""


@dataclasses.dataclass(frozen=True)
class _Gradient:
    """Gradient and metrics of the samples at hand.

    The batch's own are the mean over its parts, if in each part a term's total is divided by the
    mean of all parts' weights: so every part has gradients of the size that the whole has.
    """

    objective: Objective
    prepared: bool

    def losses(self, params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Losses:
        if not self.prepared:
            batch = self.objective.prepare(frozen, batch)
        return self.objective.loss(join(params, frozen), batch, keys)

    def weights(self, params: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Weights:
        """The weights of the loss's terms, without the work that goes into their totals."""

        def weigh(*arguments: Any) -> Weights:
            return {name: term.weight for name, term in self.losses(*arguments).terms.items()}

        return without_unused(weigh, params, frozen, batch, keys)

    def __call__(
        self,
        params: Params,
        frozen: Params,
        batch: Batch,
        keys: jax.Array,
        weights: Weights | None = None,
    ) -> tuple[Params, Metrics]:
        """Differentiates the sum of total / weight over the terms.

        Args:
          weights: mean over all parts of the batch; None where these samples are the batch.
        """

        def loss(params: Params) -> tuple[jax.Array, Metrics]:
            losses = self.losses(params, frozen, batch, keys)
            own = {name: term.weight for name, term in losses.terms.items()}
            metrics = _metrics(losses, weights or own)
            return metrics["loss"], metrics

        (_, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return gradients, metrics


def _metrics(losses: Losses, weights: Weights) -> Metrics:
    """Returns the loss and what is logged beside it; means of all over parts are the batch's."""
    terms = losses.terms
    loss = sum(term.total / _or_one(weights[name]) for name, term in terms.items())
    return {"loss": loss, **(terms if len(terms) > 1 else {}), **losses.logged}


def _or_one(weight: Any) -> jax.Array:
    """A weight to divide by: 1 where nothing was counted, and the total is 0."""
    return jnp.where(weight == 0, 1, jax.lax.stop_gradient(weight))


def without_unused(function: Any, *arguments: Any) -> Any:
    """Calls a function of which only the operations that its result depends on are traced."""
    traced, shape = jax.make_jaxpr(function, return_shape=True)(*arguments)
    needed, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.out_avals))
    inputs = [x for x, keep in zip(jax.tree.leaves(arguments), used) if keep]
    results = jaxpr_as_fun(ClosedJaxpr(needed, traced.consts))(*inputs)
    return jax.tree.unflatten(jax.tree.structure(shape), results)


def _accumulated(
    gradient: _Gradient,
    parts: int,
    params: Params,
    frozen: Params,
    batch: Batch,
    keys: jax.Array,
    weights: Weights | None = None,
) -> tuple[Params, Metrics]:
    """The mean of the same over `parts` parts of the batch, one after the other."""
    if parts == 1:
        return gradient(params, frozen, batch, keys, weights)

    def cut(array: jax.Array) -> jax.Array:
        # Neighbours go to different parts: a device's samples are then cut where they lie.
        cut = jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)  # [parts, B/parts]
        return constrain(cut, None, "samples", ...)

    inputs = jax.tree.map(cut, (dict(batch), keys))
    if weights is None:
        weights = gradient.weights(params, frozen, batch, keys)
    weights = jax.tree.map(lambda weight: weight / parts, weights)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        batch, keys = part
        ours = widened(gradient(params, frozen, batch, keys, weights))
        return jax.tree.map(lambda sum, new: sum + new / parts, total, ours), None

    first = jax.tree.map(lambda x: x[0], inputs)
    shapes = jax.eval_shape(gradient, params, frozen, *first, weights)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    return jax.lax.scan(add, zeros, inputs)[0]


def _over_devices(
    gradient: _Gradient, parts: int, places: Places, dtype: Any
) -> Callable[..., tuple[Params, Metrics]]:
    """The mean of the same over all devices, each of which works on its own samples.

    The parameters come as the state lies and are gathered here, in the dtype that they come in.
    """
    cuts = jax.tree.map(lambda place: place.spec, places.state["params"])
    exchange = Exchange(cuts, places.mesh)

    def on_one_device(
        params: Params, frozen: Params, batch: Batch, keys: jax.Array
    ) -> tuple[Params, Metrics]:
        whole = exchange.gather(params)
        weights = jax.lax.pmean(gradient.weights(whole, frozen, batch, keys), "data")
        gradients, metrics = _accumulated(gradient, parts, whole, frozen, batch, keys, weights)
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
