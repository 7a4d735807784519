"""The compiled programs of an edit: encode, denoise, decode; and the noise before it."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from brushjax.diffusion.samplers import Sampler, advance, sample
from brushjax.diffusion.tables import SamplerState
from brushjax.inference.engine.batch import in_groups
from brushjax.inference.engine.cache import savable
from brushjax.inference.engine.options import EditInputs, EditOptions
from brushjax.inference.engine.predict import Predictor
from brushjax.inference.engine.tiling import tiled
from brushjax.models.brushnet import BrushNet, keep_mask_condition
from brushjax.models.unet import UNet
from brushjax.models.vae import AutoencoderKL
from brushjax.nn import Execution, executing
from brushjax.sharding import BATCH
from brushjax.typing import Params

NETWORKS = ("the autoencoder's encoder", "UNet and branch", "the autoencoder's decoder")


@dataclasses.dataclass(frozen=True)
class Graphs:
    """What the networks compute, without their weights: hashable, so part of a program's key."""

    unet: nnx.GraphDef
    brushnet: nnx.GraphDef
    vae: nnx.GraphDef

    def networks(self, params: dict[str, Params]) -> tuple[UNet, BrushNet, AutoencoderKL]:
        """The networks with their weights."""
        names = (field.name for field in dataclasses.fields(self))
        unet, branch, vae = (nnx.merge(getattr(self, name), params[name]) for name in names)
        return unet, branch, vae


Results = tuple[Float[Array, "B h w 4"], UInt8[Array, "B H W 3"], Bool[Array, "B 3"]]
STATIC = ("graphs", "options", "mesh")
_program = functools.partial(jax.jit, static_argnames=STATIC)


@_program
def edit(
    graphs: Graphs,
    params: dict[str, Params],
    sampler: Sampler,
    inputs: EditInputs,
    options: EditOptions = EditOptions(),  # noqa: B008 - frozen
    mesh: Mesh | None = None,
) -> Results:
    """Runs a whole edit in one program.

    Args:
        params: pure dicts by the names of `graphs`; their dtype is the networks' compute dtype.
        mesh: over which the arguments are laid, if they are.

    Returns:
        The final scaled latents (float32), the decoded pictures, not blended, and whether what each
        of NETWORKS gave is finite: bytes no longer tell.
    """
    with executing(Execution(mesh=mesh)):
        unet, branch, vae = graphs.networks(params)

        def run(samples: dict[str, Any]) -> Results:
            inside = dataclasses.replace(inputs, **samples)
            condition, encoded = look(unet, vae, inside, options)
            latents = denoise(unet, branch, condition, sampler, inside, options)  # [B, h, w, 4]
            return show(vae, encoded, latents, options)

        return in_groups(run, inputs.samples(), options.together, mesh)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Underway:
    """An edit between two of its steps.

    Attributes:
        condition: the branch's.
        state: of the sampler.
        encoded: the masked picture's latents, which are checked at the end.
    """

    condition: Any
    state: SamplerState
    encoded: Any


savable(Underway, SamplerState)


@_program
def begin(
    graphs: Graphs,
    params: dict[str, Params],
    sampler: Sampler,
    inputs: EditInputs,
    options: EditOptions,
    mesh: Mesh | None = None,
) -> Underway:
    """The part of `edit` before its first step."""
    with executing(Execution(mesh=mesh)):
        unet, _, vae = graphs.networks(params)

        def run(samples: dict[str, Any]) -> Underway:
            inside = dataclasses.replace(inputs, **samples)
            condition, encoded = look(unet, vae, inside, options)
            return Underway(condition, sampler.start(inside.noise), encoded)

        return _cut(in_groups(run, inputs.samples(), options.together, mesh), mesh)


@_program
def proceed(
    graphs: Graphs,
    params: dict[str, Params],
    sampler: Sampler,
    inputs: EditInputs,
    underway: Underway,
    steps: tuple[Any, Any],
    options: EditOptions,
    mesh: Mesh | None = None,
) -> Underway:
    """Some steps of `edit`: first, first + 1 ... last - 1 for steps = (first, last)."""
    with executing(Execution(mesh=mesh)):
        unet, branch, _ = graphs.networks(params)

        def run(both: tuple[dict[str, Any], Underway]) -> Underway:
            inside, now = dataclasses.replace(inputs, **both[0]), both[1]
            predict = Predictor(unet, branch, now.condition, inside, sampler.rows.timestep, options)
            state = advance(
                sampler, predict, now.state, predict.per_step, steps, seeds=inside.seeds
            )
            return dataclasses.replace(now, state=state)

        return _cut(in_groups(run, (inputs.samples(), underway), options.together, mesh), mesh)


