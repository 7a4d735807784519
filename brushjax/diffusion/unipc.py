"""UniPC: a multistep predictor and corrector of one form."""

from typing import Any

import numpy as np

from brushjax.diffusion.levels import estimate_weights, expect, multistep_levels, resolve
from brushjax.diffusion.schedule import Schedule
from brushjax.diffusion.tables import Sampler, make_tables

DEFAULTS = {
    "timestep_spacing": "linspace",
    "solver_order": 2,
    "solver_type": "bh2",
    "predict_x0": True,
    "lower_order_final": True,
    "disable_corrector": (),
    "final_sigmas_type": "zero",
    "use_karras_sigmas": False,
}


def unipc_rows(config: dict[str, Any], steps: int) -> Sampler:
    """UniPC-p in its B(h) form on clean estimates: Zhao et al. 2023, algorithms 5 and 6."""
    values = resolve(config, DEFAULTS)
    expect(values, "UniPC", predict_x0=(True,))
    schedule, order = Schedule.from_config(values), values["solver_order"]
    time, ratio = multistep_levels(schedule, values, steps)
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
    estimate = estimate_weights(schedule.prediction_type, alpha[:-1], (ratio * alpha)[:-1])
    return make_tables(time, estimate, predict, correct)


def unipc_reference_rows(config: dict[str, Any], steps: int) -> Sampler:
    """UniPC as in BrushNet's fork of diffusers, which ends at timestep 0 instead of no noise."""
    return unipc_rows({**config, "final_sigmas_type": "sigma_min"}, steps)


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
