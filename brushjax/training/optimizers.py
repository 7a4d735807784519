"""The optimizer of every recipe: AdamW with warm-up, decay and clipping by global norm."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Literal

import jax
import optax

from brushjax.config import ConfigError
from brushjax.sharding import path_name
from brushjax.typing import Params


@dataclasses.dataclass(frozen=True)
class Group:
    """Settings of the parameters whose path a regex matches, where they differ from the others'."""

    path: str
    """Regex of whole paths, such as `.*\\.lora_[ab]`."""
    learning_rate: float | None = None
    """Peak; None is the run's."""
    weight_decay: float | None = None
    """None is the run's."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and the course of its learning rate."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps of linear rise from zero."""
    decay: Literal["constant", "cosine"] = "constant"
    """What follows the warm-up."""
    final_fraction: float = 0.0
    """Share of the peak that the cosine ends at."""
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    """Decoupled, on every parameter, as torch's AdamW does by default."""
    clip_norm: float = 1.0
    """Largest global gradient norm, over all groups; 0 does not clip."""
    groups: tuple[Group, ...] = ()
    """Parameters with settings of their own; the first group that matches decides."""

    @property
    def ends_with_the_run(self) -> bool:
        """Whether the rate at a step depends on how long the run is."""
        return self.decay != "constant"


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step; the decay ends at `steps`.

    Raises: ConfigError if the warm-up is longer than the run.
    """
    if config.warmup_steps > steps:
        raise ConfigError(
            f"expected warmup_steps <= steps; got {config.warmup_steps} > {steps}: give "
            "--optimizer.warmup_steps too"
        )
    peak, rest = config.learning_rate, max(steps - config.warmup_steps, 1)
    if config.decay == "cosine":
        after = optax.cosine_decay_schedule(peak, rest, alpha=config.final_fraction)
    else:
        after = optax.constant_schedule(peak)
    if not config.warmup_steps:
        return after
    # Step 0 already learns at peak / warmup_steps: starting from zero would waste it.
    rise = optax.linear_schedule(peak / config.warmup_steps, peak, max(config.warmup_steps - 1, 1))
    return optax.join_schedules([rise, after], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Builds the optax chain of a config for a run of `steps` steps."""
    clip = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    if not config.groups:
        return optax.chain(*clip, _adamw(config, steps))
    every = (*config.groups, Group(".*"))
    chains: dict[Any, Any] = {
        str(n): _adamw(_of_group(config, group), steps) for n, group in enumerate(every)
    }

    def group_of(path: Any, leaf: Any) -> str:
        del leaf
        name = path_name(path)
        return next(str(n) for n, group in enumerate(every) if re.fullmatch(group.path, name))

    def groups_of(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(group_of, params)

    return optax.chain(*clip, optax.multi_transform(chains, groups_of))


def _of_group(config: OptimizerConfig, group: Group) -> OptimizerConfig:
    own = {"learning_rate": group.learning_rate, "weight_decay": group.weight_decay}
    return dataclasses.replace(config, **{k: v for k, v in own.items() if v is not None})


def _adamw(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    return optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.epsilon,
        weight_decay=config.weight_decay,
    )
