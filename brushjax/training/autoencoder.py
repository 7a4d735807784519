"""Training an autoencoder from images alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brushjax.diffusion.losses import kl_to_standard_normal
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.training.denoising import draw
from brushjax.training.objectives import (
    Batch,
    Loss,
    Objective,
    blueprint,
    build,
    dtype_of,
    fresh,
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
        from brushjax import weights

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
