"""Saving and restoring a run, so that a kill at any moment leaves nothing half written."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from brushjax.training.state import State


class Checkpoints:
    """The checkpoints of one run; saving goes on in the background while training continues."""

    def __init__(self, folder: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(folder.resolve(), options=options)

    def latest(self) -> int | None:
        """Returns the newest complete step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: State, data: dict[str, Any]) -> None:
        """Starts saving; the arrays are copied before this returns, so the next step may donate
        them.

        Args:
          step: number of steps done.
          state: of the run; a pure dict, so that the files do not depend on Flax.
          data: where the data stands, as JSON.
        """
        args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
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

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


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
