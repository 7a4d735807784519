"""Single values and lists of them, brought to one batch."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, UInt32

from brushjax.sharding import BATCH

LARGEST_SEED = 2**32 - 1


def as_list(value: Any) -> list[Any]:
    """A list, tuple or array of four axes as its items; anything else as the only item."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 4:
        return list(value)
    return [value]


def batch_size(lengths: Mapping[str, int]) -> int:
    """The size of the batch that arguments of these lengths make.

    Raises:
        ValueError: an empty list, or a length that is neither 1 nor the batch's.
    """
    size = max(lengths.values())
    if any(length not in (1, size) for length in lengths.values()):
        raise ValueError(f"expected every argument once or {size} times, got {dict(lengths)}")
    return size


def repeated(items: Any, size: int) -> Any:
    """Items of a batch, a single one as often as needed: a list, or an array with leading axis."""
    if isinstance(items, list):
        return items if len(items) == size else items * size
    return np.broadcast_to(items, (size, *items.shape[1:]))


def batch_seeds(seeds: Sequence[int], size: int) -> UInt32[np.ndarray, " B"]:
    """One seed per sample; from a single seed s, sample b gets s + b.

    Raises:
        TypeError: a seed that is no whole number.
        ValueError: a seed outside 0..2^32-1.
    """
    numbers = [operator.index(seed) for seed in seeds]
    if len(numbers) != size:
        numbers = [numbers[0] + b for b in range(size)]
    if min(numbers) < 0 or max(numbers) > LARGEST_SEED:
        raise ValueError(f"expected seeds in 0..{LARGEST_SEED}, got {min(numbers)}..{max(numbers)}")
    return np.array(numbers, np.uint32)


def by_groups(run: Callable[[Any], Any], batch: Any, size: int, mesh: Mesh | None = None) -> Any:
    """Runs a function on `size` samples of a batch at a time, on every device over its own share.

    What a sample gives then depends neither on the batch size nor on the number of devices: a
    program for more samples at once adds up in another order. With a size of 1 it does not depend
    on the samples next to it either, bit for bit.

    Args:
        run: from arrays [size, ...] to arrays [size, ...]; what it closes over is whole on every
            device.
        batch: tree of arrays [B, ...]; B is a multiple of `size` times the devices.
        mesh: over whose data axes the batch is cut, if it is.
    """

    def share(batch: Any) -> Any:
        groups = jax.tree.map(lambda x: x.reshape(-1, size, *x.shape[1:]), batch)
        done = jax.lax.map(run, groups)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), done)

    if mesh is None:
        return share(batch)
    return jax.shard_map(share, mesh=mesh, in_specs=BATCH, out_specs=BATCH, check_vma=False)(batch)


def in_groups(
    run: Callable[[Any], Any], batch: Any, size: int | None, mesh: Mesh | None = None
) -> Any:
    """`by_groups`, or all at once where no size is given."""
    return run(batch) if size is None else by_groups(run, batch, size, mesh)


def control_scales(
    steps: int, scale: float | int, start: float | int, end: float | int
) -> Float[np.ndarray, " n"]:
    """The branch's scale at every step: `scale` while the step lies inside [start, end], else 0.

    Args:
        start, end: shares of the steps, 0 <= start < end <= 1.

    Raises:
        ValueError: another range, or a scale that is no finite number.

    Source: BrushNet's pipeline: step i of n is out if i / n < start or (i + 1) / n > end.
    """
    if not 0 <= start < end <= 1:
        raise ValueError(f"expected 0 <= control_start < control_end <= 1, got {start} and {end}")
    if not math.isfinite(scale):
        raise ValueError(f"expected a finite scale, got {scale}")
    inside = [i / steps >= start and (i + 1) / steps <= end for i in range(steps)]
    return np.where(inside, scale, 0.0).astype(np.float32)
