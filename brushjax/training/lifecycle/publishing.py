"""What a run gives out: its export, what evaluators say of that, and the best one so far."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brushjax.config import ConfigError
from brushjax.distributed import barrier, decided, is_main, whole_on_host
from brushjax.files import restored, whole_folder, write_json
from brushjax.training.batches import stack
from brushjax.training.logging import RunLog
from brushjax.training.recipe import Evaluator, TrainConfig
from brushjax.training.state import State, export_parameters

BEST = "best.json"  # in the folder best: name, value and step of its number
PUBLISHED = ".published.json"  # the last step that was exported and judged

log = logging.getLogger(__name__)


class EvaluationFailed(RuntimeError):
    """A run has finished, but not all that its evaluators should have said is known."""


class Publisher:
    """Exports a run's parameters to workdir/export, judges them, and keeps the best in
    workdir/best.

    An evaluator that fails costs the run nothing: its traceback is logged, and `end` raises.

    Args:
      evaluators: run in this order, by the main process.
    """

    def __init__(
        self, config: TrainConfig, workdir: Path, evaluators: Sequence[Evaluator], run_log: RunLog
    ):
        self._config, self._workdir, self._log = config, workdir, run_log
        self._evaluators = evaluators
        self._failures: list[str] = []

    def is_best(self, numbers: Mapping[str, float]) -> bool:
        """Says, the same on every host, whether validation's numbers are the best so far."""
        if self._config.best not in numbers:
            return False
        return decided(is_better(self._config, numbers[self._config.best], self._workdir))

    def __call__(
        self, state: State, step: int, numbers: Mapping[str, float], judged: bool = True
    ) -> None:
        """Writes the export, which changes as a whole.

        All hosts give their part of the parameters; the main one writes and evaluates.

        Args:
          numbers: of the validation at this step.
          judged: whether the evaluators are run.
        """
        trained = whole_on_host(export_parameters(state))
        if is_main():
            self._export(trained)
            if judged:
                numbers = {**numbers, **self._judge(step)}
            if self._config.best in numbers:
                keep_best(self._config, numbers[self._config.best], step, self._workdir)
            if judged:
                write_json(self._workdir / PUBLISHED, {"step": step})
        self._log.meter.pause_over()
        barrier(f"published {step}")

    def end(self) -> Path:
        """Returns the export folder.

        Raises: EvaluationFailed if an evaluator failed on the way.
        """
        folder = self._workdir / "export"
        if self._failures:
            raise EvaluationFailed(
                f"trained to the end and exported to {folder}, but {'; '.join(self._failures)}. "
                "The same command evaluates again; the tracebacks stand above"
            )
        return folder

    def _export(self, trained: Any) -> None:
        config, batch = self._config, {}
        if measured := config.objective.MEASURED:
            source = config.data.source(config.objective.encode)
            batch = stack(source, range(min(measured, len(source))))
        with whole_folder(self._workdir / "export") as new:
            config.objective.export(trained, new, batch)

    def _judge(self, step: int) -> dict[str, float]:
        """What the evaluators say, as eval/name."""
        numbers: dict[str, float] = {}
        failed = len(self._failures)
        for evaluator in self._evaluators:
            name = type(evaluator).__name__
            try:
                judged = evaluator(step, self._workdir / "export", self._workdir)
            except Exception as error:  # whatever it is: hours of training are worth more
                log.exception("the evaluator %s failed at step %d; the run goes on", name, step)
                self._failures.append(f"{name} failed at step {step}: {error}")
                continue
            named = {f"eval/{name}": value for name, value in judged.items()}
            self._log.report(step, named)
            numbers |= named
        self._log.show(step, self._workdir / "samples")
        best = self._config.best
        if best.startswith("eval/") and best not in numbers and failed == len(self._failures):
            known = ", ".join(sorted(numbers)) or "none"
            raise ConfigError(
                f"no evaluator gives the number of best = {best!r}; they give: {known}. All is "
                "saved: give one of these, and the run goes on"
            )
        return numbers


def keep_best(config: TrainConfig, number: float, step: int, workdir: Path) -> None:
    """Copies the export to workdir/best, with the number in best.json, if it is the best so far."""
    if not is_better(config, number, workdir):
        return
    with whole_folder(workdir / "best") as new:
        shutil.copytree(workdir / "export", new, dirs_exist_ok=True)
        write_json(new / BEST, {"name": config.best, "value": float(number), "step": step})


def is_better(config: TrainConfig, number: float, workdir: Path) -> bool:
    """Says whether a number is better than that of workdir/best; one that is not finite never is,
    and any is better than one that is not, or than another config's."""
    best = best_so_far(workdir)
    if not math.isfinite(number):
        return False
    if best.get("name") != config.best or not math.isfinite(best["value"]):
        return True
    sign = 1 if config.best_is == "highest" else -1
    return sign * number > sign * best["value"]


def best_so_far(workdir: Path) -> dict[str, Any]:
    """Returns name, value and step of the best export; nothing where there is none."""
    path = restored(workdir / "best") / BEST if is_main() else workdir / "best" / BEST
    return json.loads(path.read_text()) if path.is_file() else {}


def best_step(workdir: Path) -> int | None:
    """Returns the step whose checkpoint stays beside the newest, or None."""
    return best_so_far(workdir).get("step")


def published(workdir: Path) -> int:
    """Returns the last step whose export was judged, 0 for none; the same on every host."""
    path = workdir / PUBLISHED
    return json.loads(path.read_text())["step"] if path.is_file() else 0
