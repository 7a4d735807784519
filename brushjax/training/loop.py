"""The one training loop, for every objective."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax

from brushjax.distributed import Agreement, decided
from brushjax.lock import locked
from brushjax.training.batches import open_feed, to_devices
from brushjax.training.checkpoint import Checkpoints
from brushjax.training.lifecycle.publishing import Publisher, best_step, published
from brushjax.training.lifecycle.starting import check_encoder, claim, ready, same_frozen
from brushjax.training.lifecycle.stopping import Interruption
from brushjax.training.logging import RunLog
from brushjax.training.objectives.contract import split
from brushjax.training.plan import Plan, make_plan
from brushjax.training.recipe import Evaluator, TrainConfig
from brushjax.training.state import State, make_state
from brushjax.training.step import step_of
from brushjax.training.validation import Validation
from brushjax.training.watch import Profile
from brushjax.typing import Params

log = logging.getLogger(__name__)


def run(
    config: TrainConfig,
    workdir: Path,
    evaluators: Sequence[Evaluator] = (),
    profile: tuple[int, int] | None = None,
    extend: bool = False,
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
      extend: whether a run whose rate decays towards its end may get another one.
    Returns: the export folder, or None if a signal ended the run early, which is saved then.
    Raises:
      ConfigError: if workdir belongs to a run of another config or other frozen weights, or to one
        that is still going on;
        or if data, evaluators or their weights are not there, before the first step.
      FloatingPointError: if the loss or the gradient is not finite; names step and samples.
      EvaluationFailed: at the end, if an evaluator failed on the way.
    """
    plan = make_plan(config)
    with contextlib.ExitStack() as stack_of:
        enter = stack_of.enter_context
        interruption = enter(Interruption())
        enter(locked(workdir))
        claim(config, workdir, extend)
        encode = config.objective.encode
        judges = ready(config, evaluators, encode)
        validate = Validation(config, plan, encode) if config.validation else None
        checkpoints = Checkpoints(workdir / "checkpoints", config.keep, partial(best_step, workdir))
        enter(contextlib.closing(checkpoints))
        step = checkpoints.latest() or 0
        state, frozen, position = restore_or_init(config, plan, checkpoints)
        same_frozen(workdir, frozen, plan.mesh, step)
        feed, faults = open_feed(config, plan.mesh, frozen, encode, position, step)
        train_step = step_of(config, plan)
        unpublished = step == config.steps or decided(published(workdir) < step)
        run_log = enter(contextlib.closing(RunLog(config, workdir, step, faults, unpublished)))
        publish = Publisher(config, workdir, judges, run_log)
        tracing = enter(contextlib.closing(Profile(profile, workdir / "profile")))
        agreement = Agreement(plan.mesh)

        while True:  # first what is due after `step` steps, also where a kill left it undone
            stop, numbers = agreement.any(interruption.asked), {}
            if validate and not stop and is_due(config, step, config.validate_every):
                numbers = validate(state, frozen)
                run_log.report(step, numbers)
            judged = unpublished and is_due(config, step, config.export_every)
            publishing = not stop and (judged or publish.is_best(numbers))
            if step and (stop or publishing or is_due(config, step, config.checkpoint_every)):
                run_log.settle()  # raises before a state that is not finite could be saved
                checkpoints.save(step, state, feed.get_state() if feed else {})
            if stop:
                return None
            if publishing:
                checkpoints.wait()
                interruption.saved()
                publish(state, step, numbers, judged)
            if step == config.steps:
                return publish.end()

            with run_log.meter.waiting():
                batch = next(feed)
            arrays = to_devices(batch, plan.mesh)
            tracing.before(step + 1)
            with jax.transfer_guard("disallow"):
                state, metrics = train_step(state, frozen, arrays)
            step, unpublished = step + 1, True
            interruption.learnt()
            tracing.after(step, metrics)
            run_log.step(step, metrics, batch["id"])


def is_due(config: TrainConfig, step: int, every: int) -> bool:
    """Says whether what is done every so many steps, and at the end, is done after this one; with 0
    only at the end."""
    return step == config.steps or (every > 0 and step > 0 and step % every == 0)


def restore_or_init(
    config: TrainConfig, plan: Plan, checkpoints: Checkpoints
) -> tuple[State, Params, dict[str, Any] | None]:
    """Returns state and frozen parameters on their devices, and where the data stood."""
    step = checkpoints.latest()
    check_encoder(config)
    wanted = plan.wanted(trained=step is None)
    params = config.objective.load(jax.random.key(config.seed), wanted)
    if step is not None:
        log.info("continuing from the checkpoint of step %d", step)
        state, data = checkpoints.restore(step, plan.state, plan.places.state)
        return state, params, data
    trainable, frozen = split(params, config.objective.trains)
    start = jax.jit(
        lambda params: make_state(params, plan.optimizer, config.ema_decay > 0),
        out_shardings=plan.places.state,
        donate_argnums=0,
    )
    return start(trainable), frozen, None
