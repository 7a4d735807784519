"""Samplers as tables: every solver is a set of weights per step, built in float64 on the host.

A step turns the network's prediction into an estimate m of the clean latents, may correct the
current sample with it, and predicts the next one:

    m      = from_sample * x + from_prediction * prediction
    x_c    = correct[0] * x + correct[1] * last + correct[2] * m + correct[3:] * (earlier m)
    x_next = predict[0] * x_c + predict[1] * m + predict[2:] * (earlier m) + noise * (fresh noise)

`last` is x_c of the step before. The solvers differ in nothing but these numbers, so one loop runs
them all, and a solver's tables are arguments of a compiled program, not part of it.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Earlier estimates that every sampler carries, needed or not (PNDM's fourth step reads four back):
# samplers of one form share a compiled program.
REMEMBERED = 4
SMALLEST_BUCKET = 32  # steps; 50 steps and PNDM's 51 calls both run in the next one, of 64

Table = Any  # an array; JAX also puts tracers, shapes and markers in a pytree's places


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepRows:
    """The weights of all steps (leading axis n), or of one step inside the loop.

    Attributes:
        timestep: [n] float, what the network is told; some spacings have no whole numbers.
        from_sample, from_prediction: [n], the estimate m from sample and prediction.
        correct: [n, 2 + M] weights on x, last, m and the M - 1 earlier estimates.
        predict: [n, 1 + M] weights on x_c, m and the M - 1 earlier estimates.
        noise: [n], the weight of fresh noise; 0 everywhere in deterministic solvers.
    """

    timestep: Table
    from_sample: Table
    from_prediction: Table
    correct: Table
    predict: Table
    noise: Table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplerState:
    """What a step hands to the next: sample, last corrected sample, earlier estimates of m."""

    sample: Table  # [B, h, w, C], as the others
    last: Table
    earlier: tuple[Table, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampler:
    """A solver for one number of steps: a pytree of tables with pure functions.

    Attributes:
        rows: the weights, one row a network call; there may be more rows than calls.
        count: int32 scalar, the number of network calls.
        scale: scalar, the size of the initial noise.
    """

    rows: StepRows
    count: Table
    scale: Table

    @property
    def steps(self) -> int:
        """Number of network calls; known outside compiled programs only."""
        return int(self.count)

    @property
    def draws_noise(self) -> bool:
        """Whether steps add fresh noise; known outside compiled programs only."""
        return bool(np.any(self.rows.noise))

    def padded(self) -> "Sampler":
        """The same with rows up to a power of two: other numbers of steps reuse the program."""
        bucket = max(SMALLEST_BUCKET, 1 << (self.steps - 1).bit_length())
        rows = jax.tree.map(lambda table: padded_rows(table, bucket), self.rows)
        return dataclasses.replace(self, rows=rows)

    def start(self, noise: Float[Array, "B h w C"]) -> SamplerState:
        """The state before the first step, from standard normal noise."""
        sample = self.scale * noise
        return SamplerState(sample, sample, (jnp.zeros_like(noise),) * REMEMBERED)

    def step(
        self,
        state: SamplerState,
        row: StepRows,
        prediction: Float[Array, "B h w C"],
        noise: Float[Array, "B h w C"] | None = None,
    ) -> SamplerState:
        """One step with one row of the tables; `prediction` is already guided."""
        x = state.sample
        m = row.from_sample * x + row.from_prediction * prediction.astype(x.dtype)
        estimates = (m, *state.earlier)
        corrected = _weighted(row.correct, (x, state.last, *estimates))
        sample = _weighted(row.predict, (corrected, *estimates))
        if noise is not None:
            sample = sample + row.noise * noise
        return SamplerState(sample, corrected, estimates[:-1])


def _weighted(weights: Table, terms: tuple[Array, ...]) -> Array:
    # Not a dot product: TPUs would multiply in bfloat16.
    total = weights[0] * terms[0]
    for i, term in enumerate(terms[1:], 1):
        total = total + weights[i] * term
    return total


def padded_rows(table: np.ndarray, rows: int) -> np.ndarray:
    """Repeats the last row of a host table until there are `rows`; they are never read."""
    missing = rows - len(table)
    return np.pad(table, ((0, missing),) + ((0, 0),) * (table.ndim - 1), mode="edge")


def make_tables(
    timestep: np.ndarray,
    estimate: tuple[np.ndarray, np.ndarray],
    predict: np.ndarray,
    correct: np.ndarray | None = None,
    noise: np.ndarray | None = None,
    scale: float = 1.0,
) -> Sampler:
    """Puts a solver's float64 weights together; no corrector and no noise unless given.

    Args:
        predict, correct: may have fewer columns than the rows; what is missing is 0.

    Raises:
        ValueError: a solver that remembers more than REMEMBERED estimates.
    """
    steps = len(timestep)
    rows = StepRows(
        timestep=timestep,
        from_sample=estimate[0],
        from_prediction=estimate[1],
        correct=_widened(np.ones((steps, 1)) if correct is None else correct, 3 + REMEMBERED),
        predict=_widened(predict, 2 + REMEMBERED),
        noise=np.zeros(steps) if noise is None else noise,
    )
    return Sampler(rows, np.int32(steps), scale)


def _widened(weights: np.ndarray, columns: int) -> np.ndarray:
    missing = columns - weights.shape[1]
    if missing < 0:
        raise ValueError(
            f"expected a solver of order {REMEMBERED + 1} at most, got one that needs "
            f"{-missing} estimates more: lower solver_order in the scheduler config"
        )
    return np.pad(weights, ((0, 0), (0, missing)))
