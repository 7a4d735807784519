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
    with contextlib.ExitStack() as opened:
        run = _Run(config, workdir, evaluators, extend, opened)
        tracing = opened.enter_context(contextlib.closing(Profile(profile, workdir / "profile")))
        return run.to_its_end(tracing)


class _Run:
    """A run under way: all that it needs, and what it has come to after `step` steps."""

    def __init__(
        self,
        config: TrainConfig,
        workdir: Path,
        evaluators: Sequence[Evaluator],
        extend: bool,
        opened: contextlib.ExitStack,
    ):
        """Reads and opens everything; `opened` closes it in the end."""
        enter, encode = opened.enter_context, config.objective.encode
        self.config, self.plan = config, make_plan(config)
        self.interruption = enter(Interruption())
        enter(locked(workdir))
        claim(config, workdir, extend)
        judges = ready(config, evaluators, encode)
        self.validate = Validation(config, self.plan, encode) if config.validation else None
        saved = Checkpoints(workdir / "checkpoints", config.keep, partial(best_step, workdir))
        self.checkpoints = enter(contextlib.closing(saved))
        self.step = step = saved.latest() or 0
        self.state, self.frozen, position = restore_or_init(config, self.plan, saved)
        same_frozen(workdir, self.frozen, self.plan.mesh, step)
        self.feed, faults = open_feed(config, self.plan.mesh, self.frozen, encode, position, step)
        self.train_step = step_of(config, self.plan)
        self.unpublished = step == config.steps or decided(published(workdir) < step)
        run_log = RunLog(config, workdir, step, faults, self.unpublished)
        self.log = enter(contextlib.closing(run_log))
        self.publish = Publisher(config, workdir, judges, run_log)

    def to_its_end(self, tracing: Profile) -> Path | None:
        """Trains; returns the export folder, or None if a signal ended it early."""
        agreement = Agreement(self.plan.mesh)
        while True:
            stop = agreement.any(self.interruption.asked)
            self.do_what_is_due(stop)
            if stop:
                return None
            if self.step == self.config.steps:
                return self.publish.end()
            self.advance(tracing)

    def do_what_is_due(self, stop: bool) -> None:
        """Validates, saves and publishes, also what a kill left undone after this step."""
        config, step, numbers = self.config, self.step, {}
        if self.validate and not stop and is_due(config, step, config.validate_every):
            numbers = self.validate(self.state, self.frozen)
            self.log.report(step, numbers)
        judged = self.unpublished and is_due(config, step, config.export_every)
        publishing = not stop and (judged or self.publish.is_best(numbers))
        if step and (stop or publishing or is_due(config, step, config.checkpoint_every)):
            self.log.settle()  # raises before a state that is not finite could be saved
            self.checkpoints.save(step, self.state, self.feed.get_state() if self.feed else {})
        if publishing:
            self.checkpoints.wait()
            self.interruption.saved()
            self.publish(self.state, step, numbers, judged)

    def advance(self, tracing: Profile) -> None:
        """Takes one step."""
        with self.log.meter.waiting():
            batch = next(self.feed)
        arrays = to_devices(batch, self.plan.mesh)
        tracing.before(self.step + 1)
        with jax.transfer_guard("disallow"):
            self.state, metrics = self.train_step(self.state, self.frozen, arrays)
        self.step, self.unpublished = self.step + 1, True
        self.interruption.learnt()
        tracing.after(self.step, metrics)
        self.log.step(self.step, metrics, batch["id"])


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
