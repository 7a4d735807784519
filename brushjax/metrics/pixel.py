"""Pixel metrics on regions of a picture, one value per sample.

Pictures are uint8 or float in [0, 1], [B, H, W, C]; masks are [B, H, W] or [B, H, W, 1] with 1 =
hole. Values are in units of the [0, 1] range, in float64. A sample whose region is empty gives NaN,
which `state.Mean` counts and leaves out.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Shaped

Pictures = Shaped[np.ndarray, "B H W C"]
Masks = Shaped[np.ndarray, "B H W"] | Shaped[np.ndarray, "B H W 1"]
Values = Float[np.ndarray, " B"]

PSNR_CAP = 100.0  # dB; an exact copy has no finite PSNR, and one infinity would eat the mean


def to_unit(pictures: np.ndarray) -> Float[np.ndarray, "B H W C"]:
    """Float64 pictures in [0, 1] from uint8 pictures or from floats that are there already.

    Raises:
        ValueError: not [B, H, W, C], or floats outside [0, 1] (for instance in the models' [-1,
            1]).
    """
    array = np.asarray(pictures)
    if array.ndim != 4:
        raise ValueError(f"expected pictures [B, H, W, C], got shape {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float64) / 255
    array = array.astype(np.float64)
    if array.size and (array.min() < -1e-6 or array.max() > 1 + 1e-6):
        raise ValueError(
            f"expected uint8 or floats in [0, 1], got [{array.min():.3g}, {array.max():.3g}];"
            " map [-1, 1] with (x + 1) / 2 first"
        )
    return array


def to_hole(mask: np.ndarray) -> Bool[np.ndarray, "B H W"]:
    """Boolean holes [B, H, W] from masks [B, H, W] or [B, H, W, 1] of zeros and non-zeros."""
    array = np.asarray(mask)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise ValueError(f"expected masks [B, H, W] or [B, H, W, 1], got shape {array.shape}")
    return array > 0


def mse(pictures: Pictures, truth: Pictures, region: Masks | None = None) -> Values:
    """Mean squared error over the region's pixels and all channels; without a region, over all."""
    return region_mean((to_unit(pictures) - to_unit(truth)) ** 2, region)


def mae(pictures: Pictures, truth: Pictures, region: Masks | None = None) -> Values:
    """Mean absolute error over the region's pixels and all channels; without a region, over all."""
    return region_mean(np.abs(to_unit(pictures) - to_unit(truth)), region)


def psnr(pictures: Pictures, truth: Pictures, region: Masks | None = None) -> Values:
    """Peak signal-to-noise ratio in dB over the region, at most `PSNR_CAP`."""
    error = mse(pictures, truth, region)
    # fmax/fmin would turn NaN (empty region) into a number; maximum/minimum keep it.
    return np.minimum(-10 * np.log10(np.maximum(error, 10 ** (-PSNR_CAP / 10))), PSNR_CAP)


def inner_ring(mask: Masks, width: int = 4) -> Bool[np.ndarray, "B H W"]:
    """The hole's pixels within `width` pixels (king moves) of a kept pixel.

    The picture's frame is no edge of the hole: a hole that touches it has no ring there.
    """
    hole = to_hole(mask)
    core = hole
    for _ in range(width):
        core = _eroded(core)
    return hole & ~core


def ring_error(pictures: Pictures, truth: Pictures, mask: Masks, width: int = 4) -> Values:
    """Mean absolute error to the truth in the ring of `width` pixels just inside the hole.

    Near the edge the kept surroundings determine the fill, so here, unlike in the middle, the truth
    is a fair target.
    """
    return mae(pictures, truth, inner_ring(mask, width))


def edge_step(pictures: Pictures, surroundings: Pictures, mask: Masks) -> Values:
    """Mean absolute step over the hole's edge, the raw fill being pasted into the surroundings.

    The first of the three means of `edge_discontinuity`, over the same pairs: natural texture
    counts in full.
    """
    return _edge_steps(pictures, surroundings, mask)[0]


def edge_discontinuity(pictures: Pictures, surroundings: Pictures, mask: Masks) -> Values:
    """The seam: how much larger the step over the hole's edge is than the steps right beside it.

    The raw (unblended) fill is pasted into the true surroundings:
    x = hole * pictures + (1 - hole) * surroundings. Every pair of 4-neighbours (p, q), p in the
    hole and q outside, is continued by one pixel on both sides along its line: p' behind p and q'
    behind q. Over all pairs for which p' is in the hole, q' is outside and both are in the picture,
    and over channels:

        mean |x(p) - x(q)|  -  (mean |x(p') - x(p)| + mean |x(q) - x(q')|) / 2

    A texture or slope that runs on across the edge makes the three steps alike and cancels (about 0
    for an untouched photograph); a brightness or colour jump stays in full. It can be slightly
    negative, when the edge happens to lie in a calm place.
    """
    across, inside, outside = _edge_steps(pictures, surroundings, mask)
    return across - (inside + outside) / 2


def _edge_steps(pictures: Pictures, surroundings: Pictures, mask: Masks) -> tuple[Values, ...]:
    """Mean absolute steps (across, inside, outside) over the edge pairs of each sample."""
    hole = to_hole(mask)
    pasted = np.where(hole[..., None], to_unit(pictures), to_unit(surroundings))
    totals = np.zeros((3, len(hole)))
    pairs = np.zeros(len(hole))
    for axis in (1, 2):
        for flip in (False, True):
            # Four neighbours in a row along the axis, p' p | q q', once in each direction.
            flipped = np.flip(hole, axis) if flip else hole
            picture = np.flip(pasted, axis) if flip else pasted
            inner, here, there, outer = (_window(flipped, axis, k) for k in range(4))
            edge = inner & here & ~there & ~outer
            values = [_window(picture, axis, k) for k in range(4)]
            steps = [np.abs(values[k + 1] - values[k]).mean(axis=-1) for k in range(3)]
            inside, across, outside = (np.where(edge, step, 0).sum(axis=(1, 2)) for step in steps)
            totals += np.stack([across, inside, outside])
            pairs += edge.sum(axis=(1, 2))
    return tuple(_divide(total, pairs) for total in totals)


def _window(array: np.ndarray, axis: int, start: int) -> np.ndarray:
    """The array from `start` on, three shorter: windows 0..3 line up as neighbours."""
    return np.take(array, np.arange(start, array.shape[axis] - 3 + start), axis=axis)


def _eroded(hole: Bool[np.ndarray, "B H W"]) -> Bool[np.ndarray, "B H W"]:
    """The hole without pixels that have a kept one among their eight neighbours."""
    height, width = hole.shape[1:]
    # Padded with hole: the frame erodes nothing.
    padded = np.pad(hole, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    shifts = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
    return np.logical_and.reduce(shifts)


def region_mean(values: Float[np.ndarray, "B H W C"], region: Masks | None) -> Values:
    """Mean over the region's pixels and all channels, NaN where the region is empty."""
    if region is None:
        return values.mean(axis=(1, 2, 3))
    chosen = to_hole(region)
    total = np.where(chosen, values.mean(axis=-1), 0).sum(axis=(1, 2))
    return _divide(total, chosen.sum(axis=(1, 2)))


def _divide(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    """total / count, NaN where the count is 0."""
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
