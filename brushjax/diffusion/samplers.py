"""Samplers as tables: every solver is a set of weights per step, built in float64 on the host.

A step turns the network's prediction into an estimate m of the clean latents, may correct the
current sample with it, and predicts the next one:

    m      = from_sample * x + from_prediction * prediction
    x_c    = correct[0] * x + correct[1] * last + correct[2] * m + correct[3:] * (earlier m)
    x_next = predict[0] * x_c + predict[1] * m + predict[2:] * (earlier m)

`last` is x_c of the step before. DDIM and UniPC differ in nothing but these numbers, so one loop
runs them all, and a solver's tables are arguments of a compiled program, not part of it.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brushjax.diffusion.schedule import Schedule, read_scheduler_config, spaced_timesteps

# Earlier estimates that every sampler carries, needed or not (UniPC of order 2 needs two): samplers
# of one form share a compiled program.
REMEMBERED = 2

Table = Any  # an array; JAX also puts tracers, shapes and markers in a pytree's places


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepRows:
    """The weights of all steps (leading axis n), or of one step inside the loop.

    Attributes:
        timestep: [n] int32, what the network is told.
        from_sample, from_prediction: [n], the clean estimate m from sample and prediction.
        correct: [n, 2 + M] weights on x, last, m and the M - 1 earlier estimates.
        predict: [n, 1 + M] weights on x_c, m and the M - 1 earlier estimates.
    """

    timestep: Table
    from_sample: Table
    from_prediction: Table
    correct: Table
    predict: Table


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SamplerState:
    """What a step hands to the next: sample, last corrected sample, earlier estimates of m."""

    sample: Table  # [B, h, w, C], as the others
    last: Table
    earlier: tuple[Table, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sampler:
    """A solver for one number of steps: a pytree of tables with pure functions.

    Attributes:
        rows: the weights; their number of columns says how many estimates are remembered.
    """

    rows: StepRows

    @property
    def steps(self) -> int:
        """Number of network calls."""
        return self.rows.timestep.shape[0]

    def start(self, noise: Float[Array, "B h w C"]) -> SamplerState:
        """The state before the first step, from standard normal noise."""
        remembered = self.rows.predict.shape[-1] - 2
        return SamplerState(noise, noise, (jnp.zeros_like(noise),) * remembered)

    def step(
        self, state: SamplerState, row: StepRows, prediction: Float[Array, "B h w C"]
    ) -> SamplerState:
        """One step with one row of the tables; `prediction` is already guided."""
        x = state.sample
        m = row.from_sample * x + row.from_prediction * prediction.astype(x.dtype)
        estimates = (m, *state.earlier)
        corrected = _weighted(row.correct, (x, state.last, *estimates))
        sample = _weighted(row.predict, (corrected, *estimates))
        return SamplerState(sample, corrected, estimates[:-1])


def sample(
    sampler: Sampler,
    predict: Callable[[Array, Array, Any], Array],
    noise: Float[Array, "B h w C"],
    per_step: Any = (),
    trajectory: bool = False,
) -> Array:
    """Runs the whole denoising loop as one lax.scan. Guidance and networks live in `predict`.

    Args:
        sampler: from make_sampler.
        predict: (sample [B,h,w,C], timestep scalar, this step's slice of per_step) -> prediction.
        noise: standard normal start, in the sampler's dtype.
        per_step: pytree of arrays with leading axis n, such as the branch's scale.
        trajectory: return the latents after every step, [n,B,h,w,C], instead of the last ones.

    Returns:
        Latents [B,h,w,C], or all of them.
    """

    def body(state: SamplerState, inputs: tuple[StepRows, Any]) -> tuple[SamplerState, Any]:
        row, extra = inputs
        prediction = predict(state.sample, row.timestep, extra)
        state = sampler.step(state, row, prediction)
        return state, state.sample if trajectory else None

    state, samples = jax.lax.scan(body, sampler.start(noise), (sampler.rows, per_step))
    return samples if trajectory else state.sample


def make_sampler(
    name: str, config: str | Path | Mapping[str, Any], steps: int, dtype: Any = np.float32
) -> Sampler:
    """Builds a sampler from a published scheduler_config.json of any diffusers class.

    Args:
        name: one of SAMPLERS. "unipc" ends at today's diffusers' final sigma (0 unless the config
            says otherwise), "unipc-reference" at the sigma of timestep 0, as BrushNet's fork.
        config: dict, file or folder. Keys it lacks take the default of the named sampler's
            diffusers class, as that class's from_config does.
        steps: number of steps, 1..T.
        dtype: of the tables; they are computed in float64 and cast once.

    Raises:
        ValueError: unknown name, a setting that is not implemented, or steps out of range.
    """
    if name not in SAMPLERS:
        raise ValueError(f"expected scheduler in {sorted(SAMPLERS)}, got {name!r}")
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is reported below
        rows = SAMPLERS[name](read_scheduler_config(config), steps)
    floats = [rows.from_sample, rows.from_prediction, rows.correct, rows.predict]
    if not all(np.isfinite(table).all() for table in floats):
        raise ValueError(
            f"{name} with {steps} steps has no finite weights: two steps share a timestep, or the "
            "schedule has zero terminal SNR with epsilon prediction; take fewer steps or another "
            "timestep_spacing"
        )
    correct, predict = _widened(rows.correct, 3), _widened(rows.predict, 2)
    floats = [rows.from_sample, rows.from_prediction, correct, predict]
    return Sampler(
        StepRows(np.asarray(rows.timestep, np.int32), *(np.asarray(f, dtype) for f in floats))
    )


def _widened(weights: np.ndarray, own: int) -> np.ndarray:
    """Pads the columns behind the `own` first ones, the earlier estimates, to REMEMBERED."""
    return np.pad(weights, ((0, 0), (0, max(0, own + REMEMBERED - weights.shape[1]))))


def _weighted(weights: Table, terms: tuple[Array, ...]) -> Array:
    # Not a dot product: TPUs would multiply in bfloat16.
    return sum((weight * term for weight, term in zip(weights, terms)), jnp.zeros_like(terms[0]))


def _resolve(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    values = {"num_train_timesteps": 1000, "steps_offset": 0, **defaults, **config}
    refused = {
        "clip_sample": "clipping is for pixel-space models",
        "thresholding": "dynamic thresholding is for pixel-space models",
        "use_karras_sigmas": "other sigma spacings are not implemented",
        "use_exponential_sigmas": "other sigma spacings are not implemented",
        "use_beta_sigmas": "other sigma spacings are not implemented",
        "use_flow_sigmas": "flow matching is not implemented",
        "solver_p": "a foreign predictor is not implemented",
    }
    used = {"clip_sample"} if "clip_sample" in defaults else refused.keys() - {"clip_sample"}
    for key in sorted(used | {"thresholding"}):
        if values.get(key):
            raise ValueError(
                f"expected {key} to be false in the scheduler config, got {values[key]!r} "
                f"({refused[key]}): set it to false"
            )
    return values


def _estimate_weights(
    prediction_type: str, alpha: np.ndarray, sigma: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the clean estimate on (sample, prediction)."""
    if prediction_type == "v_prediction":
        return alpha, -sigma
    if prediction_type == "sample":
        return np.zeros_like(alpha), np.ones_like(alpha)
    return 1.0 / alpha, -sigma / alpha


def _ddim_rows(config: dict[str, Any], steps: int) -> StepRows:
    """Deterministic DDIM (eta 0): Song et al. 2021, eq. 12."""
    values = _resolve(
        config, {"timestep_spacing": "leading", "clip_sample": True, "set_alpha_to_one": True}
    )
    schedule = Schedule.from_config(config)
    total = schedule.num_timesteps
    time = spaced_timesteps(steps, total, values["timestep_spacing"], values["steps_offset"])
    before = time - total // steps
    final = 1.0 if values["set_alpha_to_one"] else schedule.alphas_cumprod[0]
    next_cumprod = np.where(before >= 0, schedule.alphas_cumprod[np.maximum(before, 0)], final)
    alpha, sigma = schedule.alphas[time], schedule.sigmas[time]
    next_alpha, ratio = np.sqrt(next_cumprod), np.sqrt(1.0 - next_cumprod) / sigma
    correct = np.tile([1.0, 0.0, 0.0], (steps, 1))
    predict = np.stack([ratio, next_alpha - alpha * ratio], axis=1)
    estimate = _estimate_weights(schedule.prediction_type, alpha, sigma)
    return StepRows(time, *estimate, correct, predict)


def _unipc_rows(
    config: dict[str, Any], steps: int, final_sigmas_type: str | None = None
) -> StepRows:
    """UniPC-p in its B(h) form on clean estimates: Zhao et al. 2023, algorithms 5 and 6."""
    values = _resolve(
        config,
        {
            "timestep_spacing": "linspace",
            "solver_order": 2,
            "solver_type": "bh2",
            "predict_x0": True,
            "lower_order_final": True,
            "disable_corrector": (),
            "final_sigmas_type": "zero",
        },
    )
    if not values["predict_x0"]:
        raise ValueError("expected predict_x0 true for UniPC, got false: set it to true")
    schedule = Schedule.from_config(config)
    total, order = schedule.num_timesteps, values["solver_order"]
    time = spaced_timesteps(
        steps, total, values["timestep_spacing"], values["steps_offset"], open_end=True
    )
    ratio = _sigma_ratios(schedule, time, final_sigmas_type or values["final_sigmas_type"])
    alpha = 1.0 / np.sqrt(1.0 + ratio**2)  # [n + 1], the last entry is the end point
    correct = np.tile(np.eye(1, 3 + order), (steps, 1))
    predict = np.zeros((steps, 2 + order))
    used = 0
    for i in range(steps):
        if i > 0 and i - 1 not in values["disable_corrector"]:
            weights = _bh_weights(ratio, i, used, values["solver_type"], corrector=True)
            correct[i, 0] = 0.0
            correct[i, 1 : 1 + len(weights)] = weights
        left = steps - i if values["lower_order_final"] else order
        used = min(order, left, i + 1)
        weights = _bh_weights(ratio, i + 1, used, values["solver_type"], corrector=False)
        predict[i, : len(weights)] = weights
    sigma = ratio * alpha
    estimate = _estimate_weights(schedule.prediction_type, alpha[:-1], sigma[:-1])
    return StepRows(time, *estimate, correct, predict)


def _sigma_ratios(schedule: Schedule, time: np.ndarray, final_sigmas_type: str) -> np.ndarray:
    """sigma / alpha at the chosen timesteps and at the end point, [n + 1]."""
    cumprod = schedule.alphas_cumprod.copy()
    if cumprod[-1] == 0.0:
        cumprod[-1] = 2.0**-24  # zero terminal SNR: diffusers' stand-in for an infinite ratio
    ratios = np.sqrt((1.0 - cumprod) / cumprod)
    ends = {"zero": 0.0, "sigma_min": ratios[0]}
    if final_sigmas_type not in ends:
        raise ValueError(f"expected final_sigmas_type in {list(ends)}, got {final_sigmas_type!r}")
    return np.append(ratios[time], ends[final_sigmas_type])


def _bh_weights(
    ratio: np.ndarray, target: int, order: int, solver_type: str, corrector: bool
) -> np.ndarray:
    """Weights of one UniP or UniC update from grid point target - 1 to `target`.

    Returns:
        UniP: weights on x, m[target-1], m[target-2], ... (1 + order of them).
        UniC: weights on x, m[target], m[target-1], m[target-2], ... (2 + order of them).
    """
    start = target - 1
    alpha = 1.0 / np.sqrt(1.0 + ratio[target] ** 2)
    start_alpha = 1.0 / np.sqrt(1.0 + ratio[start] ** 2)
    log_snr = -np.log(ratio)  # infinite where the final sigma is 0
    h = log_snr[target] - log_snr[start]
    phi = np.expm1(-h)
    weights = np.zeros(2 + order)  # x, m[target], m[start], m[start-1], ...
    weights[0] = ratio[target] * alpha / (ratio[start] * start_alpha)
    weights[2] = -alpha * phi
    nodes = np.array([(log_snr[start - k] - log_snr[start]) / h for k in range(1, order)] + [1.0])
    rhos, scale = _bh_coefficients(-h, nodes, solver_type, corrector)
    for k, rho in enumerate(rhos):
        at = 1 if k == order - 1 else 3 + k  # the last node is the target itself
        weights[at] -= alpha * scale * rho / nodes[k]
        weights[2] += alpha * scale * rho / nodes[k]
    return weights if corrector else np.delete(weights, 1)


def _bh_coefficients(
    hh: float, nodes: np.ndarray, solver_type: str, corrector: bool
) -> tuple[np.ndarray, float]:
    """Solves for the weights of the divided differences; returns them with B(h)."""
    kinds = {"bh1": hh, **dict.fromkeys(("bh2", "midpoint", "heun", "logrho"), np.expm1(hh))}
    if solver_type not in kinds:
        raise ValueError(f"expected solver_type in {list(kinds)}, got {solver_type!r}")
    scale, order = kinds[solver_type], len(nodes)
    unknowns = order if corrector else order - 1
    if unknowns == 0:
        return np.zeros(0), scale
    if unknowns == 1:
        return np.array([0.5]), scale  # the published solver's rounding of the exact solution
    right, phi, factorial = [], np.expm1(hh) / hh - 1.0, 1.0
    for i in range(1, unknowns + 1):
        right.append(phi * factorial / scale)
        factorial *= i + 1
        phi = phi / hh - 1.0 / factorial
    powers = np.stack([nodes[:unknowns] ** i for i in range(unknowns)])
    return np.linalg.solve(powers, np.array(right)), scale


SAMPLERS: dict[str, Callable[[dict[str, Any], int], StepRows]] = {
    "ddim": _ddim_rows,
    "unipc": _unipc_rows,
    "unipc-reference": functools.partial(_unipc_rows, final_sigmas_type="sigma_min"),
}
