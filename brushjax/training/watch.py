"""How fast a run is, and what its devices hold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "V100": 125e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}
"""Published dense bfloat16 (V100: float16) FLOP/s by part of the device's name; the first that is
found counts."""
GIB = 2**30


class Meter:
    """Measures the steps between two rows of the log.

    Args:
      batch_size: samples a step, over all devices.
      flops: returns the useful FLOPs of a step over all devices; asked only where the device's peak
        is known.
    """

    def __init__(self, batch_size: int, flops: Callable[[], float]):
        self._batch_size = batch_size
        self._peak = peak_of(jax.devices()[0].device_kind)
        self._flops = flops() if self._peak else None
        self._seconds: list[float] = []
        self._waited = 0.0
        self._last = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def pause_over(self) -> None:
        """To be called after what is no step, such as an evaluation: the clock starts anew."""
        self._last = time.perf_counter()

    def step_done(self) -> None:
        """To be called when the results of a step are there."""
        now = time.perf_counter()
        self._seconds.append(now - self._last)
        self._last = now

    def numbers(self) -> dict[str, float]:
        """Returns the figures since the last call.

        images_per_second, also per device; the median and 99th percentile of a step's seconds; the
        share of time in which the loop waited for data; where they are known, model FLOP
        utilisation (useful FLOPs / seconds / peak) and the fullest moment of a device's memory.
        """
        seconds = np.array(self._seconds)
        rate = len(seconds) * self._batch_size / seconds.sum()
        numbers = {
            "images_per_second": rate,
            "images_per_second_per_device": rate / jax.device_count(),
            "step_seconds_p50": float(np.percentile(seconds, 50)),
            "step_seconds_p99": float(np.percentile(seconds, 99)),
            "data_wait_share": min(1.0, self._waited / seconds.sum()),
        }
        if self._flops and self._peak:
            done = self._flops * len(seconds) / seconds.sum()
            numbers["mfu"] = done / (self._peak * jax.device_count())
        memory = jax.local_devices()[0].memory_stats()
        if memory and "peak_bytes_in_use" in memory:
            numbers["memory_peak_gib"] = memory["peak_bytes_in_use"] / GIB
        self._seconds, self._waited = [], 0.0
        return {name: float(value) for name, value in numbers.items()}


def peak_of(device_kind: str) -> float | None:
    """Returns a device's published bfloat16 FLOP/s, None where it isn't in `PEAKS`."""
    return next((peak for name, peak in PEAKS.items() if name in device_kind), None)


class Profile:
    """Traces some steps of a run, for TensorBoard's profiler or Perfetto.

    Args:
      steps: first and last step to trace, or None.
      folder: gets the trace, a subfolder for each host.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path):
        self._first, self._last = steps or (0, 0)
        self._folder = folder
        self._on = False

    def before(self, step: int) -> None:
        """To be called before a step is started."""
        if self._first <= step <= self._last and not self._on:
            jax.profiler.start_trace(str(self._folder))
            self._on = True

    def after(self, step: int, results: Any) -> None:
        """To be called after a step was started."""
        if self._on and step >= self._last:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends the trace, if there is one."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
