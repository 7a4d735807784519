"""Samplers against stored runs of the reference and against diffusers, step by step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.diffusion import samplers
from brushjax.diffusion.samplers import make_sampler

GOLDEN = Path(__file__).parents[1] / "golden/misc/schedulers.npz"
SD15 = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
SDXL = {**SD15, "_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
CLASSES = {"ddim": "DDIMScheduler", "unipc": "UniPCMultistepScheduler"}


def golden_network(mixing):
    """The analytic network of the stored runs, NHWC."""

    def network(x, timestep, extra):
        mixed = jnp.einsum("ij,bhwj->bhwi", mixing, x)
        scale = 0.5 * x / (1 + jnp.mean(jnp.abs(x)))
        return jnp.tanh(mixed + scale + jnp.sin(timestep / 150.0))

    return network


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", ["ddim", "unipc-reference"])
def test_sampler_reproduces_stored_reference_runs(name, base, steps):
    golden = np.load(GOLDEN)
    key = f"{base}/{CLASSES[name.removesuffix('-reference')]}/{steps}"
    sampler = make_sampler(name, SD15 if base == "sd15" else SDXL, steps)
    noise = jnp.asarray(golden["x0"].transpose(0, 2, 3, 1))
    network = golden_network(jnp.asarray(golden["A"]))
    run = jax.jit(lambda s, x: samplers.sample(s, network, x, trajectory=True))
    ours = np.asarray(run(sampler, noise)).transpose(0, 1, 4, 2, 3)
    np.testing.assert_array_equal(sampler.rows.timestep, golden[f"{key}/timesteps"])
    final = golden[f"{key}/final"]
    assert np.abs(ours[-1] - final).max() <= 1e-5 * final.std()
    if steps <= 20:
        stored = golden[f"{key}/steps"]
        error = np.abs(ours - stored).max(axis=(1, 2, 3, 4)) / stored.std(axis=(1, 2, 3, 4))
        assert error.max() <= 1e-5, error


def in_float64(scheduler, steps):
    """Rebuilds a diffusers scheduler's float32 tables in float64, to compare its steps."""
    import torch

    scheduler.set_timesteps(steps)
    config = scheduler.config
    if config.beta_schedule == "scaled_linear":
        betas = torch.linspace(
            config.beta_start**0.5, config.beta_end**0.5, 1000, dtype=torch.float64
        )
        betas = betas**2
    else:
        betas = torch.linspace(config.beta_start, config.beta_end, 1000, dtype=torch.float64)
    cumprod = torch.cumprod(1 - betas, 0)
    scheduler.alphas_cumprod = cumprod
    if hasattr(scheduler, "final_alpha_cumprod"):
        one = torch.ones((), dtype=torch.float64)
        scheduler.final_alpha_cumprod = one if config.set_alpha_to_one else cumprod[0]
    else:
        table = ((1 - cumprod) / cumprod) ** 0.5
        last = table[:1] if config.final_sigmas_type == "sigma_min" else table[:1] * 0
        scheduler.sigmas = torch.cat([table[scheduler.timesteps], last])
    return scheduler


