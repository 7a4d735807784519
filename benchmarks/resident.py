"""Trains a recipe with its samples in the device's memory, seeds side by side.

The step is that of the one training loop; only what brings it batches differs. Nothing is resumed:
for runs of minutes. Samples are made by several processes beforehand.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from brushjax.training.objectives.contract import Mean, Objective, placed_in, split
from brushjax.training.optimizers import make_optimizer
from brushjax.training.recipe import TrainConfig
from brushjax.training.state import State, export_parameters, make_state
from brushjax.training.step import StepOptions, make_step
from brushjax.typing import Params

Arrays = dict[str, np.ndarray]
CHUNK = 128  # samples that a process makes, and that the frozen encoders see, at once


# --- samples


def samples(data: Any, encode: Callable[[Any], Mapping[str, Any]], workers: int = 0) -> Arrays:
    """Returns all samples of data with a pool, made by `workers` processes (0: one a core)."""
    starts = range(0, data.pool, CHUNK)
    make = functools.partial(_made, data, encode)
    workers = min(workers or os.cpu_count() or 1, len(starts))
    if workers == 1:
        return _joined(map(make, tqdm(starts, desc="samples", unit="chunk")))
    context = multiprocessing.get_context("spawn")  # JAX's threads do not survive a fork
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        return _joined(
            tqdm(pool.map(make, starts), desc="samples", unit="chunk", total=len(starts))
        )


def _made(data: Any, encode: Callable[[Any], Mapping[str, Any]], start: int) -> Arrays:
    source = data.source(encode)
    made = [source[n] for n in range(start, min(start + CHUNK, data.pool))]
    return {name: np.stack([sample[name] for sample in made]) for name in made[0]}


def _joined(parts: Any) -> Arrays:
    parts = list(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def prepared(objective: Objective, frozen: Params, arrays: Any) -> dict[str, jax.Array]:
    """Returns what `loss` reads of samples, on the device."""

    @jax.jit
    def prepare(frozen: Params, batch: Any) -> Any:
        return {**objective.prepare(frozen, batch), "id": batch["id"]}

    count = len(arrays["id"])
    parts = [
        prepare(
            frozen, {name: jnp.asarray(array[low : low + CHUNK]) for name, array in arrays.items()}
        )
        for low in range(0, count, CHUNK)
    ]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


# --- training


@dataclasses.dataclass(frozen=True)
class Run:
    """One recipe, trained from several seeds side by side.

    Attributes:
      config: its objective, optimizer, steps, batch size and moving average are used.
      seeds: of the parameters, of the order of the samples and of what a step draws.
      every: steps a report.
    """

    config: TrainConfig
    seeds: tuple[int, ...]
    every: int = 100

    def shapes(self) -> State:
        """The shapes of `start`."""
        trained, _ = split(self.config.objective.shapes(), self.config.objective.trains)
        count = len(self.seeds)
        stacked = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), trained
        )
        return jax.eval_shape(self._states, stacked)

    def _states(self, params: Params) -> State:
        config = self.config
        optimizer = make_optimizer(config.optimizer, config.steps)
        return jax.vmap(lambda params: make_state(params, optimizer, config.ema_decay > 0))(params)

    def start(self) -> State:
        """The states of step 0: [seeds, ...] each."""
        config, here = self.config, jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes, _ = split(config.objective.shapes(), config.objective.trains)
        wanted = placed_in(here, shapes)
        loaded = [config.objective.load(jax.random.key(seed), wanted) for seed in self.seeds]
        return self._states(jax.tree.map(lambda *leaves: jnp.stack(leaves), *loaded))

    def orders(self, count: int) -> np.ndarray:
        """Which samples each step takes, int32 [steps, seeds, B]: every epoch a new order."""
        config = self.config
        needed = config.steps * config.batch_size

        def order(seed: int) -> np.ndarray:
            rng = np.random.default_rng(seed)
            epochs = [rng.permutation(count) for _ in range(-(-needed // count))]
            return np.concatenate(epochs)[:needed].reshape(config.steps, config.batch_size)

        return np.stack([order(seed) for seed in self.seeds], axis=1).astype(np.int32)

    def compiled(self, state: Any, frozen: Any, pool: Any) -> Callable[..., Any]:
        """The program of one step, for arrays or shapes of arrays. In a loop of XLA's, the gradient
        of a VAE's decoder takes a CPU eight times as long."""
        rows = jax.ShapeDtypeStruct((len(self.seeds), self.config.batch_size), jnp.int32)
        seeds = jax.ShapeDtypeStruct((len(self.seeds),), jnp.int32)
        return (
            jax.jit(self._step, donate_argnums=0).lower(state, frozen, pool, rows, seeds).compile()
        )

    def _step(
        self, state: State, frozen: Params, pool: Any, rows: jax.Array, seeds: jax.Array
    ) -> tuple[State, Any]:
        config = self.config
        optimizer = make_optimizer(config.optimizer, config.steps)

        def one(seed: jax.Array, state: State, rows: jax.Array) -> tuple[State, Any]:
            step = make_step(
                config.objective,
                optimizer,
                seed=seed,
                options=StepOptions(
                    compute_dtype=jnp.dtype(config.compute_dtype),
                    ema_decay=config.ema_decay,
                    prepared=True,
                ),
            )
            batch = {name: array[rows] for name, array in pool.items()}
            state, metrics = step(state, frozen, batch)
            return state, {name: _value(metric) for name, metric in metrics.items()}

        return jax.vmap(one)(seeds, state, rows)

    def __call__(
        self,
        frozen: Params,
        pool: Mapping[str, jax.Array],
        program: Callable[..., Any] | None = None,
        report: Callable[[int, Any], None] | None = None,
    ) -> Params:
        """Returns the trained parameters, [seeds, ...] each. Without `report`, which gets the means
        of the steps since the last, the device may still be working."""
        state, rows = self.start(), self.orders(len(pool["id"]))
        seeds = np.asarray(self.seeds, np.int32)  # an argument: other seeds, the same program
        program = program or self.compiled(state, frozen, pool)
        since: list[Any] = []
        for step in range(self.config.steps):
            state, metrics = program(state, frozen, pool, rows[step], seeds)
            since.append(metrics)
            if report is not None and len(since) == self.every:
                means = jax.tree.map(
                    lambda *values: np.mean(values, axis=0), *jax.device_get(since)
                )
                report(step + 1, means)
                since = []
        return export_parameters(state)


def _value(metric: Any) -> jax.Array:
    return metric.value if isinstance(metric, Mean) else metric
