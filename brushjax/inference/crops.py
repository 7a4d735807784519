"""Where a large picture is worked on: a window around its hole, at the size of the base."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

CELL = 8  # pixels a side: sides are worked on at multiples of it


class Window(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def whole(cls, height: int, width: int) -> Window:
        """The picture itself."""
        return cls(0, 0, height, width)

    @classmethod
    def around(cls, hole: Integer[np.ndarray, "H W 1"], context: float | int, least: int) -> Window:
        """The window around a hole, inside the picture: a square where the picture has room.

        Args:
            hole: 1 = edit, somewhere.
            context: side of the window over the longer side of the hole, at least 1.
            least: pixels; no window is smaller unless the picture is, so that nothing is enlarged.
        """
        (top, height), (left, width) = (_extent(hole.any(axis=(1 - axis, 2))) for axis in (0, 1))
        side = max(least, math.ceil(context * max(height, width)))
        rows, columns = (min(side, length) for length in hole.shape[:2])
        return cls(
            min(max(0, top + (height - rows) // 2), hole.shape[0] - rows),
            min(max(0, left + (width - columns) // 2), hole.shape[1] - columns),
            rows,
            columns,
        )

    def of(self, picture: np.ndarray) -> np.ndarray:
        """That part of a picture [H, W, C], as a view."""
        below, beyond = self.top + self.height, self.left + self.width
        return picture[self.top : below, self.left : beyond]

    def worked_at(self, side: int | None) -> tuple[int, int]:
        """Height and width that the networks see: multiples of CELL, and no side longer than
        `side`, if that is given."""
        longest = max(self.height, self.width)
        scale = 1.0 if side is None else min(1.0, side / longest)
        sizes = (round(length * scale) for length in (self.height, self.width))
        height, width = (max(CELL, size - size % CELL) for size in sizes)
        return height, width


def squared_context(hole: Bool[np.ndarray, "H W"], context: float | int) -> float:
    """The context of a window, or the largest below it with which the window is a square that the
    picture has room for: windows of one shape share a compiled program.

    Args:
        hole: true = edit, somewhere.
    """
    longest = max(_extent(hole.any(axis=1 - axis))[1] for axis in (0, 1))
    room = min(hole.shape) / longest * (1 - 1e-9)  # or rounding up would leave it by a pixel
    return float(max(1.0, min(context, room)))


def _extent(marked: Any) -> tuple[int, int]:
    """Where the marked places begin, and how far they reach."""
    places = np.flatnonzero(marked)
    return int(places[0]), int(places[-1] - places[0] + 1)
