"""Training an autoencoder from images alone, and teaching it to see every place for itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brushjax import weights
from brushjax.diffusion.losses import kl_to_standard_normal
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.pipelines.published import read_config
from brushjax.training.objectives.contract import (
    Batch,
    Loss,
    Objective,
    blueprint,
    build,
    dtype_of,
    fresh,
    parameters,
    to_unit_range,
)
from brushjax.training.objectives.denoising import draw
from brushjax.typing import Params


@dataclasses.dataclass(frozen=True)
class AutoencoderObjective(Objective):
    """Reconstruction of images through a narrow Gaussian latent.

    L1 and an edge loss take the place of the perceptual and adversarial losses of the published
    autoencoders, which need networks that we do not ship. The latent's scale is measured when the
    model is exported.
    """

    MEASURED: ClassVar[int] = 64

    config: VAEConfig
    edge_weight: float = 1.0
    """Of the edge loss, which keeps outlines that plain L1 blurs."""
    kl_weight: float = 1e-6
    """Of the divergence from a standard normal, in nats per pixel value."""

    def init(self, key: jax.Array) -> tuple[Params, Params]:
        return fresh(AutoencoderKL, self.config, key), {}

    def shapes(self) -> tuple[Params, Params]:
        return blueprint(AutoencoderKL, self.config)[1], {}

    def loss(self, trainable: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        del frozen
        vae = build(AutoencoderKL, self.config, trainable)
        image = to_unit_range(batch["image"], dtype_of(trainable))  # [B, H, W, 3]
        posterior = vae.encode(image)
        latents = draw(posterior.mean, jnp.exp(0.5 * posterior.logvar), keys)  # [B, h, w, 4]
        output = vae.decode(latents).astype(jnp.float32)  # [B, H, W, 3]

        absolute = jnp.abs(output - image).mean()
        edges = edge_loss(output, image.astype(jnp.float32))
        divergence = kl_to_standard_normal(posterior.mean, posterior.logvar).mean()
        per_value = divergence * image.shape[0] / image.size
        value = absolute + self.edge_weight * edges + self.kl_weight * per_value
        error = jnp.square(jnp.clip(output, -1, 1) - image).mean()
        return value, {
            "l1": absolute,
            "edges": edges,
            "kl": per_value,
            "psnr": 10.0 * jnp.log10(4.0 / error),
            "latent_std": latents.astype(jnp.float32).std(),
        }

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        config = dataclasses.replace(
            self.config, scaling_factor=self._scaling_factor(trainable, batch)
        )
        weights.save(build(AutoencoderKL, config, trainable), folder / "vae")

    def _scaling_factor(self, trainable: Params, batch: Batch) -> float:
        """Returns 1 / std of latents drawn for the batch.

        Source: Rombach et al. 2022, appendix G.
        """

        @jax.jit
        def spread(params: Params, image: jax.Array) -> jax.Array:
            posterior = build(AutoencoderKL, self.config, params).encode(
                to_unit_range(image, dtype_of(params))
            )
            return posterior.sample(jax.random.key(0)).astype(jnp.float32).std()

        return float(1.0 / jax.device_get(spread(trainable, jax.device_put(batch["image"]))))


@dataclasses.dataclass(frozen=True)
class LocalityObjective(Objective):
    """Teaches an autoencoder that the latents of a place do not depend on what is elsewhere.

    Norms and attention over the whole picture otherwise change all latents when a part turns black
    or shows something else: the latents around a hole are then not those of the picture, and those
    of a filling not such as a text-to-image model on whole pictures would draw. Latents of whole
    pictures are held to what they were: models trained on them remain valid.
    """

    vae: str
    """Folder of the trained autoencoder."""
    edge_weight: float = 1.0
    """Of the edge loss, as in `AutoencoderObjective`."""
    latent_weight: float = 2.0
    """Of the latents' squared error, in units of their variance, beside the pixels' losses."""
    logvar_weight: float = 0.001
    """Of the log variance, which is so low that hardly anything depends on it."""

    def init(self, key: jax.Array) -> tuple[Params, Params]:
        del key
        vae = parameters(weights.load("vae", self.vae))
        return vae, self._teacher(jax.tree.map(lambda leaf: leaf.copy(), vae))

    def shapes(self) -> tuple[Params, Params]:
        vae = blueprint(AutoencoderKL, self._config)[1]
        return vae, self._teacher(vae)

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Adds the latents to be kept, which the untaught encoder makes of whole pictures."""
        whole = {**blueprint(AutoencoderKL, self._config)[1], **frozen["taught_by"]}
        vae = build(AutoencoderKL, self._config, whole)
        posterior = vae.encode(to_unit_range(batch["image"], dtype_of(frozen)))
        return {**batch, "mean": posterior.mean, "logvar": posterior.logvar}

    def loss(self, trainable: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        del frozen
        vae = build(AutoencoderKL, self._config, trainable)
        image, hole = batch["image"], batch["mask"] > 0  # [B, H, W, 3], [B, H, W, 1]
        collage = jnp.where(hole, _next(image), image)
        pictures = jnp.concatenate([image, jnp.where(hole, 0, image), collage])
        pictures = to_unit_range(pictures, dtype_of(trainable))
        posterior = vae.encode(pictures)  # [3B, h, w, 4]

        # Cells on the mask's edge show two pictures: no latents are known of them.
        cell = image.shape[1] // batch["mean"].shape[1]
        kept = 1.0 - cell_maxima(hole.astype(jnp.float32), cell)  # [B, h, w, 1]
        filled = 1.0 - cell_maxima(1.0 - hole.astype(jnp.float32), cell)
        known = (jnp.ones_like(kept), kept, kept + filled)

        def errors(ours: Array, wanted: Array) -> list[Array]:
            both = jnp.where(filled > 0, _next(wanted), wanted)
            return [
                _mean_of_cells(jnp.square(one - other), mask)
                for one, other, mask in zip(jnp.split(ours, 3), (wanted, wanted, both), known)
            ]

        scale = self._config.scaling_factor
        whole, holed, pasted = errors(posterior.mean * scale, batch["mean"] * scale)
        spread = sum(errors(posterior.logvar, batch["logvar"]))

        # Half of the batch is decoded as whole pictures, half as collages.
        half = len(image) // 2
        drawn = jnp.r_[:half, len(pictures) - (len(image) - half) : len(pictures)]
        deviation = jnp.exp(0.5 * posterior.logvar[drawn])
        latents = draw(posterior.mean[drawn], deviation, keys)  # [B, h, w, 4]
        output = vae.decode(latents).astype(jnp.float32)  # [B, H, W, 3]
        target = pictures[drawn].astype(jnp.float32)
        absolute, edges = jnp.abs(output - target).mean(), edge_loss(output, target)
        error = jnp.square(jnp.clip(output, -1, 1) - target).mean()
        value = (
            absolute
            + self.edge_weight * edges
            + self.latent_weight * (whole + holed + pasted)
            + self.logvar_weight * spread
        )
        return value, {
            "whole_error": whole,
            "holed_error": holed,
            "pasted_error": pasted,
            "logvar_error": spread,
            "psnr": 10.0 * jnp.log10(4.0 / error),
        }

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        weights.save(build(AutoencoderKL, self._config, trainable), folder / "vae")

    @property
    def _config(self) -> VAEConfig:
        return read_config(VAEConfig, self.vae, "vae")

    @staticmethod
    def _teacher(vae: Params) -> Params:
        return {"taught_by": {name: vae[name] for name in ("encoder", "quant_conv")}}


def _mean_of_cells(values: Array, cells: Array) -> Array:
    """Returns the mean of values [B, h, w, C] over the cells [B, h, w, 1] that are 1."""
    return (cells * values).sum() / jnp.maximum(cells.sum() * values.shape[-1], 1)


def _next(samples: Array) -> Array:
    """Gives every sample of a batch its neighbour's values."""
    return jnp.roll(samples, 1, axis=0)


def cell_maxima(mask: Float[Array, "B H W 1"], side: int) -> Float[Array, "B h w 1"]:
    """Returns the largest value of every cell of `side` x `side` pixels."""
    batch, height, width, _ = mask.shape
    cells = mask.reshape(batch, height // side, side, width // side, side, 1)
    return cells.max(axis=(2, 4))


def edge_loss(
    output: Float[Array, "B H W C"], target: Float[Array, "B H W C"], scales: int = 3
) -> Float[Array, ""]:
    """Mean absolute difference of neighbouring pixels' differences, at full size and after each
    halving.

    Args:
      scales: how many sizes; each halving averages 2x2 pixels.
    """
    error = output - target
    total = jnp.zeros((), error.dtype)
    for scale in range(scales):
        if scale:
            batch, height, width, channels = error.shape
            cells = error.reshape(batch, height // 2, 2, width // 2, 2, channels)
            error = cells.mean(axis=(2, 4))  # [B, H / 2, W / 2, C]
        total += jnp.abs(jnp.diff(error, axis=1)).mean() + jnp.abs(jnp.diff(error, axis=2)).mean()
    return total / scales
