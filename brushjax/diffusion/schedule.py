"""The forward process: float64 tables from a published scheduler_config.json."""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "linspace", "trailing")

# What diffusers' DDPM, DDIM, PNDM, UniPC, DPM-Solver and Euler classes assume for a missing key.
_DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
}


def read_scheduler_config(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a scheduler config as a dict, without the keys its writer only defaulted.

    Args:
        source: a dict, a scheduler_config.json, its folder, or the pipeline folder above it.

    Raises:
        FileNotFoundError: no scheduler_config.json there.

    Source: diffusers' ConfigMixin.extract_init_dict, which also drops what stands under
        "_use_default_values", so that another class may apply its own default.
    """
    if isinstance(source, Mapping):
        config = source
    else:
        path = Path(source)
        places = [path, path / "scheduler_config.json", path / "scheduler/scheduler_config.json"]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"expected a scheduler_config.json at one of {[str(p) for p in places]}, found none"
            )
        config = json.loads(file.read_text(encoding="utf-8"))
    defaulted = {"_use_default_values", *config.get("_use_default_values", ())}
    return {key: value for key, value in config.items() if key not in defaulted}


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """Discrete variance-preserving noise schedule: x_t = alpha_t x_0 + sigma_t noise.

    Attributes:
        alphas_cumprod: [T] float64, alpha_t squared; index is the timestep.
        prediction_type: what the network predicts, one of PREDICTION_TYPES.

    Source: Ho et al. 2020 eq. 4 (alpha-bar); v: Salimans & Ho 2022, appendix D.
    Differs: diffusers builds the betas in float32 (see docs/deviations.md).
    """

    alphas_cumprod: np.ndarray
    prediction_type: str

    @classmethod
    def from_config(cls, config: str | Path | Mapping[str, Any]) -> "Schedule":
        """Builds the tables from a published scheduler_config.json (dict, file or folder).

        Raises:
            ValueError: an unknown beta_schedule or prediction_type, or betas outside (0, 1).
        """
        values = {**_DEFAULTS, **read_scheduler_config(config)}
        if values["prediction_type"] not in PREDICTION_TYPES:
            raise ValueError(
                f"expected prediction_type in {PREDICTION_TYPES}, got {values['prediction_type']!r}"
            )
        betas = _betas(values)
        if not np.all((betas > 0) & (betas < 1)):
            raise ValueError(f"expected betas inside (0, 1), got {betas.min()} to {betas.max()}")
        alphas_cumprod = np.cumprod(1.0 - betas)
        if values["rescale_betas_zero_snr"]:
            alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
        return cls(alphas_cumprod, values["prediction_type"])

    @property
    def num_timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alphas_cumprod)

    @property
    def alphas(self) -> np.ndarray:
        """[T] float64, the weight of the clean latents."""
        return np.sqrt(self.alphas_cumprod)

    @property
    def sigmas(self) -> np.ndarray:
        """[T] float64, the weight of the noise."""
        return np.sqrt(1.0 - self.alphas_cumprod)

    def add_noise(
        self,
        latents: Float[Array, " B *S"],
        noise: Float[Array, " B *S"],
        timestep: Int[Array, " B"],
    ) -> Float[Array, " B *S"]:
        """Noises clean latents to their timesteps (in 0..T-1; JAX clamps what lies outside)."""
        alpha, sigma = self._weights(latents, timestep)
        return (alpha * latents + sigma * noise).astype(latents.dtype)

    def target(
        self,
        latents: Float[Array, " B *S"],
        noise: Float[Array, " B *S"],
        timestep: Int[Array, " B"],
    ) -> Float[Array, " B *S"]:
        """What the network should predict: the noise, v = alpha noise - sigma x_0, or x_0."""
        if self.prediction_type == "epsilon":
            return noise
        if self.prediction_type == "sample":
            return latents
        alpha, sigma = self._weights(latents, timestep)
        return (alpha * noise - sigma * latents).astype(latents.dtype)

    def _weights(self, latents: Array, timestep: Array) -> tuple[Array, Array]:
        dtype = jnp.promote_types(latents.dtype, jnp.float32)
        shape = (-1,) + (1,) * (latents.ndim - 1)  # [B] -> [B, 1, ...]
        alpha, sigma = (
            jnp.asarray(table, dtype)[timestep].reshape(shape)
            for table in (self.alphas, self.sigmas)
        )
        return alpha, sigma


def spaced_timesteps(
    steps: int,
    total: int,
    spacing: str,
    offset: int = 0,
    *,
    open_end: bool = False,
    whole: bool = True,
) -> np.ndarray:
    """Chooses `steps` of `total` training timesteps, noisiest first.

    Args:
        steps: how many.
        total: T.
        spacing: one of SPACINGS ("Common Diffusion Noise Schedules ... are Flawed", table 2).
        offset: added under "leading" (steps_offset of the config).
        open_end: space steps + 1 points and leave out the cleanest, as diffusers' multistep
            solvers (UniPC, DPM-Solver) do.
        whole: round to whole timesteps; Euler's solvers don't under "linspace".

    Returns:
        [steps] int64, or float64 if not whole.

    Raises:
        ValueError: steps outside 1..total, an unknown spacing, or a timestep beyond the table.
    """
    if not 1 <= steps <= total:
        raise ValueError(f"expected steps in 1..{total}, got {steps}")
    points = steps + int(open_end)
    if spacing == "linspace":
        even = np.linspace(0, total - 1, points)[::-1]
        chosen = even.round() if whole else even
    elif spacing == "leading":
        chosen = (np.arange(points) * (total // points))[::-1] + offset
    elif spacing == "trailing":
        chosen = np.arange(total, 0, -total / steps).round() - 1
    else:
        raise ValueError(f"expected timestep_spacing in {SPACINGS}, got {spacing!r}")
    chosen = chosen[:steps].astype(np.int64 if whole else np.float64)
    if chosen[0] >= total:
        raise ValueError(
            f"{steps} steps with spacing {spacing!r} and steps_offset {offset} reach timestep "
            f"{chosen[0]}, but the schedule ends at {total - 1}: take fewer steps"
        )
    return chosen


def _betas(values: Mapping[str, Any]) -> np.ndarray:
    start, end, total = values["beta_start"], values["beta_end"], values["num_train_timesteps"]
    if values["trained_betas"] is not None:
        return np.asarray(values["trained_betas"], np.float64)
    if values["beta_schedule"] == "linear":
        return np.linspace(start, end, total)
    if values["beta_schedule"] == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, total) ** 2
    if values["beta_schedule"] == "squaredcos_cap_v2":
        return _cosine_betas(total)
    raise ValueError(
        "expected beta_schedule 'linear', 'scaled_linear' or 'squaredcos_cap_v2', "
        f"got {values['beta_schedule']!r}"
    )


def _cosine_betas(total: int, cap: float = 0.999) -> np.ndarray:
    """Nichol & Dhariwal 2021 eq. 17."""
    time = np.arange(total + 1) / total
    alpha_bar = np.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], cap)


def _zero_terminal_snr(alphas_cumprod: np.ndarray) -> np.ndarray:
    """Lin et al. 2023, algorithm 1: the first alpha stays, the last becomes 0."""
    root = np.sqrt(alphas_cumprod)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
