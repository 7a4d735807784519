"""What every latent-diffusion objective shares: encoding, noising, dropping captions, weighing."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from brushjax.diffusion.losses import min_snr_weights, prediction_errors, timestep_quarters
from brushjax.diffusion.schedule import STABLE_DIFFUSION, Schedule
from brushjax.models.vae import AutoencoderKL
from brushjax.training.objectives.contract import Losses, Mean


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The forward process, with the names of a published scheduler_config.json."""

    num_train_timesteps: int = STABLE_DIFFUSION["num_train_timesteps"]
    beta_start: float = STABLE_DIFFUSION["beta_start"]
    beta_end: float = STABLE_DIFFUSION["beta_end"]
    beta_schedule: str = STABLE_DIFFUSION["beta_schedule"]
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"

    def to_dict(self) -> dict[str, Any]:
        """Returns a published scheduler_config.json, for sampling as Stable Diffusion 1.5 does."""
        sampling = {"set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False}
        return {"_class_name": "DDIMScheduler", **dataclasses.asdict(self), **sampling}

    def schedule(self) -> Schedule:
        """Returns the tables."""
        return Schedule.from_config(self.to_dict())


def encode(
    vae: AutoencoderKL, images: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
    """Returns mean and standard deviation of the scaled latents, for `draw`."""
    posterior = vae.encode(images)
    factor = vae.config.scaling_factor
    return posterior.mean * factor, jnp.exp(0.5 * posterior.logvar) * factor


def gaussian(keys: Array, like: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """Returns standard normal values for each sample, drawn with its own key; at least float32, as
    bfloat16 has but 128 of them."""
    dtype = jnp.promote_types(like.dtype, jnp.float32)
    return jax.vmap(lambda key: jax.random.normal(key, like.shape[1:], dtype))(keys)


def draw(
    mean: Float[Array, "B h w C"], deviation: Float[Array, "B h w C"], keys: Array
) -> Float[Array, "B h w C"]:
    """Returns latents drawn from the posterior, at least float32."""
    return mean + deviation * gaussian(keys, mean)


def draw_timesteps(keys: Array, schedule: Schedule) -> Int[Array, " B"]:
    """Returns a uniform timestep for each sample."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, schedule.num_timesteps))(keys)


def drop_captions(
    token_ids: Int[Array, "B L"], empty: Int[np.ndarray, " L"], share: int | float, keys: Array
) -> Int[Array, "B L"]:
    """Replaces a share of the captions by the empty one, so that both are learnt."""
    dropped: Bool[Array, " B"] = jax.vmap(lambda key: jax.random.bernoulli(key, share))(keys)
    return jnp.where(dropped[:, None], jnp.asarray(empty), token_ids)


def edge_weights(keep: Float[Array, "B h w 1"], gain: int | float) -> Float[Array, "B h w 1"]:
    """Returns weights of latent cells that are 1 + gain where a cell or one of its eight neighbours
    lies on the other side of the mask's edge, over their mean in the sample.

    Args:
      keep: 1 = keep, 0 = hole.
    """

    def largest(cells: Array) -> Array:
        return jax.lax.reduce_window(cells, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1,) * 4, "SAME")

    keep = keep.astype(jnp.float32)
    weights = 1.0 + gain * (largest(keep) + largest(-keep))  # 1 - 0 at the edge, else 0
    return weights / weights.mean(axis=(1, 2, 3), keepdims=True)


def weighted_error(
    prediction: Float[Array, "B h w C"],
    target: Float[Array, "B h w C"],
    timestep: Int[Array, " B"],
    schedule: Schedule,
    gamma: int | float,
    cells: Float[Array, "B h w 1"] | None = None,
) -> Losses:
    """Returns the loss, a mean over samples; logged beside it is the plain mean squared error, by
    quarter of the timesteps (the first holds the cleanest, whose errors the whole mean hides) and,
    where the loss weighs it, whole.

    Args:
      gamma: of `min_snr_weights`; 0 weighs all timesteps equally.
      cells: weight of every latent cell, of mean 1 in each sample; None weighs all equally.
    """
    errors = prediction_errors(prediction, target)  # [B]
    quarters = timestep_quarters(errors, timestep, schedule.num_timesteps)
    logged = {"error_quarter": Mean(*quarters)}
    if gamma or cells is not None:
        logged["error"] = Mean.over(errors)
    if cells is not None:
        root = jnp.sqrt(cells)
        errors = prediction_errors(prediction * root, target * root)
    if gamma:
        weights = min_snr_weights(schedule.alphas_cumprod, schedule.prediction_type, gamma)
        errors = jnp.asarray(weights, jnp.float32)[timestep] * errors
    return Losses({"denoising": Mean.over(errors)}, logged)
