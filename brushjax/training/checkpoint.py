"""Saving and restoring a run, so that a kill at any moment leaves nothing half written."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from brushjax.distributed import is_main
from brushjax.files import ADVICE, WriteError
from brushjax.training.state import State

SPARE = 1 << 20  # bytes beside the arrays: names, shapes, the data's place


class Checkpoints:
    """The checkpoints of one run; saving goes on in the background while training continues.

    Several hosts write one checkpoint together; it gets its name once all have written their part,
    so that a reader never takes up a partial one.

    Args:
      folder: shared by all hosts.
      keep: how many of the newest stay.
      best: returns the step of one more that stays, the best so far; None for none.
    """

    def __init__(self, folder: Path, keep: int, best: Callable[[], int | None] = lambda: None):
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Retention(keep, best), enable_async_checkpointing=True
        )
        self._folder = folder.resolve()
        # Orbax logs a traceback of what it raises again afterwards, and `_explained` says.
        logging.getLogger("absl").addFilter(_is_no_echo)
        with self._explained():
            self._manager = ocp.CheckpointManager(self._folder, options=options)

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, data: dict[str, Any]) -> None:
        """Starts saving; the arrays are copied before this returns, so the next step may donate
        them. Does nothing if this step is saved already.

        Args:
          step: number of steps done.
          state: of the run; a pure dict, so that the files do not depend on Flax.
          data: where the data stands, as JSON; the same on every host.
        Raises: WriteError if there is no room, or this or the save before failed; the checkpoints
          that were whole before stay.
        """
        if self.latest() == step:
            return
        if is_main():
            self._check_room(state)
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        with self._explained():
            self._manager.save(step, args=args, force=True)

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

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises: WriteError if that failed.
        """
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and ends."""
        self.wait()
        self._manager.close()

    def _check_room(self, state: State) -> None:
        """Raises WriteError if a checkpoint has no room, before hundreds of writes fail."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + SPARE
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise WriteError(
                errno.ENOSPC,
                f"can't write a checkpoint to {self._folder}: it needs {needed / 1e6:.0f} MB, "
                f"{free / 1e6:.0f} MB are free; {ADVICE[errno.ENOSPC]}, and the run goes on from "
                "its newest checkpoint",
                str(self._folder),
            )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an error of the operating system, which Orbax hands on in words, into one line."""
        try:
            yield
        except (OSError, ValueError) as error:
            stated = re.search(r"os_error_code='(\d+)'", str(error))
            code = error.errno if isinstance(error, OSError) else stated and int(stated[1])
            if not code or isinstance(error, WriteError):
                raise
            cause, advice = os.strerror(code), ADVICE.get(code, "mend that and start again")
            raise WriteError(
                code,
                f"can't write a checkpoint to {self._folder}: {cause}; {advice}",
                str(self._folder),
            ) from error


def _is_no_echo(record: logging.LogRecord) -> bool:
    return "_SignalingThread" not in record.getMessage()


@dataclasses.dataclass(frozen=True)
class _Retention:
    """Orbax's PreservationPolicy: the newest checkpoints stay, and the best one."""

    keep: int
    best: Callable[[], int | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        stay = {*sorted(info.step for info in checkpoints)[-self.keep :], self.best()}
        return [info.step in stay for info in checkpoints]
