"""What the sampling loop calls: UNet and branch under guidance, with nothing computed twice.

The conditions of guidance, of each sample next to each other, share what does not depend on the
text. The layers see to that by one rule (`brushjax.nn.batch`): a batch that serves all conditions
stays small until it meets one that does not. So the branch, whose maps serve all of them, runs
once; the UNet runs once up to its first text attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brushjax.diffusion.guidance import guided
from brushjax.inference.engine.options import EditInputs, EditOptions
from brushjax.models.brushnet import BrushNet
from brushjax.models.unet import UNet
from brushjax.nn import repeated
from brushjax.typing import AddedCondition, Residuals


class Predictor:
    """The guided prediction of one edit, inside its compiled program.

    Attributes:
        per_step: what the loop slices for every step and hands to the call.
        memory: what the loop carries from step to step; None where steps reuse nothing.
    """

    def __init__(
        self,
        unet: UNet,
        branch: BrushNet,
        condition: Float[Array, "_B h w E"],
        inputs: EditInputs,
        timesteps: Float[Array, " n"],
        options: EditOptions,
    ):
        """Computes ahead what all steps share.

        Args:
            condition: of the branch; a larger batch where each condition of guidance has its own.
            timesteps: of all steps.
        """
        self._unet, self._branch, self._condition = unet, branch, condition
        self._options, self._save = options, options.savings
        self._dtype = condition.dtype
        self._count = len(inputs.conditions)
        contexts = [one.context.astype(self._dtype) for one in inputs.conditions]
        self._batch, last = len(contexts[-1]), inputs.conditions[-1].added
        self._context = side_by_side(*contexts)  # [nB, L, D] for n conditions
        every = [one.added for one in inputs.conditions]
        shared = self._count == 1 or None in every
        self._added = last if shared else jax.tree.map(side_by_side, *every)
        self._branch_added = last if options.guess_mode else self._added
        if self._save.text_once:
            self._text = unet.text_keys(self._context)
        else:
            self._text = self._context
        self.per_step = self._steps(inputs, timesteps)
        self.memory = self._nothing_remembered() if options.fresh_layers else None

    def __call__(
        self,
        latents: Float[Array, "B h w C"],
        timestep: Float[Array, ""],
        step: dict[str, Any],
        memory: Any = None,
    ) -> Any:
        """The guided prediction, and the memory where there is one."""
        x = latents.astype(self._dtype)
        if memory is not None:
            full = lambda memory: self._evaluate(x, timestep, step)  # noqa: E731
            reuse = lambda memory: (self._redo(x, timestep, step, *memory), memory)  # noqa: E731
            prediction, memory = jax.lax.cond(step["full"], full, reuse, memory)
            return self._mix(prediction, step).astype(latents.dtype), memory
        if self._options.guidance_switches and self._count > 1:
            prediction = jax.lax.cond(
                (step["guidance"] > 1).any(),
                lambda: self._mix(self._evaluate(x, timestep, step)[0], step),
                lambda: self._evaluate(x, timestep, step, last_only=True)[0],
            )
        else:
            prediction = self._mix(self._evaluate(x, timestep, step)[0], step)
        return prediction.astype(latents.dtype)

    def _steps(self, inputs: EditInputs, timesteps: Array) -> dict[str, Any]:
        guidance = jnp.asarray(inputs.guidance)
        if guidance.ndim < 2:
            guidance = jnp.broadcast_to(guidance, timesteps.shape)[:, None]
        if self._count > 1:
            guidance = jnp.broadcast_to(guidance, (len(timesteps), self._count - 1))
        steps: dict[str, Any] = {"scale": jnp.asarray(inputs.scales), "guidance": guidance}
        if self._options.fresh_layers:
            steps["full"] = jnp.asarray(inputs.full)
        if self._save.time_once:
            for name, network, added in self._networks():
                steps[name] = jax.vmap(
                    lambda t, network=network, added=added: network.time_shifts(
                        network.embed_time(t[None], added, self._dtype)
                    )
                )(timesteps)
        return steps

    def _networks(self) -> list[tuple[str, Any, AddedCondition | None]]:
        return [("unet", self._unet, self._added), ("branch", self._branch, self._branch_added)]

    def _time(self, name: str, timestep: Array, step: dict[str, Any]) -> Any:
        """The time embedding of a network, or what its layers make of it from the table."""
        if name in step:
            return step[name]
        _, network, added = next(one for one in self._networks() if one[0] == name)
        batch = 1 if added is None else len(added.time_ids)
        return network.embed_time(jnp.broadcast_to(timestep, (batch,)), added, self._dtype)

    def _evaluate(
        self, x: Array, timestep: Array, step: dict[str, Any], last_only: bool = False
    ) -> tuple[Array, Any]:
        """The UNet's prediction for every condition, and what later steps may reuse."""
        residuals, text = self._residuals(x, timestep, step), self._text
        time, fresh = self._time("unet", timestep, step), self._options.fresh_layers
        if last_only:
            text, time, residuals = (self._last(tree) for tree in (text, time, residuals))
        elif not self._save.prefix_once:
            x = repeated(x, self._count * self._batch)
        prediction, deep = self._unet.denoise(x, time, text, residuals, fresh)
        if not fresh:
            return prediction, None
        return prediction, (deep, _outermost(residuals, fresh))

    def _redo(
        self, x: Array, timestep: Array, step: dict[str, Any], deep: Array, residuals: Residuals
    ) -> Array:
        time = self._time("unet", timestep, step)
        fresh = self._options.fresh_layers
        return self._unet.redo(x, time, self._text, residuals, deep, fresh)

    def _residuals(self, x: Array, timestep: Array, step: dict[str, Any]) -> Residuals:
        """What the branch adds; nothing, at no cost, while its scale is 0."""

        def run() -> Residuals:
            sample, context = x, None
            if not (self._save.branch_once or self._options.guess_mode):
                sample = repeated(x, self._count * self._batch)
            if branch_reads_text(self._branch):
                context = self._context
                context = self._last(context) if self._options.guess_mode else context
            time = self._time("branch", timestep, step)
            guess = self._options.guess_mode
            maps = self._branch.features(
                sample, time, self._condition, step["scale"], guess, context
            )
            if guess and self._count > 1:  # the other conditions go without a branch
                none = self._count - 1
                maps = jax.tree.map(lambda r: side_by_side(*[jnp.zeros_like(r)] * none, r), maps)
            return maps

        if not self._save.skip_idle:
            return run()
        return jax.lax.cond(step["scale"] != 0, run, lambda: zeros_of(run))

    def _mix(self, prediction: Array, step: dict[str, Any]) -> Array:
        """Guides a prediction for every condition [nB, ...]; leaves one for a single condition."""
        if self._count == 1:
            return prediction
        precise = prediction.astype(jnp.promote_types(prediction.dtype, jnp.float32))
        parts = precise.reshape(self._batch, self._count, *prediction.shape[1:])
        return guided([parts[:, i] for i in range(self._count)], step["guidance"])

    def _last(self, tree: Any) -> Any:
        """The last condition's part of what every condition has; the rest serves all as it is."""
        n, every = self._count, self._count * self._batch
        return jax.tree.map(lambda x: x[n - 1 :: n] if len(x) == every else x, tree)

    def _nothing_remembered(self) -> Any:
        step = jax.tree.map(lambda table: table[0], self.per_step)
        x = jnp.zeros((self._batch, *self._condition.shape[1:3], self._unet.config.in_channels))
        x = x.astype(self._dtype)
        return zeros_of(lambda: self._evaluate(x, jnp.zeros(()), step)[1])


