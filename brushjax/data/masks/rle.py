"""Masks as run lengths: a flat list start, length, start, length, ..., as BrushData and BrushBench
store them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool

Order = Literal["row", "column"]


def decode(
    runs: Sequence[Any], height: int, width: int, *, first: int, order: Order
) -> Bool[np.ndarray, "H W"]:
    """Returns the mask that the runs describe: True within a run, False elsewhere.

    Args:
      runs: start and length by turns; a start counts pixels from the mask's first one.
      height: of the mask in pixels; width: likewise.
      first: the number of the first pixel, 0 or 1.
      order: "row" numbers along the rows (BrushBench), "column" down the columns (BrushData).

    Raises: ValueError if `runs` is no list of pairs of whole numbers, or a run leaves the mask;
      names the first such run.
    Source: rle2mask of the BrushNet repository, in its training script (column, 1) and its
      evaluation script (row, 1).
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected a mask of 1 x 1 pixels or more, got {height} x {width}")
    if first not in (0, 1):
        raise ValueError(f"expected first 0 or 1, got {first}")
    starts, lengths = _pairs(runs)
    starts = starts - first
    size = height * width
    # Compared without a sum: a start near the integers' limit must not wrap around.
    wrong = (starts < 0) | (starts > size) | (lengths < 0) | (lengths > size - starts)
    if wrong.any():
        n = int(wrong.argmax())
        raise ValueError(
            f"expected runs within the {size} pixels of a {height} x {width} mask, numbered from "
            f"{first}; run {n} starts at {starts[n] + first} and has length {lengths[n]}"
        )
    inside = _in_order(starts, lengths, size)
    if order == "row":
        return inside.reshape(height, width)
    return np.ascontiguousarray(inside.reshape(width, height).T)


def encode(mask: np.ndarray, *, first: int, order: Order) -> list[int]:
    """Returns the runs of a mask [H,W], anything but 0 being inside; `decode` gives it back."""
    flat = np.asarray(mask, bool).ravel(order="C" if order == "row" else "F")
    edges = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    return np.stack([starts + first, ends - starts], axis=1).ravel().tolist()


def _in_order(starts: np.ndarray, lengths: np.ndarray, size: int) -> np.ndarray:
    """Returns the pixels in the order of their numbers, bool [size]."""
    ends = starts + lengths
    if (starts[1:] >= ends[:-1]).all():  # as encoders write them: gap and run by turns
        edges = np.concatenate([[0], np.stack([starts, ends], axis=1).ravel(), [size]])
        return np.repeat(np.arange(len(edges) - 1) % 2 == 1, np.diff(edges))
    # Runs out of order or overlapping: a pixel is set where more runs have begun than ended.
    change = np.zeros(size + 1, np.int32)
    np.add.at(change, starts, 1)
    np.add.at(change, ends, -1)
    return np.cumsum(change[:size]) > 0


def _pairs(runs: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns starts and lengths as int64."""
    try:
        array = np.asarray(runs if len(runs) else np.zeros(0, np.int64))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected runs as a flat list of whole numbers: {error}") from error
    if array.ndim != 1 or array.dtype.kind not in "iu" or array.size % 2:
        raise ValueError(
            "expected runs as a flat list of whole numbers, start and length by turns, so of even "
            f"length; got {array.dtype} of shape {array.shape}"
        )
    return array[::2].astype(np.int64), array[1::2].astype(np.int64)
