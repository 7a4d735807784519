"""Distances between two sets of pictures, on features of any network: Fréchet and kernel distance.

With Inception's features the Fréchet distance is called FID. The features are the caller's choice
and part of the metric's id; numbers on different features cannot be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from brushjax.metrics.metric import Need, image
from brushjax.metrics.views import RESULT


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """Count, mean and scatter of feature rows; merged in any order."""

    count: int
    mean: Float[np.ndarray, " D"]
    scatter: Float[np.ndarray, "D D"]

    @classmethod
    def of(cls, rows: ArrayLike) -> Gaussian:
        """The state of rows [n, D], n > 0."""
        array = _rows(rows)
        mean = array.mean(axis=0)
        return cls(len(array), mean, (array - mean).T @ (array - mean))

    def merge(self, other: Gaussian) -> Gaussian:
        """The state of both sets together (Chan et al. 1979, eq. 2.1)."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter = scatter + np.outer(step, step) * (self.count * other.count / count)
        return Gaussian(count, self.mean + step * (other.count / count), scatter)

    def distance(self, other: Gaussian) -> float:
        """The Fréchet distance of the two Gaussians; NaN for fewer than two rows on a side.

        Source: Heusel et al. (arXiv 1706.08500), eq. 6, with covariances over n - 1 as in its code.
        """
        if min(self.count, other.count) < 2:
            return np.nan
        a, b = (one.scatter / (one.count - 1) for one in (self, other))
        values, vectors = np.linalg.eigh(a)
        root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        # tr sqrt(a b) = tr sqrt(root b root), whose eigenvalues are real and not negative.
        product = np.linalg.eigvalsh(root @ b @ root)
        cross = np.sqrt(np.maximum(product, 0)).sum()
        return float(((self.mean - other.mean) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * cross)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Feature rows kept for the kernel distance; merged in any order."""

    rows: Float[np.ndarray, "n D"]

    @classmethod
    def of(cls, rows: ArrayLike) -> Rows:
        """The state of rows [n, D]."""
        return cls(_rows(rows))

    def merge(self, other: Rows) -> Rows:
        """The state of both sets together."""
        return Rows(np.concatenate([self.rows, other.rows]))

    def distance(self, other: Rows) -> float:
        """The squared maximum mean discrepancy under the kernel (x y / D + 1)^3, unbiased.

        NaN for fewer than two rows on a side. May be slightly negative for like sets.

        Source: Bińkowski et al. (arXiv 1801.01401), section 4, over all rows.
        Differs: docs/deviations.md, kernel-distance.
        """
        x, y = self.rows, other.rows
        n, m = len(x), len(y)
        if min(n, m) < 2:
            return np.nan
        within = sum(
            (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1))
            for kernel in (_kernel(x, x), _kernel(y, y))
        )
        return float(within - 2 * _kernel(x, y).mean())


@dataclasses.dataclass(frozen=True)
class SetMetric:
    """A distance between the set of results and the set of reference pictures; lower is better.

    Attributes:
        need: the feature; its input, the result, stands for either set's pictures.
        state: `Gaussian` or `Rows`.
    """

    name: str
    need: Need
    state: type[Gaussian] | type[Rows]
    version: int = 1

    @property
    def id(self) -> str:
        """Names the number for good."""
        return f"clean/{self.name}[{self.need.network}/{self.need.preprocess}]@{self.version}"


CLIP = image("clip_l14.image", "openai", RESULT)
DINO = image("dino_s16.class", "dino", RESULT)
SET_METRICS: dict[str, SetMetric] = {
    metric.id: metric
    for metric in (
        SetMetric("frechet", CLIP, Gaussian),
        SetMetric("kernel", CLIP, Rows),
        SetMetric("frechet", DINO, Gaussian),
        SetMetric("kernel", DINO, Rows),
    )
}


def _rows(rows: ArrayLike) -> np.ndarray:
    array = np.asarray(rows, np.float64)
    if array.ndim != 2 or not len(array):
        raise ValueError(f"expected feature rows [n, D], n > 0, got shape {array.shape}")
    return array


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
