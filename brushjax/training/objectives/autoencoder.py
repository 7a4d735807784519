"""Training an autoencoder from images alone, and teaching it to see every place for itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from brushjax import weights
from brushjax.config import ConfigError
from brushjax.diffusion.losses import kl_to_standard_normal
from brushjax.models.vae import AutoencoderKL, VAEConfig
from brushjax.pipelines.published import read_config
from brushjax.training.objectives.contract import (
    Batch,
    Losses,
    Mean,
    Objective,
    blueprint,
    build,
    dtype_of,
    fresh,
    read,
    to_unit_range,
)
from brushjax.training.objectives.denoising import draw
from brushjax.training.state import named_keys
from brushjax.typing import Params

OTHER = "other_"  # before the names of what a sample is given of another one


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

    @property
    def trains(self) -> tuple[str, ...]:
        return (r"vae\..*",)

    def shapes(self) -> Params:
        return {"vae": blueprint(AutoencoderKL, self.config)[1]}

    def load(self, key: jax.Array, wanted: Params) -> Params:
        if "vae" not in wanted:
            return {}
        return {"vae": fresh(AutoencoderKL, self.config, key, wanted["vae"])}

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        vae = build(AutoencoderKL, self.config, params["vae"])
        dtype = dtype_of(params["vae"])
        image = to_unit_range(batch["image"], jnp.float32)  # [B, H, W, 3]
        posterior = vae.encode(image.astype(dtype))
        latents = draw(posterior.mean, jnp.exp(0.5 * posterior.logvar), keys)  # [B, h, w, 4]
        output = vae.decode(latents.astype(dtype)).astype(jnp.float32)  # [B, H, W, 3]

        absolute = jnp.abs(output - image).mean()
        edges = edge_loss(output, image)
        divergence = kl_to_standard_normal(posterior.mean, posterior.logvar).mean()
        per_value = divergence * image.shape[0] / image.size
        value = absolute + self.edge_weight * edges + self.kl_weight * per_value
        logged = {
            "l1": absolute,
            "edges": edges,
            "kl": per_value,
            "psnr": psnr(output, image).mean(),
            "latent_std": latents.std(axis=(1, 2, 3)).mean(),
        }
        return _over_samples(len(image), value, logged)

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        config = dataclasses.replace(
            self.config, scaling_factor=self._scaling_factor(trainable, batch)
        )
        weights.save(build(AutoencoderKL, config, trainable["vae"]), folder / "vae")

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

        vae = trainable["vae"]
        return float(1.0 / jax.device_get(spread(vae, jax.device_put(batch["image"]))))


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

    @property
    def trains(self) -> tuple[str, ...]:
        return (r"vae\..*",)

    def shapes(self) -> Params:
        vae = blueprint(AutoencoderKL, self._config)[1]
        return {"vae": vae, "taught_by": {name: vae[name] for name in ("encoder", "quant_conv")}}

    def load(self, key: jax.Array, wanted: Params) -> Params:
        del key
        return {name: read("vae", self.vae, part) for name, part in wanted.items()}

    def prepare(self, frozen: Params, batch: Batch) -> Batch:
        """Adds the latents to be kept, which the untaught encoder makes of whole pictures."""
        whole = {**blueprint(AutoencoderKL, self._config)[1], **frozen["taught_by"]}
        vae = build(AutoencoderKL, self._config, whole)
        prepared = dict(batch)
        for other in ("", OTHER):
            if f"{other}image" in batch:
                posterior = vae.encode(to_unit_range(batch[f"{other}image"], dtype_of(frozen)))
                prepared |= {f"{other}mean": posterior.mean, f"{other}logvar": posterior.logvar}
        return prepared

    def across(self, batch: Batch) -> Batch:
        """Adds the picture, and its latents if known, that is pasted into each sample's hole."""
        before = preceding(jnp.asarray(batch["id"]))
        names = [name for name in ("image", "mean", "logvar") if name in batch]
        return {**batch, **{f"{OTHER}{name}": batch[name][before] for name in names}}

    def loss(self, params: Params, batch: Batch, keys: jax.Array) -> Losses:
        """Each sample three times: whole, without its hole, and with another's in its place."""
        vae = build(AutoencoderKL, self._config, params["vae"])
        image, hole = batch["image"], batch["mask"] > 0  # [B, H, W, 3], [B, H, W, 1]
        collage = jnp.where(hole, batch[f"{OTHER}image"], image)
        pictures = jnp.concatenate([image, jnp.where(hole, 0, image), collage])
        pictures, dtype = to_unit_range(pictures, jnp.float32), dtype_of(params["vae"])
        posterior = vae.encode(pictures.astype(dtype))  # [3B, h, w, 4]
        named = named_keys(keys, "decoded", "latents")

        cells = Cells.of(hole, image.shape[1] // batch["mean"].shape[1])
        scale = self._config.scaling_factor
        whole, holed, pasted = _latent_errors(cells, posterior.mean, batch, "mean", scale)
        spread = sum(_latent_errors(cells, posterior.logvar, batch, "logvar"))

        # Half of the samples are decoded as whole pictures, half as collages.
        as_whole = jax.vmap(jax.random.bernoulli)(named["decoded"])[:, None, None, None]

        def decoded(array: Array) -> Array:
            first, _, last = jnp.split(array, 3)
            return jnp.where(as_whole, first, last)

        deviation = jnp.exp(0.5 * decoded(posterior.logvar))
        latents = draw(decoded(posterior.mean), deviation, named["latents"])  # [B, h, w, 4]
        output = vae.decode(latents.astype(dtype)).astype(jnp.float32)  # [B, H, W, 3]
        target = decoded(pictures)
        absolute, edges = jnp.abs(output - target).mean(), edge_loss(output, target)
        value = (
            absolute
            + self.edge_weight * edges
            + self.latent_weight * (whole + holed + pasted)
            + self.logvar_weight * spread
        )
        errors = {"whole_error": whole, "holed_error": holed, "pasted_error": pasted}
        logged = {**errors, "logvar_error": spread, "psnr": psnr(output, target).mean()}
        return _over_samples(len(image), value, logged)

    def export(self, trainable: Params, folder: Path, batch: Batch) -> None:
        del batch
        weights.save(build(AutoencoderKL, self._config, trainable["vae"]), folder / "vae")

    @property
    def _config(self) -> VAEConfig:
        return read_config(VAEConfig, self.vae, "vae")


@dataclasses.dataclass(frozen=True)
class Cells:
    """Which latent cells of a sample show one picture alone, 1 or 0; those on the mask's edge show
    two, and no latents are known of them.

    Attributes:
      kept: cells outside the hole. [B, h, w, 1]
      filled: cells inside it. [B, h, w, 1]
    """

    kept: Float[Array, "B h w 1"]
    filled: Float[Array, "B h w 1"]

    @classmethod
    def of(cls, hole: Bool[Array, "B H W 1"], side: int) -> Cells:
        """Finds them for cells of `side` x `side` pixels."""
        kept = 1.0 - cell_maxima(hole.astype(jnp.float32), side)
        return cls(kept, 1.0 - cell_maxima(1.0 - hole.astype(jnp.float32), side))


def _latent_errors(
    cells: Cells, ours: Float[Array, "B3 h w C"], batch: Batch, name: str, scale: float = 1.0
) -> list[Array]:
    """Returns the mean squared error of the latents of whole pictures, of those without their hole,
    and of collages, each over the cells whose latents are known.

    Args:
      ours: of the three, one after the other.
      name: of the latents to be kept in the batch.
    """
    ours, wanted, other = (
        scale * array.astype(jnp.float32) for array in (ours, batch[name], batch[f"{OTHER}{name}"])
    )
    both = jnp.where(cells.filled > 0, other, wanted)
    known = (jnp.ones_like(cells.kept), cells.kept, cells.kept + cells.filled)
    return [
        means_of_cells(jnp.square(one - right), mask).mean()
        for one, right, mask in zip(jnp.split(ours, 3), (wanted, wanted, both), known)
    ]


def _over_samples(count: int, value: Array, logged: Mapping[str, Array]) -> Losses:
    """Returns means over so many samples as sums with their weights."""
    weight = jnp.float32(count)
    means = {name: Mean(weight * mean, weight) for name, mean in logged.items()}
    return Losses({"reconstruction": Mean(weight * value, weight)}, means)


def means_of_cells(values: Array, cells: Array) -> Array:
    """Returns each sample's mean [B] of values [B, h, w, C] over its cells [B, h, w, 1] that are 1;
    0 where none is."""
    axes = (1, 2, 3)
    return (cells * values).sum(axes) / jnp.maximum(cells.sum(axes) * values.shape[-1], 1)


def preceding(ids: Int[Array, " B"]) -> Int[Array, " B"]:
    """Returns the place of the sample that comes before each in the order of the ids; the last one
    comes before the first.

    Raises: ConfigError for a batch of one.
    """
    if len(ids) < 2:
        raise ConfigError("expected a batch_size of at least 2: samples are pasted into each other")
    order = jnp.argsort(ids, stable=True)
    return jnp.zeros_like(order).at[order].set(jnp.roll(order, 1))


def psnr(output: Float[Array, "B H W C"], target: Float[Array, "B H W C"]) -> Float[Array, " B"]:
    """Returns each picture's peak signal-to-noise ratio in dB; both are in [-1, 1]."""
    error = jnp.square(jnp.clip(output, -1, 1) - target).mean(axis=(1, 2, 3))
    return 10.0 * jnp.log10(4.0 / error)


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
