"""The one training loop, for every objective."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from brushjax import config as configs
from brushjax.config import ConfigError
from brushjax.training.batches import fill_pool, stack, to_devices
from brushjax.training.checkpoint import Checkpoints, whole_folder
from brushjax.training.logging import RunLog
from brushjax.training.objectives import Tokenize
from brushjax.training.plan import Plan, make_plan
from brushjax.training.recipe import FREE, Evaluator, Source, TrainConfig
from brushjax.training.state import State, cast, export_parameters, make_state
from brushjax.training.step import step_of
from brushjax.typing import Params

MEASURED = 64  # samples that an export may measure things on

log = logging.getLogger(__name__)


def run(config: TrainConfig, workdir: Path, evaluators: Sequence[Evaluator] = ()) -> Path:
    """Trains what the config says in `workdir`, from its newest checkpoint if there is one.

    A run that is killed at any moment and started again ends with the same parameters, bit for bit
    on one device. A run that has finished only exports and evaluates again.

    Args:
      config: the recipe.
      workdir: gets config.txt, metrics.jsonl, tensorboard/, checkpoints/ and export/.
      evaluators: run on the export, after those of the config.
    Returns: the export folder.
    Raises:
      ConfigError: if workdir belongs to a run of another config.
      FloatingPointError: if the loss or the gradient is not finite; names the step.
    """
    claim(config, workdir)
    plan = make_plan(config)
    with contextlib.closing(Checkpoints(workdir / "checkpoints", config.keep)) as checkpoints:
        step = checkpoints.latest() or 0
        state, frozen, position = restore_or_init(config, plan, checkpoints)
        tokenize = config.objective.tokenizer()
        source = config.data.source(tokenize)
        train_step = step_of(config, plan)
        feed = None
        if step < config.steps:
            feed = open_feed(config, frozen, source, tokenize, position)
        run_log = RunLog(workdir, step, config.steps, config.batch_size, config.log_every)

        with contextlib.closing(run_log):
            while feed and step < config.steps:
                batch = to_devices(next(feed), plan.mesh)
                with jax.transfer_guard("disallow"):
                    state, metrics = train_step(state, frozen, batch)
                step += 1
                run_log.step(step, metrics)
                if step % config.checkpoint_every == 0 or step == config.steps:
                    run_log.settle()  # raises before a state that is not finite could be saved
                    checkpoints.save(step, state, feed.get_state())
                if config.export_every and step % config.export_every == 0 and step < config.steps:
                    run_log.settle()
                    export(config, state, frozen, source, workdir)
                    evaluate(config, evaluators, step, workdir, run_log)

            folder = export(config, state, frozen, source, workdir)
            evaluate(config, evaluators, step, workdir, run_log)
    return folder


def claim(config: TrainConfig, workdir: Path) -> None:
    """Writes the config into a new workdir, or checks that a used one belongs to the same run."""
    path, text = workdir / "config.txt", configs.dump(config)
    if path.exists():
        changed = configs.differences(path.read_text(), text, FREE)
        if changed:
            raise ConfigError(
                f"{workdir} holds a run of another config; it differs in\n  "
                + "\n  ".join(changed)
                + "\nGive another --workdir, or the config that started this run."
            )
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.replace(path)


def restore_or_init(
    config: TrainConfig, plan: Plan, checkpoints: Checkpoints
) -> tuple[State, Params, dict[str, Any] | None]:
    """Returns state and frozen parameters on their devices, and where the data stood."""
    step = checkpoints.latest()
    trainable, frozen = config.objective.init(jax.random.key(config.seed))
    frozen = jax.device_put(cast(frozen, jnp.dtype(config.compute_dtype)), plan.frozen_layout)
    if step is not None:
        del trainable
        log.info("continuing from the checkpoint of step %d", step)
        state, data = checkpoints.restore(step, plan.state, plan.places.state)
        return state, frozen, data
    start = jax.jit(
        lambda params: make_state(params, plan.optimizer, config.ema_decay > 0),
        out_shardings=plan.places.state,
        donate_argnums=0,
    )
    return start(jax.device_put(trainable, plan.places.state["params"])), frozen, None


def open_feed(
    config: TrainConfig,
    frozen: Params,
    source: Source,
    tokenize: Tokenize,
    position: dict[str, Any] | None,
) -> Any:
    """Returns the iterator over this host's batches, where the checkpoint left it."""
    shard = (jax.process_index(), jax.process_count())
    share = config.batch_size // shard[1]
    if config.encode_once:
        pool = fill_pool(config.objective, frozen, source)
        feed = iter(pool.batches(share, config.seed, shard))
    else:
        feed = iter(config.data.batches(share, tokenize, shard=shard))
    if position is not None:
        feed.set_state(position)
    return feed


def export(
    config: TrainConfig, state: State, frozen: Params, source: Source, workdir: Path
) -> Path:
    """Writes the trained models to workdir/export, which appears or changes as a whole."""
    folder = workdir / "export"
    with whole_folder(folder) as new:
        config.objective.export(
            export_parameters(state), frozen, new, stack(source, range(min(MEASURED, len(source))))
        )
    return folder


def evaluate(
    config: TrainConfig, evaluators: Sequence[Evaluator], step: int, workdir: Path, run_log: RunLog
) -> None:
    """Runs every evaluator on the export and logs its numbers."""
    for evaluator in (*config.evaluators, *evaluators):
        numbers = evaluator(step, workdir / "export", workdir)
        run_log.write(step, {f"eval/{name}": value for name, value in numbers.items()})
