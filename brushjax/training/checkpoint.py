"""Saving and restoring a run, so that a kill at any moment leaves nothing half written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from brushjax.training.state import State


class Checkpoints:
    """The checkpoints of one run; saving goes on in the background while training continues.

    Several hosts write one checkpoint together; it gets its name once all have written their part,
    so that a reader never takes up a partial one.

    Args:
      folder: shared by all hosts.
      keep: how many of the newest stay.
      best: number by which one more stays, the best; empty for none.
      highest: whether a higher number is better.
    """

    def __init__(self, folder: Path, keep: int, best: str = "", highest: bool = False):
        measured = (lambda numbers: numbers[best]) if best else None
        options = ocp.CheckpointManagerOptions(
            best_fn=measured,  # makes Orbax store the number with the checkpoint
            preservation_policy=_Retention(keep, best, 1 if highest else -1),
            enable_async_checkpointing=True,
        )
        self._best = best
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def save(
        self, step: int, state: State, data: dict[str, Any], numbers: Mapping[str, float]
    ) -> None:
        """Starts saving; the arrays are copied before this returns, so the next step may donate
        them. Does nothing if this step is saved already.

        Args:
          step: number of steps done.
          state: of the run; a pure dict, so that the files do not depend on Flax.
          data: where the data stands, as JSON; the same on every host.
          numbers: measured at this step.
        """
        if self.latest() == step:
            return
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        metrics = {self._best: numbers[self._best]} if self._best in numbers else None
        self._manager.save(step, args=args, metrics=metrics, force=True)

    def restore(self, step: int, shapes: State, layout: State) -> tuple[State, dict[str, Any]]:
        """Reads a checkpoint straight into the shardings that this run wants, whatever it was saved
        from.

        Args:
          step: of `latest`.
          shapes: jax.ShapeDtypeStruct tree of the state.
          layout: shardings in the same tree.
        """
        target = jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            shapes,
            layout,
        )
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), data=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=args)
        return restored["state"], restored["data"]

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


@dataclasses.dataclass(frozen=True)
class _Retention:
    """Orbax's PreservationPolicy: the newest checkpoints stay, and the best of those measured."""

    keep: int
    best: str
    sign: int

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        stay = set(sorted(info.step for info in checkpoints)[-self.keep :])
        measured = [info for info in checkpoints if info.metrics and self.best in info.metrics]
        if measured:
            stay.add(max(measured, key=lambda info: self.sign * info.metrics[self.best]).step)
        return [info.step in stay for info in checkpoints]


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder that takes the place of `folder` once the block ends without an
    error.

    A reader sees the old content or the new one, apart from the instant between two renames.
    """
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    for stale in (new, old):
        shutil.rmtree(stale, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)
