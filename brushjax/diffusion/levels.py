"""What solvers read from a published scheduler config: settings, timesteps and noise levels."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from brushjax.diffusion.schedule import Schedule, spaced_timesteps

KARRAS_RHO = 7.0  # Karras et al. 2022, section 3 and table 1


class Settings(dict):
    """A solver's settings; `given` are those that the config names, the others are defaults."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any]):
        super().__init__({**defaults, **config})
        self.given = frozenset(config)

    def shown(self, key: str) -> str:
        """A value for a message, with where it comes from."""
        source = "" if key in self.given else ", the default where the config names none"
        return f"{self[key]!r}{source}"


def resolve(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Settings:
    """A solver's settings: the config's, else its class's defaults.

    Raises:
        ValueError: a setting that the solver's class honours and that is not implemented.
    """
    values = Settings(config, {"num_train_timesteps": 1000, "steps_offset": 0, **defaults})
    spacing = "this spacing of the sigmas is not implemented"
    refused = {"thresholding": "dynamic thresholding is for pixel-space models"}
    if "clip_sample" in defaults:
        refused["clip_sample"] = "clipping is for pixel-space models"
    if "use_karras_sigmas" in defaults:  # a class that spaces sigmas reads the other spacings too
        refused |= dict.fromkeys(("use_exponential_sigmas", "use_beta_sigmas"), spacing)
        refused |= {"use_lu_lambdas": spacing}
        refused["solver_p"] = "a foreign predictor is not implemented"
    for key in sorted(refused):
        if values.get(key):
            raise ValueError(
                f"expected {key} to be false in the scheduler config, got {values.shown(key)} "
                f"({refused[key]}): set it to false"
            )
    return values


def expect(values: Settings, solver: str, **expected: tuple[Any, ...]) -> None:
    """Raises ValueError where a setting is not one of those that a solver implements."""
    for key, choices in expected.items():
        if values[key] not in choices:
            names = " or ".join(repr(choice) for choice in choices)
            raise ValueError(f"expected {key} {names} for {solver}, got {values.shown(key)}")


def estimate_weights(
    prediction_type: str, alpha: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the clean estimate on (sample, prediction)."""
    if prediction_type == "v_prediction":
        return alpha, -sigma
    if prediction_type == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    return 1.0 / alpha, -sigma / alpha


def noise_ratios(schedule: Schedule) -> np.ndarray:
    """sigma / alpha at every training timestep, [T]; finite also at zero terminal SNR."""
    cumprod = schedule.alphas_cumprod.copy()
    if cumprod[-1] == 0.0:
        cumprod[-1] = 2.0**-24  # diffusers' stand-in for an infinite ratio
    return np.sqrt((1.0 - cumprod) / cumprod)


def multistep_levels(
    schedule: Schedule, values: Settings, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps [n] and sigma / alpha [n + 1] of the multistep solvers, UniPC and DPM-Solver++.

    Raises:
        ValueError: an unknown final_sigmas_type, or what `spaced_timesteps` refuses.
    """
    ratios = noise_ratios(schedule)
    ends = {"zero": 0.0, "sigma_min": ratios[0]}
    expect(values, "the named sampler", final_sigmas_type=tuple(ends))
    end = ends[values["final_sigmas_type"]]
    time = spaced_timesteps(
        steps,
        schedule.num_timesteps,
        values["timestep_spacing"],
        values["steps_offset"],
        open_end=True,
    )
    if not values["use_karras_sigmas"]:
        return time, np.append(ratios[time.astype(int)], end)
    chosen = karras_spaced(values, ratios[-1], ratios[0], steps)
    time = timestep_of(chosen, ratios)
    # diffusers keeps fractions under the cosine schedule, then drops them as it makes integers.
    whole = np.trunc if values.get("beta_schedule") == "squaredcos_cap_v2" else np.round
    return whole(time), np.append(chosen, end)


def karras_spaced(
    values: Mapping[str, Any], largest: np.number, smallest: np.number, steps: int
) -> np.ndarray:
    """Ratios sigma / alpha spaced evenly in their seventh root, noisiest first.

    A config's sigma_max and sigma_min take the place of the given ends.

    Source: Karras et al. 2022, eq. 5.
    """
    top, bottom = (
        end if values.get(name) is None else values[name]
        for name, end in (("sigma_max", largest), ("sigma_min", smallest))
    )
    roots = np.linspace(top ** (1 / KARRAS_RHO), bottom ** (1 / KARRAS_RHO), steps)
    return roots**KARRAS_RHO


def timestep_of(chosen: np.ndarray, ratios: np.ndarray) -> np.ndarray:
    """The (fractional) training timesteps of noise levels, linear in the logarithm."""
    return np.interp(np.log(np.maximum(chosen, 1e-10)), np.log(ratios), np.arange(len(ratios)))
