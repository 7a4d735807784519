"""What every latent-diffusion objective shares: encoding, noising, dropping captions, weighing."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from brushjax.config import ConfigError
from brushjax.data.text import Tokenizer
from brushjax.diffusion.losses import prediction_errors
from brushjax.diffusion.schedule import Schedule
from brushjax.models.vae import AutoencoderKL

C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class NoiseConfig:
    """The forward process, with the names of a published scheduler_config.json."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"

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


def draw(
    mean: Float[Array, "B h w C"], deviation: Float[Array, "B h w C"], key: Array
) -> Float[Array, "B h w C"]:
    """Returns latents drawn from the posterior."""
    return mean + deviation * jax.random.normal(key, mean.shape, mean.dtype)


def drop_captions(
    token_ids: Int[Array, "B L"], empty: Int[np.ndarray, " L"], share: float, key: Array
) -> Int[Array, "B L"]:
    """Replaces a share of the captions by the empty one, so that both are learnt."""
    dropped: Bool[Array, "B 1"] = jax.random.bernoulli(key, share, (token_ids.shape[0], 1))
    return jnp.where(dropped, jnp.asarray(empty), token_ids)


def weighted_error(
    prediction: Float[Array, "B h w C"],
    target: Float[Array, "B h w C"],
    timestep: Int[Array, " B"],
    schedule: Schedule,
    gamma: float,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the loss and the plain mean squared error.

    Args:
      gamma: of the min-SNR weighting min(SNR, gamma) / SNR of the noise's error; 0 weighs all
        timesteps alike.
    Source: Hang et al. 2023 (arXiv 2303.09556) section 3.4; for v the weight is min(SNR, gamma) /
      (SNR + 1).
    """
    errors = prediction_errors(prediction, target)  # [B]
    if not gamma:
        return errors.mean(), errors.mean()
    ratio = schedule.alphas_cumprod / (1.0 - schedule.alphas_cumprod)
    below = ratio + (schedule.prediction_type == "v_prediction")
    weights = jnp.asarray(np.minimum(ratio, gamma) / below, jnp.float32)
    return (weights[timestep] * errors).mean(), errors.mean()


@functools.cache
def read_tokenizer(folder: str) -> Tokenizer:
    """Returns the tokenizer of a folder; read once."""
    return Tokenizer.load(folder)


@functools.cache
def read_config(kind: type[C], folder: str, part: str) -> C:
    """Returns a model's published config from its folder, or from a pipeline folder that has it as
    `part`.

    Raises: ConfigError if there is none.
    """
    places = [Path(folder) / part / "config.json", Path(folder) / "config.json"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ConfigError(
            f"expected the {part} of a pipeline in diffusers layout at {folder}: neither of "
            f"{[str(place) for place in places]} is there"
        )
    return kind.from_dict(json.loads(path.read_text()))  # type: ignore[attr-defined]
