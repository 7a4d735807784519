"""The one training loop, for every objective."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from brushjax import config as configs
from brushjax.config import ConfigError
from brushjax.data.cached import encoder_of
from brushjax.distributed import barrier, is_main, place, whole_on_host
from brushjax.training.batches import fill_pool, share_of, stack, to_devices
from brushjax.training.checkpoint import Checkpoints, whole_folder
from brushjax.training.logging import RunLog
from brushjax.training.objectives.contract import Tokenize
from brushjax.training.plan import Plan, make_plan
from brushjax.training.recipe import FREE, Evaluator, TrainConfig
from brushjax.training.state import State, cast, export_parameters, make_state
from brushjax.training.step import step_of
from brushjax.training.stopping import Interruption
from brushjax.training.validation import Validation
from brushjax.training.watch import Profile
from brushjax.typing import Params

log = logging.getLogger(__name__)


def run(
    config: TrainConfig,
    workdir: Path,
    evaluators: Sequence[Evaluator] = (),
    profile: tuple[int, int] | None = None,
) -> Path | None:
    """Trains what the config says in `workdir`, from its newest checkpoint if there is one.

    A run that is killed at any moment and started again ends with the same parameters, bit for bit
    on the same devices. A run that has finished only exports and evaluates again. Several hosts
    call this with the same arguments and a workdir that they share.

    Args:
      config: the recipe.
      workdir: gets config.txt, metrics.jsonl, tensorboard/, checkpoints/ and export/.
      evaluators: run on the export, after those of the config.
      profile: first and last step to trace, into workdir/profile.
    Returns: the export folder, or None if a signal ended the run early, which is saved then.
    Raises:
      ConfigError: if workdir belongs to a run of another config.
      FloatingPointError: if the loss or the gradient is not finite; names step and samples.
    """
    claim(config, workdir)
    plan = make_plan(config)
    with contextlib.ExitStack() as stack_of:
        best = (config.best, config.best_is == "highest")
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep, *best)
        stack_of.enter_context(contextlib.closing(checkpoints))
        step = checkpoints.latest() or 0
        state, frozen, position = restore_or_init(config, plan, checkpoints)
        tokenize = config.objective.tokenizer()
        feed, faults = open_feed(config, plan, frozen, tokenize, position, step)
        validate = Validation(config, plan, tokenize) if config.validation else None
        train_step = step_of(config, plan)
        run_log = stack_of.enter_context(contextlib.closing(RunLog(config, workdir, step, faults)))
        tracing = stack_of.enter_context(contextlib.closing(Profile(profile, workdir / "profile")))
        interruption = stack_of.enter_context(Interruption(plan.mesh))

        numbers: dict[str, float] = {}
        while step < config.steps:
            with run_log.meter.waiting():
                batch = next(feed)
            arrays = to_devices(batch, plan.mesh)
            tracing.before(step + 1)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, frozen, arrays)
            step += 1
            tracing.after(step, metrics)
            run_log.step(step, metrics, batch["id"])

            stop, last, numbers = interruption.agreed(), step == config.steps, {}
            if validate and (last or is_due(step, config.validate_every)):
                numbers = validate(state, frozen)
                run_log.report(step, numbers)
            if stop or last or is_due(step, config.checkpoint_every):
                run_log.settle()  # raises before a state that is not finite could be saved
                checkpoints.save(step, state, feed.get_state(), numbers)
            if stop and not last:
                log.warning("stopped after step %d; the same command goes on from there", step)
                return None
            if not last and is_due(step, config.export_every):
                run_log.settle()
                publish(config, state, evaluators, step, workdir, run_log, numbers)

        return publish(config, state, evaluators, step, workdir, run_log, numbers)


def is_due(step: int, every: int) -> bool:
    """Says whether what is done every so many steps is done after this one; 0 is never."""
    return every > 0 and step % every == 0


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
    barrier("workdir read")
    if is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text(text)
        temporary.replace(path)
    barrier("workdir claimed")
    if not path.exists():
        raise ConfigError(f"expected a workdir that all hosts share; {path} is not on this one")


def restore_or_init(
    config: TrainConfig, plan: Plan, checkpoints: Checkpoints
) -> tuple[State, Params, dict[str, Any] | None]:
    """Returns state and frozen parameters on their devices, and where the data stood."""
    step = checkpoints.latest()
    # The whole models pass through the host's memory: an accelerator may hold a part of them only.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        trainable, frozen = config.objective.init(jax.random.key(config.seed))
        check_encoder(config, frozen)
        frozen = jax.device_get(cast(frozen, jnp.dtype(config.compute_dtype)))
    frozen = place(frozen, plan.frozen_layout)
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
    return start(place(jax.device_get(trainable), plan.places.state["params"])), frozen, None


def check_encoder(config: TrainConfig, frozen: Params) -> None:
    """Raises ConfigError if data bring latents that another autoencoder than the run's made."""
    for name in ("data", "validation"):
        made_by = encoder_of(getattr(config, name))
        if made_by and made_by != config.objective.encoder(frozen):
            raise ConfigError(
                f"the latents of {name} were made with another autoencoder or tokenizer than this "
                "run's base has; make them anew with python -m brushjax precompute, or train on "
                "their base"
            )