def zeros_of(function: Callable[[], Any]) -> Any:
    """Zeros in the form of what a function of arrays would return."""
    structure = None

    def leaves() -> list[Array]:  # leaves, since Residuals would refuse shapes in place of arrays
        nonlocal structure
        flat, structure = jax.tree.flatten(function())
        return flat

    zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.eval_shape(leaves)]
    return jax.tree.unflatten(structure, zeros)  # type: ignore[arg-type]


def side_by_side(*conditions: Float[Array, " B *S"]) -> Array:
    """Puts the n conditions of every sample next to each other, [nB, ...]."""
    if len(conditions) == 1:
        return conditions[0]
    return jnp.stack(conditions, axis=1).reshape(-1, *conditions[0].shape[1:])


def branch_reads_text(branch: BrushNet) -> bool:
    """Returns whether the branch has attention to the text, as one ablation gives it."""
    config = branch.config
    kinds = (*config.down_block_types, config.mid_block_type, *config.up_block_types)
    return any("CrossAttn" in kind for kind in kinds)


def _outermost(residuals: Residuals, fresh: int) -> Residuals:
    """The maps of the first `fresh` places and the last `fresh` layers."""
    down, up, skip = residuals.down[:fresh], residuals.up[-fresh:], residuals.skip[:fresh]
    return Residuals(down=down, up=up, skip=skip)
