"""Resampling along one axis as a matrix, with PyTorch's conventions; Pillow does the rest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float

Filter = Literal["bilinear", "bicubic"]


@functools.lru_cache(maxsize=64)
def resample_matrix(
    size_in: int, size_out: int, kind: Filter, antialias: bool = False
) -> Float[np.ndarray, "out in"]:
    """The matrix that resizes an axis as `torch.nn.functional.interpolate` does.

    Pixel centres at half integers (align_corners=False), the frame's pixels repeated beyond it.

    Args:
        kind: "bicubic" uses a = -0.75 without antialiasing and a = -0.5 with it, as PyTorch does.
        antialias: widen the filter where the axis shrinks, so that every pixel counts (Pillow's
            rule).
    """
    scale = size_in / size_out
    centres = (np.arange(size_out) + 0.5) * scale
    if antialias:
        width = max(scale, 1.0)
        weigh = _triangle if kind == "bilinear" else _cubic(-0.5)
        distances = (np.arange(size_in) + 0.5 - centres[:, None]) / width
        matrix = weigh(distances)
        return matrix / matrix.sum(axis=1, keepdims=True)
    reach, weigh = (1, _triangle) if kind == "bilinear" else (2, _cubic(-0.75))
    first = np.floor(centres - 0.5).astype(int)
    matrix = np.zeros((size_out, size_in))
    for offset in range(1 - reach, 1 + reach):
        place = first + offset
        weights = weigh(place + 0.5 - centres)
        np.add.at(matrix, (np.arange(size_out), np.clip(place, 0, size_in - 1)), weights)
    return matrix


def resample(
    values: Float[np.ndarray, "H W *C"],
    height: int,
    width: int,
    kind: Filter,
    antialias: bool = False,
) -> Float[np.ndarray, "h w *C"]:
    """Both axes of a picture, in the picture's precision, without rounding to whole values."""
    rows = resample_matrix(values.shape[0], height, kind, antialias).astype(values.dtype)
    columns = resample_matrix(values.shape[1], width, kind, antialias).astype(values.dtype)
    return np.tensordot(columns, np.tensordot(rows, values, 1), (1, 1)).swapaxes(0, 1)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(a: float) -> Callable[[np.ndarray], np.ndarray]:
    """Keys' cubic kernel ("Cubic convolution interpolation", 1981, eq. 15)."""

    def weigh(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return np.where(x <= 1, near, np.where(x < 2, far, 0.0))

    return weigh
