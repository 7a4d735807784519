"""Training an autoencoder from images alone, and teaching it about holes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brushjax import weights
from brushjax.diffusion.losses import kl_to_standard_normal
from brushjax.models.vae import AutoencoderKL, Posterior, VAEConfig
from brushjax.training.base import read_config
from brushjax.training.denoising import draw
from brushjax.training.objectives import (
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
class HoleObjective(Objective):
    """Teaches an encoder that a black hole leaves the latents around it as they are.

    Norms and attention over the whole picture otherwise change all latents when a part turns black,
    and a branch on that autoencoder has to learn first to undo it. The decoder stays, and latents
    of whole pictures are held to what they were: models trained on them remain valid.
    """

    vae: str
    """Folder of the trained autoencoder."""
    logvar_weight: float = 0.001
    """Of the log variance, which is so low that hardly anything depends on it."""

    def init(self, key: jax.Array) -> tuple[Params, Params]:
        del key
        return self._split(parameters(weights.load("vae", self.vae)))

    def shapes(self) -> tuple[Params, Params]:
        return self._split(blueprint(AutoencoderKL, self._config)[1])

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Adds the latents to be kept, which the untaught encoder makes of whole pictures."""
        posterior = self._encode(frozen["taught_by"], batch["image"])
        return {**batch, "mean": posterior.mean, "logvar": posterior.logvar}

    def loss(self, trainable: Params, frozen: Params, batch: Batch, keys: jax.Array) -> Loss:
        del frozen, keys
        image, mask = batch["image"], batch["mask"]
        pictures = jnp.concatenate([image, jnp.where(mask > 0, 0, image)])  # [2B, H, W, 3]
        posterior = self._encode(trainable, pictures)
        keep = 1.0 - cell_maxima(mask.astype(jnp.float32), len(image[0]) // len(batch["mean"][0]))
        wanted = jnp.concatenate([jnp.ones_like(keep), keep])  # [2B, h, w, 1]

        def error(ours: Array, kept: Array) -> tuple[Array, Array]:
            squared = wanted * jnp.square(ours - jnp.concatenate([kept, kept]))
            means = squared.mean(axis=(1, 2, 3)) / jnp.maximum(wanted.mean(axis=(1, 2, 3)), 1e-6)
            whole, holed = jnp.split(means, 2)
            return whole.mean(), holed.mean()

        scale = self._config.scaling_factor
        whole, holed = error(posterior.mean * scale, batch["mean"] * scale)
        spread = sum(error(posterior.logvar, batch["logvar"]))
        return whole + holed + self.logvar_weight * spread, {
            "whole_error": whole,
            "holed_error": holed,
            "logvar_error": spread,
        }

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        whole = {**parameters(weights.load("vae", self.vae)), **trainable}
        weights.save(build(AutoencoderKL, self._config, whole), folder / "vae")

    @property
    def _config(self) -> VAEConfig:
        return read_config(VAEConfig, self.vae, "vae")

    def _encode(self, encoder: Params, pictures: Array) -> Posterior:
        whole = {
            **blueprint(AutoencoderKL, self._config)[1],
            **encoder,
        }  # shapes suffice for the rest
        vae = build(AutoencoderKL, self._config, whole)
        return vae.encode(to_unit_range(pictures, dtype_of(encoder)))

    @staticmethod
    def _split(vae: Params) -> tuple[Params, Params]:
        encoder = {name: vae[name] for name in ("encoder", "quant_conv")}
        return encoder, {"taught_by": jax.tree.map(lambda leaf: leaf, encoder)}


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
