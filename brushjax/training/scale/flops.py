"""The work that a recipe asks for, in FLOPs: what speed is judged against."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from brushjax.config import ConfigError
from brushjax.nn import Execution, executing
from brushjax.training.objectives.contract import join, split
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.program import flops, trace
from brushjax.typing import Params


def useful_flops(config: TrainConfig) -> float:
    """Returns the FLOPs of one step of a recipe, over all devices.

    Convolutions and matrix products of the loss, of the gradient of what is trained, and of the
    frozen encoders where the step runs them. What a program computes twice to save memory does not
    count, nor what a kernel computes on padding: a way of running can't make a step more useful.
    Traces the loss once, which takes seconds at full size; computes nothing.
    """
    trainable, frozen = split(config.objective.shapes(), config.objective.trains)
    samples = batch_shapes(config)
    batch = jax.eval_shape(config.objective.prepare, frozen, samples)

    def gradient(params: Params, frozen: Params, batch: Any) -> Any:
        def loss(params: Params) -> jax.Array:
            keys = jax.random.split(jax.random.key(0), config.batch_size)
            return config.objective.loss(join(params, frozen), batch, keys).value

        return jax.grad(loss)(params)

    def plainly(function: Any) -> Any:
        def run(*arguments: Any) -> Any:
            with executing(Execution(attention="plain", convolution="direct")):
                return function(*arguments)

        return run

    total = flops(trace(plainly(gradient), trainable, frozen, batch))
    if not config.encode_once:
        prepare = plainly(config.objective.prepare)
        total += flops(trace(prepare, frozen, samples))
    return total


def batch_shapes(config: TrainConfig) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of a whole batch of the data, before `objective.prepare`.

    Data that knows its shapes (a method `shapes`) need not be on this machine; of other data the
    first sample is read.

    Raises:
      ConfigError: if that is not there.
    """
    if hasattr(config.data, "shapes"):
        sample = config.objective.blank(config.data.shapes())
    else:
        try:
            sample = config.data.source(config.objective.encode)[0]
        except FileNotFoundError as error:
            raise ConfigError(
                f"expected one sample of {type(config.data).__name__} on this machine, for its "
                f"shapes: {error}"
            ) from error
    return {
        name: jax.ShapeDtypeStruct(
            (config.batch_size, *jnp.shape(value)), jax.dtypes.canonicalize_dtype(value.dtype)
        )
        for name, value in sample.items()
    }
