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

STABLE_DIFFUSION: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""The training noise of every published Stable Diffusion, in a scheduler_config.json's terms."""

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


# diffusers' classes whose noise is a table of betas over whole timesteps; they differ only in how
# they step through it, and that is the named sampler's business here.
DISCRETE = frozenset(
    """
    DDIM DDIMInverse DDIMParallel DDPM DDPMParallel DEISMultistep DPMSolverMultistep
    DPMSolverMultistepInverse DPMSolverSDE DPMSolverSinglestep EulerAncestralDiscrete EulerDiscrete
    HeunDiscrete KDPM2AncestralDiscrete KDPM2Discrete LCM LMSDiscrete PNDM SASolver TCD
    UniPCMultistep
    """.split()  # noqa: SIM905 - twenty names, one to a line, would be a page
)
# Every setting of these classes. Those that a named sampler honours it reads; the others only say
# how the class that wrote the file would step.
SETTINGS = frozenset(_DEFAULTS) | frozenset(
    """
    algorithm_type clip_sample clip_sample_range corrector_order disable_corrector dtype
    dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type
    lambda_min_clipped lower_order_final noise_sampler_seed original_inference_steps predict_x0
    predictor_order sample_max_value set_alpha_to_one shift_terminal sigma_max sigma_min
    skip_prk_steps solver_order solver_p solver_type steps_offset tau_func tensor_format
    thresholding time_shift_type timestep_scaling timestep_spacing timestep_type
    use_beta_sigmas use_dynamic_shifting use_exponential_sigmas use_flow_sigmas use_karras_sigmas
    use_lu_lambdas variance_type
    """.split()  # noqa: SIM905 - as above
)


def read_scheduler_config(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Returns a scheduler config as a dict, without the keys its writer only defaulted.

    Args:
        source: a dict, a scheduler_config.json, its folder, or the pipeline folder above it.

    Raises:
        FileNotFoundError: no scheduler_config.json there.
        ValueError: its noise is no table of betas, or it has a setting that nothing here reads.

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
    kept = {key: value for key, value in config.items() if key not in defaulted}
    if "predict_epsilon" in kept:  # what diffusers 0.8 wrote before there was a prediction_type
        old = "epsilon" if kept.pop("predict_epsilon") else "sample"
        kept.setdefault("prediction_type", old)
    _check_process(kept)
    return kept


def _check_process(config: Mapping[str, Any]) -> None:
    """Raises ValueError for a process that is not ours, before any sampler sees the config."""
    name = str(config.get("_class_name", ""))
    if name and name.removeprefix("Flax").removesuffix("Scheduler") not in DISCRETE:
        raise ValueError(
            "expected a scheduler class whose noise is a table of betas, such as DDIMScheduler, "
            f"got {name}: bases of EDM, of flow matching and of other continuous noise can't be "
            "run here; take a base of Stable Diffusion 1, 2 or XL"
        )
    unknown = sorted(key for key in config if key not in SETTINGS and not key.startswith("_"))
    if unknown:
        raise ValueError(
            f"expected the settings of diffusers' scheduler classes, got {', '.join(unknown)}, "
            f"which nothing here reads: remove what does not change the noise from the scheduler "
            f"config{f' ({name})' if name else ''}"
        )
    if config.get("use_flow_sigmas") or config.get("timestep_type", "discrete") != "discrete":
        key = "use_flow_sigmas" if config.get("use_flow_sigmas") else "timestep_type"
        raise ValueError(
            f"expected noise in discrete timesteps, got {key} {config[key]!r} in the scheduler "
            "config: bases of flow matching or EDM can't be run here"
        )


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