@_program
def end(
    graphs: Graphs,
    params: dict[str, Params],
    underway: Underway,
    options: EditOptions,
    mesh: Mesh | None = None,
) -> Results:
    """The part of `edit` behind its last step."""
    with executing(Execution(mesh=mesh)):
        _, _, vae = graphs.networks(params)

        def run(now: Underway) -> Results:
            return show(vae, now.encoded, now.state.sample, options)

        return in_groups(run, underway, options.together, mesh)


def _cut(underway: Underway, mesh: Mesh | None) -> Underway:
    """Keeps what is under way on the devices of its samples, so that no step meets it elsewhere."""
    if mesh is None:
        return underway
    return jax.lax.with_sharding_constraint(underway, NamedSharding(mesh, BATCH))


def look(
    unet: UNet, vae: AutoencoderKL, inputs: EditInputs, options: EditOptions
) -> tuple[Float[Array, "B h w 5"], Float[Array, "B h w 4"]]:
    """The branch's condition, and the masked picture's latents that it is made of."""
    dtype = unet.conv_in.kernel.dtype
    encoded = encode(vae, inputs.masked, options.tile).astype(dtype)  # [B, h, w, 4]
    return keep_mask_condition(encoded, inputs.masks), encoded


def show(
    vae: AutoencoderKL,
    encoded: Float[Array, "B h w 4"],
    latents: Float[Array, "B h w 4"],
    options: EditOptions,
) -> Results:
    """What `edit` returns, of its latents."""
    pictures = decode(vae, latents, options.tile)  # [B, H, W, 3]
    return latents, as_bytes(pictures), finite(encoded, latents, pictures)


def encode(
    vae: AutoencoderKL, pictures: UInt8[Array, "B H W 3"], tile: int | None
) -> Float[Array, "B h w 4"]:
    """Returns the scaled latents of pictures 0..255, the posterior's mode."""
    pixels = (pictures.astype(jnp.float32) / 255 * 2 - 1).astype(vae.quant_conv.kernel.dtype)
    if tile is None:
        return vae.to_latents(pixels)
    return tiled(vae.to_latents, pixels, tile, (1, vae.factor))


def decode(
    vae: AutoencoderKL, latents: Float[Array, "B h w 4"], tile: int | None
) -> Float[Array, "B H W 3"]:
    """Returns pictures, float32 and about in [-1, 1], of scaled latents."""
    latents = latents.astype(vae.quant_conv.kernel.dtype)
    if tile is None:
        pictures = vae.to_images(latents)
    else:
        pictures = tiled(vae.to_images, latents, tile // vae.factor, (vae.factor, 1))
    return pictures.astype(jnp.float32)


def as_bytes(pictures: Float[Array, "B H W 3"]) -> UInt8[Array, "B H W 3"]:
    """Returns pictures 0..255; NaN becomes 0, so check `finite` first."""
    pictures = jnp.clip(pictures / 2 + 0.5, 0, 1)
    return jnp.round(pictures * 255).astype(jnp.uint8)


def finite(*outputs: Float[Array, "B _h _w _c"]) -> Bool[Array, "B n"]:
    """Says of every sample whether each network's output is free of NaN and infinity."""
    return jnp.stack([jnp.isfinite(output).all(axis=(1, 2, 3)) for output in outputs], axis=-1)


def check_finite(found: Bool[np.ndarray, "B 3"]) -> None:
    """Raises FloatingPointError naming the first of NETWORKS that failed, and for which samples."""
    wrong = ~np.asarray(found)
    if not wrong.any():
        return
    network = int(wrong.any(axis=0).argmax())
    samples = ", ".join(str(i) for i in np.flatnonzero(wrong[:, network]))
    raise FloatingPointError(
        f"the networks produced NaN or infinity, first {NETWORKS[network]}, in sample {samples}: "
        "use float32 (dtype, --dtype), or less guidance"
    )


def denoise(
    unet: UNet,
    branch: BrushNet,
    condition: Float[Array, "_B h w E"],
    sampler: Sampler,
    inputs: EditInputs,
    options: EditOptions,
    trajectory: bool = False,
) -> Float[Array, "*n B h w 4"]:
    """Runs the sampling loop of an edit.

    Args:
        condition: of the branch; a larger batch where the conditions of guidance have their own.
        trajectory: return the latents after every step.
    """
    predict = Predictor(unet, branch, condition, inputs, sampler.rows.timestep, options)
    return sample(
        sampler,
        predict,
        inputs.noise,
        predict.per_step,
        seeds=inputs.seeds,
        memory=predict.memory,
        trajectory=trajectory,
    )


@functools.partial(jax.jit, static_argnames="shape")
def seeded_noise(
    seeds: UInt32[Array, " B"], shape: tuple[int, int, int]
) -> Float[Array, "B h w C"]:
    """Draws every sample's initial noise from its own seed, whatever else is in the batch."""

    def draw(seed: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), 0)  # 0: the initial noise
        return jax.random.normal(key, shape, jnp.float32)

    return jax.vmap(draw)(seeds)
