"""One- and multistep solvers other than UniPC, each a table of weights built in float64.

Everything is in variance-preserving units, x = alpha x_0 + sigma noise, also where diffusers' class
works on x / alpha (Euler): the network sees the same input, and the end, at alpha 1, is the same.
"""

from typing import Any

import numpy as np

from brushjax.diffusion.levels import (
    estimate_weights,
    expect,
    karras_spaced,
    multistep_levels,
    noise_ratios,
    resolve,
    timestep_of,
)
from brushjax.diffusion.schedule import STABLE_DIFFUSION, Schedule, spaced_timesteps
from brushjax.diffusion.tables import Sampler, make_tables


def ddim_rows(config: dict[str, Any], steps: int) -> Sampler:
    """Deterministic DDIM (eta 0): Song et al. 2021, eq. 12."""
    values = resolve(
        config, {"timestep_spacing": "leading", "clip_sample": True, "set_alpha_to_one": True}
    )
    schedule = Schedule.from_config(values)
    total = schedule.num_timesteps
    time = spaced_timesteps(steps, total, values["timestep_spacing"], values["steps_offset"])
    next_cumprod = _cumprod_at(schedule, time - total // steps, values["set_alpha_to_one"])
    alpha, sigma = schedule.alphas[time], schedule.sigmas[time]
    ratio = np.sqrt(1.0 - next_cumprod) / sigma
    predict = np.stack([ratio, np.sqrt(next_cumprod) - alpha * ratio], axis=1)
    return make_tables(time, estimate_weights(schedule.prediction_type, alpha, sigma), predict)


def pndm_rows(config: dict[str, Any], steps: int) -> Sampler:
    """PLMS, the linear multistep form of PNDM: Liu et al. 2022, eq. 12 on eq. 9.

    The estimates are the raw predictions here. The second step repeats the first with the mean of
    both predictions (a Heun step), so there are n + 1 network calls.
    """
    values = resolve(
        config,
        {"timestep_spacing": "leading", "set_alpha_to_one": False, "skip_prk_steps": False},
    )
    expect(values, "PNDM (its Runge-Kutta start is not implemented)", skip_prk_steps=(True,))
    schedule = Schedule.from_config(values)
    if schedule.prediction_type == "sample":
        raise ValueError(
            "expected a model that predicts noise or v for PNDM, got 'sample'; ddim takes it"
        )
    total = schedule.num_timesteps
    time = spaced_timesteps(steps, total, values["timestep_spacing"], values["steps_offset"])
    stride = total // steps
    start, end = time.copy(), time - stride
    if steps > 1:  # the second timestep is visited twice, first as the end of a step from above
        time = np.concatenate([time[:2], time[1:]])
        start = np.concatenate([start[:1], time[1:2] + stride, start[1:]])
        end = np.concatenate([end[:1], time[1:2], end[1:]])
    correct = np.tile([1.0, 0.0], (len(time), 1))
    correct[1:2] = [0.0, 1.0]
    mix = _adams_bashforth(len(time))  # [n, 5] on m and four earlier
    before = schedule.alphas_cumprod[np.minimum(start, total - 1)]
    after = _cumprod_at(schedule, end, values["set_alpha_to_one"])
    to_x, to_noise = _pndm_transfer(before, after)
    if schedule.prediction_type == "v_prediction":
        to_x = to_x + to_noise * np.sqrt(1.0 - before)
        to_noise = to_noise * np.sqrt(before)
    predict = np.concatenate([to_x[:, None], to_noise[:, None] * mix], axis=1)
    raw = np.zeros(len(time)), np.ones(len(time))
    return make_tables(time, raw, predict, correct)


def _pndm_transfer(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of sample and noise when going from one alpha-bar to the next: PNDM's eq. 9."""
    denominator = before * np.sqrt(1.0 - after) + np.sqrt(before * (1.0 - before) * after)
    return np.sqrt(after / before), -(after - before) / denominator


def _adams_bashforth(calls: int) -> np.ndarray:
    """Weights on this prediction and the four before it; the second call's is never used again."""
    mix = np.tile(np.array([55.0, -59.0, 37.0, -9.0, 0.0]) / 24, (calls, 1))
    first = [
        [1.0, 0.0, 0.0, 0.0, 0.0],
        [0.5, 0.5, 0.0, 0.0, 0.0],
        [1.5, 0.0, -0.5, 0.0, 0.0],
        [23 / 12, -16 / 12, 0.0, 5 / 12, 0.0],
        [55 / 24, -59 / 24, 37 / 24, 0.0, -9 / 24],
    ]
    mix[: min(calls, 5)] = first[:calls]
    return mix


def _cumprod_at(schedule: Schedule, time: np.ndarray, end_at_one: bool) -> np.ndarray:
    """alpha-bar at timesteps; below 0 it is 1 or, as for SD 1.5, that of timestep 0."""
    final = 1.0 if end_at_one else schedule.alphas_cumprod[0]
    return np.where(time >= 0, schedule.alphas_cumprod[np.maximum(time, 0)], final)


def dpm_rows(config: dict[str, Any], steps: int) -> Sampler:
    """DPM-Solver++ multistep of order 1 to 3 (2M by default): Lu et al. 2022b, algorithm 2."""
    values = resolve(
        config,
        {
            "timestep_spacing": "linspace",
            "solver_order": 2,
            "algorithm_type": "dpmsolver++",
            "solver_type": "midpoint",
            "lower_order_final": True,
            "euler_at_final": False,
            "final_sigmas_type": "zero",
            "use_karras_sigmas": False,
            "lambda_min_clipped": -np.inf,
            "variance_type": None,
        },
    )
    expect(
        values,
        "DPM-Solver++",
        algorithm_type=("dpmsolver++", "deis"),  # diffusers replaces DEIS by DPM-Solver++ too
        solver_type=("midpoint", "heun", "logrho", "bh1", "bh2"),
        solver_order=(1, 2, 3),
        lambda_min_clipped=(-np.inf,),
        variance_type=(None,),
    )
    schedule, order = Schedule.from_config(values), values["solver_order"]
    time, ratio = multistep_levels(schedule, values, steps)
    short = values["lower_order_final"] and steps < 15
    predict = np.zeros((steps, 1 + 3))
    for i in range(steps):
        used = min(order, i + 1)
        if i == steps - 2 and short:
            used = min(used, 2)
        if i == steps - 1 and (short or values["euler_at_final"] or ratio[-1] == 0.0):
            used = 1
        predict[i] = _dpm_weights(ratio, i, used, values["solver_type"] == "heun")
    alpha = 1.0 / np.sqrt(1.0 + ratio[:-1] ** 2)
    estimate = estimate_weights(schedule.prediction_type, alpha, ratio[:-1] * alpha)
    return make_tables(time, estimate, predict)


def dpm_karras_rows(config: dict[str, Any], steps: int) -> Sampler:
    """DPM-Solver++ 2M on the noise levels of Karras et al. 2022."""
    return dpm_rows({**config, "use_karras_sigmas": True}, steps)


def _dpm_weights(ratio: np.ndarray, i: int, order: int, heun: bool) -> np.ndarray:
    """Weights on x, m, m[i-1], m[i-2] of the update from level i to i + 1."""
    alpha = 1.0 / np.sqrt(1.0 + ratio[i + 1] ** 2)
    start_alpha = 1.0 / np.sqrt(1.0 + ratio[i] ** 2)
    log_snr = -np.log(ratio)  # infinite where the final sigma is 0
    h = log_snr[i + 1] - log_snr[i]
    phi = np.expm1(-h)
    now, one, two = np.eye(3)  # m, m[i-1], m[i-2]
    estimates = -alpha * phi * now
    if order > 1:
        near = (log_snr[i] - log_snr[i - 1]) / h
        slope = (now - one) / near
    if order == 2:
        estimates = estimates + alpha * (phi / h + 1.0 if heun else -0.5 * phi) * slope
    if order == 3:
        far = (log_snr[i - 1] - log_snr[i - 2]) / h
        bend = slope - (one - two) / far
        estimates = estimates + alpha * (phi / h + 1.0) * (slope + near / (near + far) * bend)
        estimates = estimates - alpha * ((phi + h) / h**2 - 0.5) * bend / (near + far)
    return np.concatenate([[ratio[i + 1] * alpha / (ratio[i] * start_alpha)], estimates])


def euler_rows(config: dict[str, Any], steps: int) -> Sampler:
    """Euler's method without churn: Karras et al. 2022, algorithm 2 with S_churn 0."""
    values = resolve(
        config,
        {
            "timestep_spacing": "linspace",
            "interpolation_type": "linear",
            "timestep_type": "discrete",
            "final_sigmas_type": "zero",
            "use_karras_sigmas": False,
        },
    )
    expect(values, "Euler", interpolation_type=("linear",), timestep_type=("discrete",))
    expect(values, "Euler", final_sigmas_type=("zero", "sigma_min"))
    schedule = Schedule.from_config(values)
    ratios = noise_ratios(schedule)
    time, chosen = _euler_levels(values, ratios, steps)
    if values["use_karras_sigmas"]:
        chosen = karras_spaced(values, chosen[0], chosen[-1], steps)
        time = timestep_of(chosen, ratios)
    end = ratios[0] if values["final_sigmas_type"] == "sigma_min" else 0.0
    return _euler_tables(schedule, values, time, chosen, np.append(chosen[1:], end))


def euler_ancestral_rows(config: dict[str, Any], steps: int) -> Sampler:
    """Euler's method to below the next level, then noise up to it: k-diffusion's ancestral form."""
    values = resolve(config, {"timestep_spacing": "linspace"})
    schedule = Schedule.from_config(values)
    if schedule.prediction_type == "sample":
        raise ValueError(
            "expected a model that predicts noise or v for euler-a, got 'sample'; ddim takes it"
        )
    time, chosen = _euler_levels(values, noise_ratios(schedule), steps)
    after = np.append(chosen[1:], 0.0)
    up = after * np.sqrt(np.maximum(0.0, 1.0 - (after / chosen) ** 2))
    down = np.sqrt(np.maximum(0.0, after**2 - up**2))
    return _euler_tables(schedule, values, time, chosen, after, down, up)


def _euler_levels(
    values: dict[str, Any], ratios: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps and sigma / alpha [n] of Euler's methods, which keep fractional timesteps."""
    spacing, offset = values["timestep_spacing"], values["steps_offset"]
    time = spaced_timesteps(steps, len(ratios), spacing, offset, whole=False)
    return time, np.interp(time, np.arange(len(ratios)), ratios)


def _euler_tables(
    schedule: Schedule,
    values: dict[str, Any],
    time: np.ndarray,
    ratio: np.ndarray,
    after: np.ndarray,
    down: np.ndarray | None = None,
    up: np.ndarray | None = None,
) -> Sampler:
    """Steps from `ratio` to `down` (`after` if not given) plus noise of size `up`."""
    down = after if down is None else down
    alpha = 1.0 / np.sqrt(1.0 + ratio**2)
    next_alpha = 1.0 / np.sqrt(1.0 + after**2)
    next_alpha[-1] = 1.0  # what comes out is in the units of the clean latents
    kept = down / ratio
    predict = np.stack([next_alpha * kept / alpha, next_alpha * (1.0 - kept)], axis=1)
    estimate = estimate_weights(schedule.prediction_type, alpha, ratio * alpha)
    noise = None if up is None else next_alpha * up
    # diffusers starts from noise of size sigma / alpha, without a clean image's share in the norm,
    # unless the timesteps are "leading".
    scale = 1.0 if values["timestep_spacing"] == "leading" else float(ratio[0] * alpha[0])
    return make_tables(time, estimate, predict, noise=noise, scale=scale)


def lcm_rows(config: dict[str, Any], steps: int) -> Sampler:
    """Multistep latent consistency sampling: Luo et al. 2023, algorithm 3, boundary of eq. 9."""
    values = resolve(
        config,
        {
            **STABLE_DIFFUSION,
            "original_inference_steps": 50,
            "clip_sample": False,
            "timestep_scaling": 10.0,
        },
    )
    schedule = Schedule.from_config(values)
    original, total = values["original_inference_steps"], schedule.num_timesteps
    if not 1 <= steps <= original:
        raise ValueError(
            f"expected steps in 1..{original} for LCM (original_inference_steps), got {steps}"
        )
    learned = (np.arange(1, original + 1) * (total // original) - 1)[::-1]
    time = learned[np.floor(np.linspace(0, original, steps, endpoint=False)).astype(int)]
    scaled, data = time * values["timestep_scaling"], 0.5  # the standard deviation of data
    skip, out = data**2 / (scaled**2 + data**2), scaled / np.sqrt(scaled**2 + data**2)
    alpha, sigma = np.append(schedule.alphas[time[1:]], 1.0), schedule.sigmas[time[1:]]
    predict = np.stack([alpha * skip, alpha * out], axis=1)
    estimate = estimate_weights(
        schedule.prediction_type, schedule.alphas[time], schedule.sigmas[time]
    )
    return make_tables(time, estimate, predict, noise=np.append(sigma, 0.0))