CASES = {
    "ddim": ("ddim", SD15),
    "unipc-leading": ("unipc", {**SD15, "timestep_spacing": "leading"}),
    "ddim-linspace": ("ddim", {**SD15, "timestep_spacing": "linspace"}),
    "ddim-trailing": ("ddim", {**SD15, "timestep_spacing": "trailing", "set_alpha_to_one": True}),
    "ddim-linear": ("ddim", {"clip_sample": False}),
    "unipc": ("unipc", SD15),
    "unipc-sigma-min": ("unipc-reference", SD15),
    "unipc-trailing": ("unipc", {**SD15, "timestep_spacing": "trailing"}),
    "unipc-order-1": ("unipc", {**SD15, "solver_order": 1}),
    "unipc-order-3": ("unipc", {**SD15, "solver_order": 3}),
    # bh1 with diffusers' default final sigma of 0 ends in 0 * inf = NaN there.
    "unipc-bh1": ("unipc", {**SD15, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    "unipc-uncorrected": ("unipc", {**SD15, "disable_corrector": [0, 2]}),
    "unipc-no-low-end": (
        "unipc",
        {**SD15, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    ),
}


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_sampler_steps_equal_diffusers_in_float64(case, prediction_type):
    import diffusers
    import torch

    name, config = CASES[case]
    config = {**config, "prediction_type": prediction_type}
    changes = {"final_sigmas_type": "sigma_min"} if name == "unipc-reference" else {}
    kind = getattr(diffusers, CLASSES[name.removesuffix("-reference")])
    random = np.random.default_rng(0)
    for steps in (1, 2, 5, 20):
        scheduler = in_float64(kind.from_config({**config, **changes}), steps)
        sampler = make_sampler(name, config, steps, dtype=np.float64)
        np.testing.assert_array_equal(sampler.rows.timestep, scheduler.timesteps.numpy())
        noise = random.standard_normal((2, 3, 2, 4))
        theirs = torch.from_numpy(noise)
        with jax.enable_x64(True):
            state = sampler.start(jnp.asarray(noise))
            for i, timestep in enumerate(scheduler.timesteps):
                prediction = random.standard_normal(noise.shape)
                row = jax.tree.map(lambda table, i=i: table[i], sampler.rows)
                state = sampler.step(state, row, jnp.asarray(prediction))
                theirs = scheduler.step(torch.from_numpy(prediction), timestep, theirs).prev_sample
                error = np.abs(np.asarray(state.sample) - theirs.numpy()).max()
                assert error <= 1e-9 * theirs.numpy().std(), (steps, i, error)


def test_sampler_takes_its_own_class_defaults_for_missing_keys():
    defaulted = {
        **SD15,
        "timestep_spacing": "trailing",
        "_use_default_values": ["timestep_spacing"],
    }
    for config in (SD15, defaulted):
        assert make_sampler("ddim", config, 5).rows.timestep.tolist() == [801, 601, 401, 201, 1]
        assert make_sampler("unipc", config, 5).rows.timestep.tolist() == [999, 799, 599, 400, 200]


def test_unipc_names_differ_only_in_the_last_step():
    today, reference = (make_sampler(name, SD15, 8).rows for name in ("unipc", "unipc-reference"))
    np.testing.assert_array_equal(today.predict[:-1], reference.predict[:-1])
    np.testing.assert_array_equal(today.predict[-1], [0, 1, 0, 0])  # final sigma 0: all of it is m
    assert reference.predict[-1, 0] > 0


@pytest.mark.parametrize(
    ("name", "changes", "steps", "message"),
    [
        ("dddim", {}, 5, "expected scheduler in"),
        ("ddim", {}, 0, r"expected steps in 1\.\.1000, got 0"),
        ("unipc", {}, 1001, r"expected steps in 1\.\.1000, got 1001"),
        ("ddim", {}, 1000, "reach timestep 1000"),
        ("ddim", {"clip_sample": True}, 5, "expected clip_sample to be false"),
        ("unipc", {"use_karras_sigmas": True}, 5, "expected use_karras_sigmas to be false"),
        ("unipc", {"predict_x0": False}, 5, "expected predict_x0 true"),
        ("unipc", {"solver_type": "bh3"}, 5, "expected solver_type in"),
        ("unipc", {"final_sigmas_type": "one"}, 5, "expected final_sigmas_type in"),
        ("unipc", {"timestep_spacing": "even"}, 5, "expected timestep_spacing in"),
        ("unipc", {"lower_order_final": False}, 5, "no finite weights"),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 5, "zero term"),
    ],
)
def test_sampler_refuses_what_it_cannot_do(name, changes, steps, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(name, {**SD15, **changes}, steps)
