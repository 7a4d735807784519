"""The numbers of a run: a progress bar, JSON lines and TensorBoard."""

from __future__ import annotations

import json
import logging
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from brushjax import config as configs
from brushjax.config import ConfigError
from brushjax.distributed import is_main
from brushjax.files import write_text
from brushjax.progress import progress_bar
from brushjax.training.objectives.contract import Mean
from brushjax.training.optimizers import learning_rate
from brushjax.training.recipe import TrainConfig
from brushjax.training.scale.flops import useful_flops
from brushjax.training.watch import Meter

WATCHED = ("loss", "gradient_norm")  # not finite in one of these: the run stops or skips the step
CARDS = ("train", "validation", "eval", "faults", "samples")  # their order in TensorBoard
PATIENCE = 10  # steps in a row that may be skipped before the run stops after all

log = logging.getLogger(__name__)


class RunLog:
    """Shows and writes the numbers of a run, and stops it when they are no longer finite.

    Every process has one, since all must stop together; the main one writes. After a resume the
    rows of steps that will be done again are dropped, so that no step stands there twice.

    Args:
      config: of the run.
      workdir: gets metrics.jsonl and tensorboard/.
      start: number of steps done when the run (re)starts.
      faults: returns the data's faults so far, by cause.
      judged_again: whether the evaluators will run again at step `start`.
    """

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        start: int,
        faults: Callable[[], Mapping[str, int]] = dict,
        judged_again: bool = False,
    ):
        self._config, self._faults = config, faults
        self.meter = Meter(config.batch_size, lambda: useful_flops(config))
        self._writers = _Writers(config, workdir, start, judged_again) if is_main() else None
        self._bar = progress_bar(
            what="compiling, which takes a minute or more",
            total=config.steps,
            initial=start,
            unit="step",
            shown=start < config.steps and is_main(),
        )
        self._pending: tuple[int, Mapping[str, Any], Any] | None = None
        self._rows: list[dict[str, Any]] = []
        self._learning_rate = learning_rate(config.optimizer, config.steps)
        self._compiled = False
        self._skipped = self._in_a_row = 0
        self._rate = "?"

    def step(self, step: int, metrics: Mapping[str, Any], ids: np.ndarray) -> None:
        """Takes the numbers of a step, and looks at those of the step before.

        So the device is never kept waiting.

        Args:
          ids: of this host's samples.
        """
        self.settle()
        self._pending = (step, metrics, ids)

    def settle(self) -> None:
        """Waits for the numbers of the last step.

        Raises: FloatingPointError if loss or gradient are not finite, and the config does not say
          to skip such a step, or ten in a row were skipped.
        """
        if self._pending is None:
            return
        step, metrics, ids = self._pending
        self._pending = None
        numbers = jax.device_get(dict(metrics))
        self.meter.step_done()
        if not self._is_bad(step, numbers, ids):
            self._rows.append(numbers)
            postfix = {"loss": f"{float(numbers['loss']):.4f}", "images_per_s": self._rate}
            self._bar.set_postfix(postfix, refresh=False)
        if not self._compiled:  # the first step, most of whose time was the compiler's
            self._compiled = True
            self._bar.set_description(refresh=False)
            self._bar.unpause()
        self._bar.update()
        if step % self._config.log_every == 0:
            self._write_mean(step)

    def report(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds a row of what was measured beside the steps; the names are `group/name`."""
        if self._writers:
            self._writers.write(step, numbers)
        self.meter.pause_over()

    def show(self, step: int, folder: Path) -> None:
        """Shows the pictures that evaluators left in a folder."""
        if self._writers:
            for path in sorted(folder.glob("*.png")):
                self._writers.show(step, path)

    def close(self) -> None:
        """Flushes and closes everything."""
        self._bar.close()
        if self._writers:
            self._writers.close()

    def _is_bad(self, step: int, numbers: Mapping[str, Any], ids: np.ndarray) -> bool:
        bad = {name: float(numbers[name]) for name in WATCHED if not np.isfinite(numbers[name])}
        self._in_a_row = self._in_a_row + 1 if bad else 0
        if not bad:
            return False
        found = f"step {step}: {bad}, samples {np.asarray(ids).tolist()}"
        found += f" on host {jax.process_index()}" if jax.process_count() > 1 else ""
        if self._config.nonfinite == "skip" and self._in_a_row <= PATIENCE:
            log.warning("%s; left out", found)
            self._skipped += 1
            return True
        raise FloatingPointError(
            f"{found}. Nothing was saved since the last checkpoint. Look at these samples; start "
            "a run with a lower learning rate or, in bfloat16, with compute_dtype float32; or set "
            f'nonfinite "skip" to leave such steps out (up to {PATIENCE} in a row).'
        )

    def _write_mean(self, step: int) -> None:
        numbers = {**means(self._rows), **self.meter.numbers()}
        numbers["learning_rate"] = float(
            np.asarray(self._learning_rate(step - 1))
        )  # of the step just done
        if self._skipped:
            numbers["skipped_steps"] = self._skipped
        numbers |= {f"faults/{cause}": count for cause, count in self._faults().items() if count}
        self._rate = f"{numbers['images_per_second']:.1f}"
        self._rows = []
        if self._writers:
            self._writers.write(step, numbers)


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns the means of the numbers of steps, each `Mean` over all that it counted; one with
    parts becomes name_1, name_2 ... (left out where nothing was counted)."""
    result = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        if isinstance(values[0], Mean):
            totals = np.array([value.total for value in values], np.float64).sum(axis=0)
            weights = np.array([value.weight for value in values], np.float64).sum(axis=0)
            for part in np.ndindex(np.shape(weights)):
                if weights[part]:
                    named = name + "".join(f"_{n + 1}" for n in part)
                    result[named] = float(totals[part] / weights[part])
        else:
            result[name] = float(np.mean(values, dtype=np.float64))
    return result


class _Writers:
    """JSON lines, TensorBoard and, if the config names a project, Weights & Biases."""

    def __init__(self, config: TrainConfig, workdir: Path, start: int, judged_again: bool):
        self._wandb = _wandb_run(config, workdir) if config.wandb else None
        path = workdir / "metrics.jsonl"
        rows = [row for row in read_rows(path) if not _is_redone(row, start, judged_again)]
        write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = path.open("a", buffering=1)  # a line reaches the disk at once
        self._board = _summary_writer(workdir / "tensorboard", start)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        named = {name if "/" in name else f"train/{name}": value for name, value in numbers.items()}
        for name, value in named.items():
            self._board.add_scalar(_card(name), value, step)
        if self._wandb:
            self._wandb.log(named, step=step)

    def show(self, step: int, path: Path) -> None:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"))
        self._board.add_image(_card(f"samples/{path.stem}"), pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._wandb:
            self._wandb.finish()


def _card(name: str) -> str:
    """A name as TensorBoard gets it, which sorts groups by their letters: the loss comes first."""
    group, _, rest = name.partition("/")
    return f"{CARDS.index(group) + 1} {group}/{rest}" if group in CARDS else name


def _wandb_run(config: TrainConfig, workdir: Path) -> Any:
    """Opens the run in Weights & Biases; the same workdir goes on in the same run there."""
    try:
        import wandb  # pyright: ignore[reportMissingImports] - optional
    except ImportError as error:
        raise ConfigError(
            f"expected the package wandb, since wandb = {config.wandb!r}; pip install wandb, or "
            "leave the field empty"
        ) from error
    return wandb.init(
        project=config.wandb,
        name=workdir.name,
        id=f"{config.name}-{zlib.crc32(str(workdir.resolve()).encode()):08x}",
        resume="allow",
        config=dict(line.split(" = ", 1) for line in configs.dump(config).splitlines()),
    )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a metrics.jsonl; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def _is_redone(row: Mapping[str, Any], start: int, again: bool) -> bool:
    """Says whether a run that goes on from step `start` will write this row again."""
    groups = ("validation/", "eval/") if again else ("validation/",)
    measured = any(name.startswith(groups) for name in row)
    return row["step"] > start or (measured and row["step"] == start)


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
