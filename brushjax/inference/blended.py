"""Inpainting by a base alone: blended latents, the baseline "BLD" of the papers, nine channels."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt8

from brushjax.diffusion.guidance import guided as weigh
from brushjax.diffusion.samplers import Sampler, make_sampler, sample
from brushjax.inference.engine.batch import by_groups, repeated
from brushjax.inference.engine.edit import as_bytes, check_finite, finite, seeded_noise
from brushjax.inference.images import prepare, resize
from brushjax.inference.inpaint_settings import InpaintSettings
from brushjax.models.brushnet import CELL
from brushjax.models.vae import in_working_dtype
from brushjax.nn import Execution, executing
from brushjax.pipelines.parts import graphs_and_weights
from brushjax.pipelines.text import Encoder, TextEncoders, tokenizer_of
from brushjax.sharding import BATCH

LATENT = 4
INPAINTING = 2 * LATENT + 1  # latents, mask, latents of the masked picture


class BlendedLatents:
    """Fills holes with the base's UNet; outside the hole every clean estimate is the source's.

    A UNet with nine channels, as of Stable Diffusion's inpainting models, reads latents, mask and
    masked picture, and nothing is blended.

    Args:
        parts: arguments of `brushjax.Inpainter.from_parts` besides the branch.
        mesh: a batch is cut over its data axes, whose sizes times `together` must divide it.

    Source: Avrahami et al., "Blended Latent Diffusion" (arXiv 2206.02779), algorithm 1; diffusers'
    `StableDiffusionInpaintPipeline` for nine channels.
    Differs: docs/deviations.md, blended-latents.
    """

    def __init__(self, parts: Mapping[str, Any], mesh: Mesh | None = None):
        if parts["unet"].config.addition_embed_type is not None:
            raise ValueError("expected a base of Stable Diffusion 1.x or 2.x for blended latents")
        channels = parts["unet"].config.in_channels
        if channels not in (LATENT, INPAINTING):
            raise ValueError(
                f"expected a UNet with {LATENT} channels, or {INPAINTING} of an inpainting model; "
                f"got {channels}"
            )
        self.reads_mask = channels == INPAINTING
        encoder = parts["text_encoder"]
        tokenize = tokenizer_of(parts["tokenizer"], encoder)
        self._text = TextEncoders(Encoder.of(encoder, tokenize))
        networks = {name: parts[name] for name in ("unet", "vae")}
        graphs, self._params = graphs_and_weights(networks)
        self._graphs = tuple(graphs.values())
        self._params["vae"] = in_working_dtype(self._params["vae"], parts["vae"].config)
        self._scheduler, self._mesh = parts["scheduler"], mesh
        if mesh is not None:
            self._params = jax.device_put(self._params, NamedSharding(mesh, PartitionSpec()))

    def __call__(
        self,
        images: Sequence[UInt8[np.ndarray, "H W 3"]],
        holes: Sequence[Bool[np.ndarray, "H W"]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        how: InpaintSettings,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Fills the holes; a seed gives the noise that `brushjax.Inpainter` draws from it.

        Args:
            how: steps, guidance, scheduler, blend, together (1 without) and the end of guidance in
                `approximations` are read; a branch's settings have no meaning here.

        Raises:
            FloatingPointError: the networks produced NaN or infinity.
        """
        prepared = prepare(images, holes)
        size, height, width = prepared.masks.shape[:3]
        noise = seeded_noise(np.asarray(seeds, np.uint32), (height // CELL, width // CELL, 4))
        rows = self._text.rows(prompts)
        batch = {
            "pixels": np.stack([resize(picture, (height, width)) for picture in images]),
            "masks": prepared.masks[:, ::CELL, ::CELL].astype(np.float32),
            **({"holes": prepared.masks} if self.reads_mask else {}),
            "noise": np.asarray(noise),
            "context": self._text(prompts, rows).context,
        }
        if how.guidance > 1:
            batch["negative"] = repeated(self._text([""], rows).context, size)
        if self._mesh is not None:
            batch = jax.device_put(batch, NamedSharding(self._mesh, BATCH))
        sampler = make_sampler(how.scheduler, self._scheduler, how.steps)
        end = 1.0 if how.approximations is None else how.approximations.guidance_end
        ends = (np.arange(sampler.steps) + 1) / sampler.steps
        strength = np.where(ends <= end, how.guidance, 1.0).astype(np.float32)
        together = how.together or 1
        filled = fill(*self._graphs, self._params, sampler, batch, strength, together, self._mesh)
        _, pictures, found = jax.device_get(filled)
        check_finite(found)
        return prepared.finish(pictures, how.blend)


@functools.partial(jax.jit, static_argnames=("unet_graph", "vae_graph", "together", "mesh"))
def fill(
    unet_graph: nnx.GraphDef,
    vae_graph: nnx.GraphDef,
    params: Mapping[str, Any],
    sampler: Sampler,
    batch: Mapping[str, Any],
    guidance: Float[Array, " n"],
    together: int = 1,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "B h w 4"], UInt8[Array, "B H W 3"], Bool[Array, "B 3"]]:
    """The whole fill in one program: final latents, decoded pictures, not blended, and what
    `check_finite` takes.

    The prediction is changed such that the sampler's estimate m of the clean latents becomes
    mask * m + (1 - mask) * source, so that any sampler can be used. With "holes" in the batch, the
    masks at full size, the UNet has nine channels instead.
    """
    unet, vae = nnx.merge(unet_graph, params["unet"]), nnx.merge(vae_graph, params["vae"])

    def run(batch: Mapping[str, Any]) -> tuple[Array, Array, Array]:
        pixels = batch["pixels"].astype(jnp.float32) / 255 * 2 - 1  # [B, H, W, 3]
        source = vae.to_latents(pixels)  # [B, h, w, 4]
        mask, context = batch["masks"], batch["context"]
        native = "holes" in batch
        if native:  # the hole is gray, 0, as in diffusers
            masked = vae.to_latents(jnp.where(batch["holes"] > 0, 0, pixels))
            seen = jnp.concatenate([mask, masked], axis=-1)  # [B, h, w, 5]
        guided = "negative" in batch
        if guided:
            context = jnp.concatenate([batch["negative"], context])  # [2B, L, D]

        def predict(x: Array, timestep: Array, step: Any) -> Array:
            row, strength = step
            own = jnp.concatenate([x, seen], axis=-1) if native else x
            twice = jnp.concatenate([own, own]) if guided else own
            prediction = unet(twice, jnp.broadcast_to(timestep, twice.shape[:1]), context)
            if guided:
                prediction = weigh(jnp.split(prediction, 2), strength[None])
            if native:
                return prediction
            wanted = (source - row.from_sample * x) / row.from_prediction
            return mask * prediction + (1 - mask) * wanted

        latents = sample(sampler, predict, batch["noise"], (sampler.rows, guidance))  # [B, h, w, 4]
        pictures = vae.to_images(latents)
        return latents, as_bytes(pictures), finite(source, latents, pictures)

    with executing(Execution(mesh=mesh)):
        return by_groups(run, batch, together, mesh)
