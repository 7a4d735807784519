"""Small mergeable metric states.

A state is made from a batch of per-sample values, merged with states of other batches or hosts in
any order, and computed once at the end, in float64 on the host: the result never depends on how the
samples were split into batches.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean of the defined values; NaN marks an undefined value, which is counted and left out."""

    total: float = 0.0
    count: int = 0
    undefined: int = 0

    @classmethod
    def empty(cls) -> Mean:
        """The state that has seen nothing: merging it changes nothing."""
        return cls()

    @classmethod
    def of(cls, values: ArrayLike) -> Mean:
        """The state of one batch of per-sample values, any shape."""
        array = np.asarray(values, np.float64).ravel()
        defined = array[~np.isnan(array)]
        # fsum is exact, so a mean does not depend on the order within a batch; it refuses
        # infinities of both signs, whose sum is not a number.
        infinite = set(defined[np.isinf(defined)].tolist())
        total = math.nan if len(infinite) > 1 else math.fsum(defined)
        return cls(total, defined.size, array.size - defined.size)

    def merge(self, other: Mean) -> Mean:
        """The state of both batches together."""
        return Mean(
            self.total + other.total, self.count + other.count, self.undefined + other.undefined
        )

    def compute(self) -> float:
        """The mean, or NaN where no value was defined."""
        return self.total / self.count if self.count else math.nan


@dataclasses.dataclass(frozen=True)
class Moments:
    """Count, mean and summed squared deviation per column of [n, F] rows, merged without
    cancellation.

    Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979), eq. 2.1.
    """

    count: int
    mean: Float[np.ndarray, " F"]
    deviation: Float[np.ndarray, " F"]

    @classmethod
    def empty(cls, columns: int) -> Moments:
        """The state that has seen nothing, for rows of this many columns."""
        return cls(0, np.zeros(columns), np.zeros(columns))

    @classmethod
    def of(cls, rows: ArrayLike) -> Moments:
        """The state of one batch of rows [n, F]."""
        array = np.asarray(rows, np.float64)
        if array.ndim != 2:
            raise ValueError(f"expected rows [n, F], got shape {array.shape}")
        if not len(array):
            return cls.empty(array.shape[1])
        mean = array.mean(axis=0)
        return cls(len(array), mean, ((array - mean) ** 2).sum(axis=0))

    def merge(self, other: Moments) -> Moments:
        """The state of both batches together."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        deviation = self.deviation + other.deviation + step**2 * (self.count * other.count / count)
        return Moments(count, mean, deviation)

    def compute(self) -> tuple[Float[np.ndarray, " F"], Float[np.ndarray, " F"]]:
        """Mean and standard deviation (over the count) per column; NaN if nothing was seen."""
        if self.count == 0:
            return np.full_like(self.mean, np.nan), np.full_like(self.mean, np.nan)
        return self.mean, np.sqrt(self.deviation / self.count)
