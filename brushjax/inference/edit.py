"""The compiled programs of an edit: encode, denoise, decode; and the text and noise before it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8, UInt32

from brushjax.diffusion.guidance import classifier_free
from brushjax.diffusion.samplers import Sampler, sample
from brushjax.models.brushnet import BrushNet, keep_mask_condition
from brushjax.models.unet import UNet
from brushjax.typing import Params


@dataclasses.dataclass(frozen=True)
class Graphs:
    """What the networks compute, without their weights: hashable, so part of a program's key."""

    unet: nnx.GraphDef
    brushnet: nnx.GraphDef
    vae: nnx.GraphDef


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EditInputs:
    """All that varies between two edits run by one program.

    Attributes:
        masked: uint8 [B, H, W, 3], the hole black.
        masks: uint8 [B, H, W, 1], 1 = edit.
        noise: float32 [B, h, w, 4], standard normal.
        context: [B, L, D], the prompt's features.
        negative: [B, L, D] for classifier-free guidance; None compiles a program without it.
        guidance: float32 scalar, unused where negative is None.
        scales: float32 [n], the branch's scale at every step.
        added: AddedCondition of the prompt, for SDXL.
        negative_added: AddedCondition of the negative prompt; None under guidance means that both
            halves share `added`, and then they share the branch too.
        seeds: uint32 [B], for samplers that draw noise at every step.
    """

    masked: Any
    masks: Any
    noise: Any
    context: Any
    negative: Any
    guidance: Any
    scales: Any
    added: Any = None
    negative_added: Any = None
    seeds: Any = None


@functools.partial(jax.jit, static_argnames="graphs")
def edit(
    graphs: Graphs, params: dict[str, Params], sampler: Sampler, inputs: EditInputs
) -> tuple[Float[Array, "B h w 4"], UInt8[Array, "B H W 3"]]:
    """Runs a whole edit in one program.

    Args:
        params: pure dicts by the names of `graphs`; their dtype is the networks' compute dtype.

    Returns:
        The final scaled latents (float32) and the decoded pictures, not blended.
    """
    unet, branch, vae = (
        nnx.merge(getattr(graphs, name), params[name]) for name in ("unet", "brushnet", "vae")
    )
    dtype = unet.conv_in.kernel.dtype
    pixels = inputs.masked.astype(jnp.float32) / 255 * 2 - 1  # [B, H, W, 3]
    masked_latents = vae.to_latents(pixels.astype(vae.quant_conv.kernel.dtype))  # [B, h, w, 4]
    condition = keep_mask_condition(masked_latents.astype(dtype), inputs.masks)  # [B, h, w, 5]
    predict = predictor(unet, branch, condition, inputs)
    latents = sample(
        sampler, predict, inputs.noise, inputs.scales, seeds=inputs.seeds
    )  # [B, h, w, 4]
    pictures = vae.to_images(latents.astype(vae.quant_conv.kernel.dtype)).astype(jnp.float32)
    pictures = jnp.round(jnp.clip(pictures / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8)
    return latents, pictures


def predictor(
    unet: UNet, branch: BrushNet, condition: Float[Array, "B h w 5"], inputs: EditInputs
) -> Callable[[Array, Array, Array], Array]:
    """Returns what the sampling loop calls: (sample, timestep, branch scale) -> prediction.

    Under guidance the UNet runs once on [negative, positive]. The branch does not read the text
    (unless the config gives it attention, or the two halves have added conditions of their own), so
    both halves share one run of it: exact, and 18 % of the work of a Stable Diffusion 1.5 step.
    """
    dtype = condition.dtype
    guided = inputs.negative is not None

    def twice(x: Array) -> Array:
        return jnp.concatenate([x, x]) if guided else x

    context, added = inputs.context, inputs.added
    branch_added, branch_once = added, not branch_reads_text(branch)
    if guided:
        context = jnp.concatenate([inputs.negative, context])  # [2B, L, D]
        added = jax.tree.map(twice, added)
    if guided and inputs.negative_added is not None:
        pair = inputs.negative_added, inputs.added
        branch_added = added = jax.tree.map(lambda *halves: jnp.concatenate(halves), *pair)
        branch_once = False
    context = context.astype(dtype)

    def predict(latents: Array, timestep: Array, scale: Array) -> Array:
        x = latents.astype(dtype)
        time = jnp.broadcast_to(timestep, x.shape[:1])  # [B]
        if branch_once:
            residuals = branch(x, time, condition, scale, branch_added)
            residuals = jax.tree.map(twice, residuals)
        else:
            residuals = branch(
                twice(x), twice(time), twice(condition), scale, added, context=context
            )
        prediction = unet(twice(x), twice(time), context, residuals, added).astype(latents.dtype)
        if not guided:
            return prediction
        negative, positive = jnp.split(prediction, 2)  # [B, h, w, C] each
        return classifier_free(negative, positive, inputs.guidance)

    return predict


def branch_reads_text(branch: BrushNet) -> bool:
    """Returns whether the branch has attention to the text, as one ablation gives it."""
    config = branch.config
    kinds = (*config.down_block_types, config.mid_block_type, *config.up_block_types)
    return any("CrossAttn" in kind for kind in kinds)


@functools.partial(jax.jit, static_argnames="graph")
def encode_text(
    graph: nnx.GraphDef, params: Params, token_ids: Int[Array, "B L"]
) -> Float[Array, "B L D"]:
    """Returns the text features that the UNet attends to: the last state after the final norm."""
    return nnx.merge(graph, params)(token_ids).last_hidden_state


@functools.partial(jax.jit, static_argnames="shape")
def seeded_noise(
    seeds: UInt32[Array, " B"], shape: tuple[int, int, int]
) -> Float[Array, "B h w C"]:
    """Draws every sample's initial noise from its own seed, whatever else is in the batch."""

    def draw(seed: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), 0)  # 0: the initial noise
        return jax.random.normal(key, shape, jnp.float32)

    return jax.vmap(draw)(seeds)
