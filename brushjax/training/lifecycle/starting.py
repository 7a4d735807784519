"""What is made sure before the first step: whose workdir it is, and that everything is there."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brushjax import config as configs
from brushjax import identity
from brushjax.config import ConfigError
from brushjax.data.cached import encoder_of
from brushjax.data.schema import Encode
from brushjax.distributed import barrier, is_main
from brushjax.files import write_json, write_text
from brushjax.training.recipe import FREE, Evaluator, TrainConfig
from brushjax.typing import Params

LOGS = (".log", ".out", ".err")  # what launchers write into a workdir beforehand

FROZEN = ".frozen.json"  # what the frozen weights were known by at the first step

SHOWN = 3  # names of what is in the way

log = logging.getLogger(__name__)


def claim(config: TrainConfig, workdir: Path, extend: bool = False) -> None:
    """Writes the config into a new workdir, or checks that a used one belongs to the same run.

    A workdir without a saved step is free for another run. A run may get longer, or end
    earlier, where the rate does not depend on its length.

    Args:
      extend: whether it may get longer although the rate does.
    Raises: ConfigError if it belongs to another run, or the folder holds what is no run's.
    """
    path, text, saved = workdir / "config.txt", configs.dump(config), newest(workdir)
    if path.is_file() and saved:
        changed = configs.differences(path.read_text(), text, free_fields(config))
        lengthened = [line for line in changed if line.startswith("steps: ")]
        if config.steps >= saved and (extend or not config.optimizer.ends_with_the_run):
            changed = [line for line in changed if line not in lengthened]
        if changed:
            raise ConfigError(_refusal(config, workdir, changed, lengthened, saved))
    elif not path.is_file() and (foreign := _foreign(workdir)):
        more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
        raise ConfigError(
            f"{workdir} holds {', '.join(foreign[:SHOWN])}{more}, but is the workdir of no run (it "
            "has no config.txt). Give a new or an empty folder"
        )
    barrier("workdir read")
    if is_main():
        write_text(path, text)
    barrier("workdir claimed")
    if not path.exists():
        raise ConfigError(f"expected a workdir that all hosts share; {path} is not on this one")


def _foreign(workdir: Path) -> list[str]:
    """Returns names of what lies in a folder, without hidden files and logs of launchers."""
    names = sorted(path.name for path in workdir.glob("*"))
    return [name for name in names if name[0] != "." and Path(name).suffix not in LOGS]


def newest(workdir: Path) -> int:
    """Returns the newest step that a run has saved, 0 where there is none."""
    steps = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()]
    return max(steps, default=0)


def free_fields(config: TrainConfig) -> tuple[str, ...]:
    """Names of the fields that may change between two starts of a run."""
    return (*FREE, *(f"data.{name}" for name in getattr(type(config.data), "FREE", ())))


def _refusal(
    config: TrainConfig, workdir: Path, changed: list[str], lengthened: list[str], saved: int
) -> str:
    lines = [
        f"{workdir} holds a run of another config; it differs in",
        *(f"  {c}" for c in changed),
    ]
    if changed == lengthened and config.steps < saved:
        lines.append(f"It has done {saved} steps already.")
    elif changed == lengthened:
        lines.append(
            "Its learning rate decays towards the end, so a longer run would have learnt otherwise "
            "from the start. --extend goes on all the same, at the rates of the longer decay."
        )
        if hasattr(config.objective, "branch"):
            lines.append(
                "Or train on from its branch, with new moments: "
                f"--objective.branch {workdir / 'export'} --workdir {workdir}-longer"
            )
    lines.append("Give another --workdir, or the config that started this run.")
    return "\n".join(lines)


def ready(config: TrainConfig, evaluators: Sequence[Evaluator], encode: Encode) -> list[Evaluator]:
    """Opens the data, and returns the evaluators as they are for this run, each of them checked.

    Raises: ConfigError, or what the data raise, if something is not there.
    """
    for name, data in (("data", config.data), ("validation", config.validation_data)):
        if data is not None:
            source = data.source(encode)
            if is_main() and hasattr(source, "found"):
                log.info("%s: %s", name, source.found())
    every: list[Any] = [*config.evaluators, *evaluators]
    if config.best.startswith("eval/") and not every:
        raise ConfigError(f"best = {config.best!r} needs an evaluator that gives this number")
    if not is_main():
        return every
    return [one.for_run(config) if hasattr(one, "for_run") else one for one in every]


def same_frozen(workdir: Path, frozen: Params, mesh: Mesh, step: int) -> None:
    """Makes sure that a run goes on with the frozen weights it began with, which another file under
    the same name would change without a word; they are known by the first values of each array.

    Raises: ConfigError if they are others.
    """
    first = jax.jit(
        partial(jax.tree.map, _few),
        out_shardings=NamedSharding(mesh, PartitionSpec()),
    )(frozen)
    path, known = workdir / FROZEN, identity.arrays(first)
    before = json.loads(path.read_text())["first values"] if step and path.is_file() else known
    if before != known:
        raise ConfigError(
            f"expected the frozen weights that the run in {workdir} began with; its base now holds "
            "others under the same name. Give back the old files, or train in another --workdir"
        )
    barrier("frozen weights read")
    if is_main():
        write_json(path, {"first values": known})


def _few(leaf: jax.Array) -> jax.Array:
    return leaf[(*(slice(1),) * (leaf.ndim - 1), slice(16))] if leaf.ndim else leaf


def check_encoder(config: TrainConfig) -> None:
    """Raises ConfigError if data bring latents that another autoencoder than the run's made."""
    for name in ("data", "validation"):
        made_by = encoder_of(getattr(config, name))
        if made_by and made_by != config.objective.encoder():
            raise ConfigError(
                f"the latents of {name} were made with another autoencoder or tokenizer than this "
                "run's base has; make them anew with python -m brushjax precompute, or train on "
                "their base"
            )