def open_feed(
    config: TrainConfig,
    plan: Plan,
    frozen: Params,
    tokenize: Tokenize,
    position: dict[str, Any] | None,
    step: int,
) -> tuple[Any, Callable[[], Mapping[str, int]]]:
    """Returns the iterator over this host's batches, where the checkpoint left it, and what counts
    the data's faults by cause. A run that has finished reads no data."""
    if step >= config.steps:
        return None, dict
    share, shard = share_of(config.batch_size, plan.mesh)
    if config.encode_once:
        source = config.data.source(tokenize)
        pool = fill_pool(config.objective, frozen, source, plan.mesh)
        batches = pool.batches(share, config.seed, shard)
    else:
        batches = config.data.batches(share, tokenize, shard=shard)
        source = getattr(batches, "samples", None)
    feed = iter(batches)
    if position is not None:
        feed.set_state(position)
    return feed, lambda: getattr(source, "faults", {})


def publish(
    config: TrainConfig,
    state: State,
    evaluators: Sequence[Evaluator],
    step: int,
    workdir: Path,
    run_log: RunLog,
    numbers: Mapping[str, float],
) -> Path:
    """Writes what was trained to workdir/export, which changes as a whole, and judges it.

    All hosts give their part of the parameters; the main one writes, evaluates, and keeps a copy
    in workdir/best if no export was better.

    Args:
      numbers: of the validation at this step.
    """
    folder = workdir / "export"
    trained = whole_on_host(export_parameters(state))
    if is_main():
        measured = config.objective.MEASURED
        batch: Any = {}
        if measured:
            source = config.data.source(config.objective.tokenizer())
            batch = stack(source, range(min(measured, len(source))))
        with whole_folder(folder) as new:
            config.objective.export(trained, new, batch)
        for evaluator in (*config.evaluators, *evaluators):
            judged = evaluator(step, folder, workdir)
            named = {f"eval/{name}": value for name, value in judged.items()}
            run_log.report(step, named)
            numbers = {**numbers, **named}
        run_log.show(step, workdir / "samples")
        if config.best in numbers:
            keep_best(config, numbers[config.best], step, workdir)
    run_log.meter.pause_over()
    barrier(f"published {step}")
    return folder


def keep_best(config: TrainConfig, number: float, step: int, workdir: Path) -> None:
    """Copies the export to workdir/best, with the number in best.json, if it is the best so far."""
    folder = workdir / "best"
    sign = 1 if config.best_is == "highest" else -1
    if (folder / "best.json").is_file():
        before = json.loads((folder / "best.json").read_text())
        if before["name"] == config.best and sign * before["value"] >= sign * number:
            return
    with whole_folder(folder) as new:
        shutil.copytree(workdir / "export", new, dirs_exist_ok=True)
        row = {"name": config.best, "value": float(number), "step": step}
        (new / "best.json").write_text(json.dumps(row) + "\n")
