"""Edits by an 8-channel UNet alone, as instruct-pix2pix: the whole picture, by instruction."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt8

from brushjax.diffusion.guidance import guided
from brushjax.diffusion.samplers import Sampler, make_sampler, sample
from brushjax.inference.engine.batch import by_groups, repeated
from brushjax.inference.engine.edit import as_bytes, check_finite, decode, finite, seeded_noise
from brushjax.nn import Execution, executing
from brushjax.pipelines.parts import graphs_and_weights
from brushjax.pipelines.text import Encoder, TextEncoders, tokenizer_of
from brushjax.sharding import BATCH

CHANNELS = 8  # the noisy latents', and those of the picture


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """How pictures are sampled; the defaults are those of edit_cli.py.

    Attributes:
        text_guidance, image_guidance: s_T and s_I of the paper's equation 3.
        together: samples that a device works on at once.
    """

    steps: int = 100
    text_guidance: float = 7.5
    image_guidance: float = 1.5
    scheduler: str = "euler-a"
    together: int = 1


class InstructPix2Pix:
    """Edits pictures whose sides are multiples of a latent's cell.

    Args:
        parts: arguments of `brushjax.Inpainter.from_parts` besides the branch; the UNet has eight
            input channels.
        mesh: a batch is cut over its data axes, whose sizes times `together` must divide it.

    Raises:
        ValueError: a UNet with another number of channels.

    Source: Brooks et al., "InstructPix2Pix" (arXiv 2211.09800), section 3.2; diffusers'
    `StableDiffusionInstructPix2PixPipeline`.
    """

    def __init__(self, parts: Mapping[str, Any], mesh: Mesh | None = None):
        channels = parts["unet"].config.in_channels
        if channels != CHANNELS:
            raise ValueError(
                f"expected a UNet with {CHANNELS} input channels, as instruct-pix2pix's; got "
                f"{channels}"
            )
        encoder = parts["text_encoder"]
        tokenize = tokenizer_of(parts["tokenizer"], encoder)
        self._text = TextEncoders(Encoder.of(encoder, tokenize))
        networks = {name: parts[name] for name in ("unet", "vae")}
        graphs, self._params = graphs_and_weights(networks)
        self._graphs = tuple(graphs.values())
        self._cell = parts["vae"].factor
        self._scheduler, self._mesh = parts["scheduler"], mesh
        if mesh is not None:
            self._params = jax.device_put(self._params, NamedSharding(mesh, PartitionSpec()))

    def __call__(
        self,
        images: UInt8[np.ndarray, "B H W 3"],
        instructions: Sequence[str],
        seeds: Sequence[int],
        how: EditSettings,
        noise: Float[np.ndarray, "B h w 4"] | None = None,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Edits pictures.

        Args:
            seeds: of the noise; a seed gives what `brushjax.Inpainter` draws from it.
            noise: to begin with instead.

        Raises:
            FloatingPointError: the networks produced NaN or infinity.
        """
        size, height, width = images.shape[:3]
        numbers = np.asarray(seeds, np.uint32)
        if noise is None:
            noise = np.asarray(
                seeded_noise(numbers, (height // self._cell, width // self._cell, 4))
            )
        rows = self._text.rows(instructions)
        batch = {
            "pixels": images,
            "noise": noise,
            "seeds": numbers,
            "context": self._text(instructions, rows).context,
            "negative": repeated(self._text([""], rows).context, size),
        }
        if self._mesh is not None:
            batch = jax.device_put(batch, NamedSharding(self._mesh, BATCH))
        sampler = make_sampler(how.scheduler, self._scheduler, how.steps)
        scales = np.array([how.image_guidance, how.text_guidance], np.float32)
        made = edit(*self._graphs, self._params, sampler, batch, scales, how.together, self._mesh)
        pictures, found = jax.device_get(made)
        check_finite(found)
        return pictures


@functools.partial(jax.jit, static_argnames=("unet_graph", "vae_graph", "together", "mesh"))
def edit(
    unet_graph: nnx.GraphDef,
    vae_graph: nnx.GraphDef,
    params: Mapping[str, Any],
    sampler: Sampler,
    batch: Mapping[str, Any],
    scales: Float[Array, " 2"],
    together: int = 1,
    mesh: Mesh | None = None,
) -> tuple[UInt8[Array, "B H W 3"], Bool[Array, "B 3"]]:
    """The whole edit in one program: pictures, and what `check_finite` takes.

    The three conditions are (nothing, nothing), (picture, nothing), (picture, instruction).
    """
    unet, vae = nnx.merge(unet_graph, params["unet"]), nnx.merge(vae_graph, params["vae"])

    def run(batch: Mapping[str, Any]) -> tuple[Array, Array]:
        dtype = unet.conv_in.kernel.dtype
        pixels = batch["pixels"].astype(jnp.float32) / 127.5 - 1  # [B, H, W, 3]
        encoded = vae.encode(pixels.astype(vae.quant_conv.kernel.dtype))
        picture = encoded.mode().astype(dtype)  # [B, h, w, 4], not scaled, as in training
        seen = jnp.concatenate([jnp.zeros_like(picture), picture, picture])
        negative, context = batch["negative"], batch["context"]
        told = jnp.concatenate([negative, negative, context])  # [3B, L, D]

        def predict(x: Array, timestep: Array, _: Any) -> Array:
            three = jnp.concatenate([x, x, x]).astype(dtype)
            both = jnp.concatenate([three, seen], axis=-1)  # [3B, h, w, 8]
            found = unet(both, jnp.broadcast_to(timestep, both.shape[:1]), told)
            return guided(jnp.split(found.astype(x.dtype), 3), scales)

        latents = sample(sampler, predict, batch["noise"], sampler.rows, seeds=batch["seeds"])
        pictures = decode(vae, latents, None)
        return as_bytes(pictures), finite(picture, latents, pictures)

    with executing(Execution(mesh=mesh)):
        return by_groups(run, batch, together, mesh)
