"""Percentile bootstrap intervals over samples, paired between methods and clustered by source where
asked.

Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), sections 8 and 13.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval and the number of samples behind it.

    The ends are NaN where nothing can be said of them, as of a single sample.
    """

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """How to resample: this many draws with replacement, from a seeded generator."""

    resamples: int = 2000
    level: float = 0.95
    seed: int = 0

    def mean(self, values: ArrayLike, clusters: ArrayLike | None = None) -> Interval:
        """Interval of the mean; NaN (undefined) values are left out."""
        return self._interval(_mean, [values], clusters)

    def reduction(
        self, before: ArrayLike, after: ArrayLike, clusters: ArrayLike | None = None
    ) -> Interval:
        """Interval of 1 - mean(after) / mean(before), paired: both are resampled with the same
        draws. NaN where the mean before is not above 0 in every draw, as there may be nothing to
        take a share of; and for a single sample or cluster.

        Args:
            before: [n] values of the baseline.
            after: [n] values of the same samples, in the same order, under the method.
            clusters: [n] what a sample was cut from (a photo's name); whole clusters are then
                drawn, because samples of one source resemble each other and count for less than
                independent ones.
        """
        found = self._interval(_reduction, [before, after], clusters)
        return found if np.isfinite(found.low) else dataclasses.replace(found, value=np.nan)

    def difference(
        self, before: ArrayLike, after: ArrayLike, clusters: ArrayLike | None = None
    ) -> Interval:
        """Interval of mean(after) - mean(before), paired."""
        return self._interval(_difference, [before, after], clusters)

    def _interval(
        self,
        statistic: Callable[..., np.ndarray],
        columns: list[ArrayLike],
        clusters: ArrayLike | None,
    ) -> Interval:
        arrays = [np.asarray(column, np.float64).ravel() for column in columns]
        names = np.arange(arrays[0].size) if clusters is None else np.asarray(clusters).ravel()
        if any(array.size != names.size for array in arrays):
            sizes = [array.size for array in arrays]
            raise ValueError(
                f"expected columns of one length, got {sizes} and {names.size} clusters"
            )
        defined = ~np.any([np.isnan(array) for array in arrays], axis=0)
        if not defined.any():
            return Interval(np.nan, np.nan, np.nan, 0)
        arrays = [array[defined] for array in arrays]
        _, group = np.unique(names[defined], return_inverse=True)
        groups = int(group.max()) + 1
        weights = _weights(self.seed, self.resamples, groups)
        sizes = weights @ np.bincount(group, minlength=groups)
        sums = [np.bincount(group, array, minlength=groups) for array in arrays]
        values = statistic(*[weights @ total / sizes for total in sums])
        tail = 100 * (1 - self.level) / 2
        # A share of nothing has no interval: percentiles can't be drawn between infinities. Nor has
        # a single sample: every draw is itself, and an interval without width would sound certain.
        finite = groups > 1 and bool(np.isfinite(values).all())
        low, high = np.percentile(values, [tail, 100 - tail]) if finite else (np.nan, np.nan)
        estimate = statistic(*[array.mean(keepdims=True) for array in arrays])
        return Interval(float(estimate[0]), float(low), float(high), int(defined.sum()))


@functools.lru_cache(maxsize=2)
def _weights(seed: int, resamples: int, groups: int) -> np.ndarray:
    """[r, g]: how often group g is drawn in resample r; a mean is then one matrix product."""
    draws = np.random.default_rng(seed).integers(groups, size=(resamples, groups))
    return np.stack([np.bincount(draw, minlength=groups) for draw in draws]).astype(float)


def _mean(values: np.ndarray) -> np.ndarray:
    return values


def _reduction(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return 1 - after / np.where(before > 0, before, np.nan)


def _difference(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return after - before
