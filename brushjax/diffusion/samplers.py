"""Samplers by name, from a published scheduler_config.json, and the one loop that runs them all."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt32

from brushjax.diffusion import solvers, unipc
from brushjax.diffusion.schedule import read_scheduler_config
from brushjax.diffusion.tables import Sampler, SamplerState

SAMPLERS: dict[str, Callable[[dict[str, Any], int], Sampler]] = {
    "ddim": solvers.ddim_rows,
    "pndm": solvers.pndm_rows,
    "unipc": unipc.unipc_rows,
    "unipc-reference": unipc.unipc_reference_rows,
    "dpm++": solvers.dpm_rows,
    "dpm++-karras": solvers.dpm_karras_rows,
    "euler": solvers.euler_rows,
    "euler-a": solvers.euler_ancestral_rows,
    "lcm": solvers.lcm_rows,
}


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
        sampler = SAMPLERS[name](read_scheduler_config(config), steps)
    rows = jax.tree.map(lambda table: np.asarray(table, dtype), sampler.rows)
    if not all(np.isfinite(table).all() for table in jax.tree.leaves(rows)):
        raise ValueError(
            f"{name} with {steps} steps has no finite weights: two steps share a timestep, or the "
            "schedule has zero terminal SNR with epsilon prediction; take fewer steps or another "
            "timestep_spacing"
        )
    return Sampler(rows, sampler.count, np.asarray(sampler.scale, dtype))


def sample(
    sampler: Sampler,
    predict: Callable[..., Any],
    noise: Float[Array, "B h w C"],
    per_step: Any = (),
    *,
    seeds: UInt32[Array, " B"] | None = None,
    memory: Any = None,
    trajectory: bool = False,
) -> Array:
    """Runs the whole denoising loop as one compiled while loop.

    Guidance, however many predictions it mixes, and networks live in `predict`.

    Args:
        sampler: from make_sampler.
        predict: (sample [B,h,w,C], timestep scalar, this step's slice of per_step) -> prediction.
            With a memory: (..., memory) -> (prediction, memory).
        noise: standard normal start, in the sampler's dtype.
        per_step: pytree of arrays with leading axis n, such as the branch's scale.
        seeds: one a sample, for samplers that draw noise; without them they add none.
        memory: pytree of arrays that `predict` hands from step to step.
        trajectory: return the latents after every step, [n,B,h,w,C], instead of the last ones; in
            variance-preserving units, also where a published class works in others.

    Returns:
        Latents [B,h,w,C], or all of them.
    """
    path = None
    if trajectory:
        path = jnp.zeros((len(sampler.rows.timestep), *noise.shape), noise.dtype)
    start = (sampler.start(noise), memory, path)
    steps = (0, sampler.count)
    state, _, path = _loop(sampler, predict, start, per_step, steps, seeds)
    return state.sample if path is None else path


def advance(
    sampler: Sampler,
    predict: Callable[..., Any],
    state: SamplerState,
    per_step: Any,
    steps: tuple[Array | int, Array | int],
    *,
    seeds: UInt32[Array, " B"] | None = None,
) -> SamplerState:
    """Runs a part of the loop of `sample`: steps first, first + 1 ... last - 1.

    Args:
        state: after step first - 1; `Sampler.start` gives that before the first step.
        steps: (first, last), arguments of the compiled program.
    """
    return _loop(sampler, predict, (state, None, None), per_step, steps, seeds)[0]


def _loop(
    sampler: Sampler, predict: Callable[..., Any], carry: Any, per_step: Any, steps: Any, seeds: Any
) -> Any:
    """Carries (state, memory, path) through some of the steps."""

    def body(i: Array, carry: Any) -> Any:
        state, memory, path = carry
        row, extra = jax.tree.map(lambda table: _row(table, i), (sampler.rows, per_step))
        given = (state.sample, row.timestep, extra)
        if memory is None:
            prediction = predict(*given)
        else:
            prediction, memory = predict(*given, memory)
        drawn = None if seeds is None else step_noise(seeds, i, state.sample)
        state = sampler.step(state, row, prediction, drawn)
        if path is not None:
            path = path.at[i].set(state.sample)
        return state, memory, path

    first, last = steps
    return jax.lax.fori_loop(first, last, body, carry)


def step_noise(
    seeds: UInt32[Array, " B"], step: int | Array, like: Float[Array, "B h w C"]
) -> Float[Array, "B h w C"]:
    """Draws every sample's fresh noise of a step from its own seed, in `like`'s shape and dtype."""

    def draw(seed: Array) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), 1 + step)  # 0 is the initial noise
        dtype = jnp.promote_types(like.dtype, jnp.float32)  # bfloat16 has 128 normal values
        return jax.random.normal(key, like.shape[1:], dtype).astype(like.dtype)

    return jax.vmap(draw)(seeds)


def _row(table: Array | np.ndarray, i: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(jnp.asarray(table), i, keepdims=False)
