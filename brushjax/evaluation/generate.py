"""The generating stage: every planned unit once, in batches of one size (one compilation)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.evaluation.units import Ledger, Sample, Unit

Fill = Callable[[Sequence[Sample]], UInt8[np.ndarray, "B H W 3"]]
"""Turns samples into raw (unblended) pictures, each depending on its own sample alone."""


def generate(
    units: Sequence[Unit],
    fills: Mapping[str, Fill],
    settings: Mapping[str, Mapping[str, Any]],
    ledger: Ledger,
    batch_size: int,
    progress: bool = True,
) -> list[str]:
    """Generate what the ledger lacks and return the key of every unit, in order.

    Args:
        fills: what makes the pictures, by method.
        settings: what a method's pictures depend on besides the sample, by method (JSON-able).
        batch_size: the last batch of a method is padded with copies, which are thrown away.

    Raises:
        ValueError: two units with the same key, or a unit of an unknown method.
    """
    if unknown := {unit.method for unit in units} - set(fills):
        raise ValueError(f"expected units of the methods {sorted(fills)}, got {sorted(unknown)}")
    keys = [unit.key(settings[unit.method]) for unit in units]
    if len(set(keys)) < len(keys):
        raise ValueError(f"expected {len(keys)} different units, got {len(set(keys))}")
    missing = [(key, unit) for key, unit in zip(keys, units) if key not in ledger]
    with _progress(len(units), len(units) - len(missing), progress) as bar:
        for method in dict.fromkeys(unit.method for _, unit in missing):
            mine = [(key, unit) for key, unit in missing if unit.method == method]
            for start in range(0, len(mine), batch_size):
                batch = mine[start : start + batch_size]
                bar.set_postfix_str(method)
                pictures, seconds = _fill(fills[method], [u.sample for _, u in batch], batch_size)
                ledger.add(batch, pictures, seconds)
                bar.update(len(batch))
    return keys


class Pictures:
    """The generated pictures of a part and a method, in the order of the plan."""

    def __init__(self, ledger: Ledger, units: Sequence[Unit], keys: Sequence[str]):
        self._ledger, self._units, self._keys = ledger, units, keys

    def samples(self, part: str, method: str) -> list[Sample]:
        """The samples that `of` shows."""
        return [unit.sample for unit in self._units if (unit.part, unit.method) == (part, method)]

    def of(self, part: str, method: str) -> UInt8[np.ndarray, "n H W 3"]:
        """All pictures of a part and method, which must be of one size."""
        return np.stack([self._ledger.picture(key) for key in self._chosen(part, method)])

    def seconds(self, method: str) -> float:
        """Median seconds per picture of a method, on which the compiling batch counts little."""
        rows = [self._ledger[key] for key in self._keys]
        return float(np.median([row["seconds"] for row in rows if row["method"] == method]))

    def _chosen(self, part: str, method: str) -> list[str]:
        pairs = zip(self._keys, self._units)
        return [key for key, unit in pairs if (unit.part, unit.method) == (part, method)]


def _fill(
    fill: Fill, samples: Sequence[Sample], batch_size: int
) -> tuple[UInt8[np.ndarray, "B H W 3"], float]:
    """The pictures of at most `batch_size` samples, and the seconds for each."""
    padded = [*samples, *[samples[-1]] * (batch_size - len(samples))]
    start = time.perf_counter()
    pictures = np.asarray(fill(padded))
    seconds = (time.perf_counter() - start) / len(samples)
    expected = (batch_size, *samples[0].image.shape)
    if pictures.shape != expected or pictures.dtype != np.uint8:
        raise ValueError(
            f"expected uint8 pictures {expected}, got {pictures.dtype} {pictures.shape}"
        )
    return pictures[: len(samples)], seconds


def _progress(total: int, done: int, shown: bool):
    from tqdm import tqdm

    return tqdm(total=total, initial=done, desc="inpainting", unit="picture", disable=not shown)
