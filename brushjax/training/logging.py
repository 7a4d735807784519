"""The numbers of a run: a progress bar, JSON lines and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

WATCHED = ("loss", "gradient_norm")  # not finite in one of these: the run stops


class RunLog:
    """Shows and writes the numbers of a run, and stops it when they are no longer finite.

    After a resume the rows of steps that will be done again are dropped, so that no step stands
    there twice.

    Args:
      workdir: gets metrics.jsonl and tensorboard/.
      start: number of steps done when the run (re)starts.
      steps: of the whole run.
      batch_size: samples a step.
      every: steps between two rows, each of which holds means since the one before.
    """

    def __init__(self, workdir: Path, start: int, steps: int, batch_size: int, every: int):
        self._path = workdir / "metrics.jsonl"
        rows = [row for row in read_rows(self._path) if not _is_redone(row, start)]
        temporary = self._path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self._path)
        self._file = self._path.open("a", buffering=1)  # a line reaches the disk at once
        self._board = _summary_writer(workdir / "tensorboard", start)
        self._bar = tqdm(total=steps, initial=start, unit="step", disable=start >= steps)
        self._batch_size, self._every = batch_size, every
        self._pending: tuple[int, Mapping[str, jax.Array]] | None = None
        self._rows: list[dict[str, float]] = []
        self._since, self._rate = time.perf_counter(), "?"

    def step(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Takes the numbers of a step, and looks at those of the step before.

        So the device is never kept waiting.
        """
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Waits for the numbers of the last step.

        Raises: FloatingPointError if loss or gradient are not finite.
        """
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        numbers = {name: float(value) for name, value in jax.device_get(metrics).items()}
        bad = {name: numbers[name] for name in WATCHED if not math.isfinite(numbers[name])}
        if bad:
            raise FloatingPointError(
                f"step {step}: {bad}. Nothing was saved since the last checkpoint. Start a run "
                "with a lower learning rate or, in bfloat16, with compute_dtype float32."
            )
        self._rows.append(numbers)
        self._bar.set_postfix(loss=f"{numbers['loss']:.4f}", images_per_s=self._rate, refresh=False)
        self._bar.update()
        if step % self._every == 0:
            self._write_mean(step)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a row; numbers of a group are named `group/name`."""
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        for name, value in numbers.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def close(self) -> None:
        """Flushes and closes everything."""
        self._bar.close()
        self._file.close()
        self._board.close()

    def _write_mean(self, step: int) -> None:
        now = time.perf_counter()
        rate = len(self._rows) * self._batch_size / (now - self._since)
        means = {name: float(np.mean([row[name] for row in self._rows])) for name in self._rows[0]}
        self._rows, self._since, self._rate = [], now, f"{rate:.1f}"
        self.write(step, {**means, "images_per_second": rate})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def _is_redone(row: Mapping[str, Any], start: int) -> bool:
    """Says whether a run that goes on from step `start` will write this row again."""
    evaluated = any(name.startswith("eval/") for name in row)
    return row["step"] > start or (evaluated and row["step"] == start)


def _summary_writer(folder: Path, start: int) -> Any:
    """Opens TensorBoard's event file.

    tensorboardX imports torch where it is installed, only to name a type: a second and 200 MB of
    memory that a run in JAX has no use for. While it is imported, torch is declared absent.
    """
    loaded = "torch" in sys.modules
    if not loaded:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        from tensorboardX import SummaryWriter
    finally:
        if not loaded:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=start + 1, flush_secs=10)
