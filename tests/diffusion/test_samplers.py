"""Samplers against stored runs of the reference and against diffusers, step by step."""

import importlib
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
CLASSES = {
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "unipc-reference": "UniPCMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++-karras": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "lcm": "LCMScheduler",
}
FORCED = {  # what a name says beyond its class
    "unipc-reference": {"final_sigmas_type": "sigma_min"},
    "dpm++-karras": {"use_karras_sigmas": True},
}


def golden_network(mixing):
    """The analytic network of the stored runs, NHWC."""

    def network(x, timestep, extra):
        mixed = jnp.einsum("ij,bhwj->bhwi", mixing, x)
        scale = 0.5 * x / (1 + jnp.mean(jnp.abs(x)))
        return jnp.tanh(mixed + scale + jnp.sin(timestep / 150.0))

    return network


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@pytest.mark.parametrize("name", ["ddim", "unipc-reference", "pndm", "dpm++", "euler"])
def test_sampler_reproduces_stored_reference_runs(name, base, steps):
    golden = np.load(GOLDEN)
    key = f"{base}/{CLASSES[name]}/{steps}"
    sampler = make_sampler(name, SD15 if base == "sd15" else SDXL, steps)
    noise = jnp.asarray(golden["x0"].transpose(0, 2, 3, 1))
    network = golden_network(jnp.asarray(golden["A"]))
    run = jax.jit(lambda s, x: samplers.sample(s, network, x, trajectory=True))
    ours = np.asarray(run(sampler, noise)).transpose(0, 1, 4, 2, 3)
    np.testing.assert_allclose(sampler.rows.timestep, golden[f"{key}/timesteps"], rtol=1e-7)
    final = golden[f"{key}/final"]
    assert np.abs(ours[-1] - final).max() <= 1e-5 * final.std()
    if steps <= 20:
        stored = golden[f"{key}/steps"]
        if name == "euler":  # stored as x / alpha; the estimate's weight on x is 1 / alpha
            sizes = np.append(sampler.rows.from_sample[1:], 1.0)
            stored = stored / sizes[:, None, None, None, None]
        error = np.abs(ours - stored).max(axis=(1, 2, 3, 4)) / stored.std(axis=(1, 2, 3, 4))
        assert error.max() <= 1e-5, error


class Float64:
    """A module whose float32 is float64: diffusers builds its tables in float32 by name."""

    def __init__(self, module):
        self._module = module
        self.float32 = module.float64

    def __getattr__(self, name):
        return getattr(self._module, name)


@pytest.fixture
def published(monkeypatch):
    """Builds diffusers' schedulers so that they compute in float64, with noise that is given."""
    import diffusers
    import torch

    def build(name, config, steps, noise=None):
        kind = getattr(diffusers, CLASSES[name])
        module = importlib.import_module(kind.__module__)
        monkeypatch.setattr(module, "np", Float64(np))
        monkeypatch.setattr(module, "torch", Float64(torch))
        if hasattr(module, "randn_tensor"):
            monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: torch.from_numpy(noise))
        scheduler = kind.from_config({**config, **FORCED.get(name, {})})
        scheduler.set_timesteps(steps)
        return scheduler

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield build
    torch.set_default_dtype(before)


LEADING, TRAILING, LINSPACE = (
    {**SD15, "timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")
)
CASES = {
    "ddim": ("ddim", SD15),
    "ddim-linspace": ("ddim", LINSPACE),
    "ddim-trailing": ("ddim", {**TRAILING, "set_alpha_to_one": True}),
    "ddim-linear": ("ddim", {"clip_sample": False}),
    "pndm": ("pndm", SD15),
    "pndm-linspace": ("pndm", LINSPACE),
    "pndm-trailing": ("pndm", {**TRAILING, "set_alpha_to_one": True}),
    "unipc": ("unipc", SD15),
    "unipc-sigma-min": ("unipc-reference", SD15),
    "unipc-leading": ("unipc", LEADING),
    "unipc-trailing": ("unipc", TRAILING),
    "unipc-karras": ("unipc", {**SD15, "use_karras_sigmas": True}),
    "unipc-order-1": ("unipc", {**SD15, "solver_order": 1}),
    "unipc-order-3": ("unipc", {**SD15, "solver_order": 3}),
    # bh1 with diffusers' default final sigma of 0 ends in 0 * inf = NaN there.
    "unipc-bh1": ("unipc", {**SD15, "solver_type": "bh1", "final_sigmas_type": "sigma_min"}),
    "unipc-uncorrected": ("unipc", {**SD15, "disable_corrector": [0, 2]}),
    "unipc-no-low-end": (
        "unipc",
        {**SD15, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    ),
    "dpm++": ("dpm++", SD15),
    "dpm++-leading": ("dpm++", LEADING),
    "dpm++-trailing": ("dpm++", {**TRAILING, "rescale_betas_zero_snr": True}),
    "dpm++-karras": ("dpm++-karras", SD15),
    "dpm++-karras-cosine": (
        "dpm++-karras",
        {**SD15, "beta_schedule": "squaredcos_cap_v2", "sigma_max": 80.0},
    ),
    "dpm++-order-1": ("dpm++", {**SD15, "solver_order": 1}),
    "dpm++-order-3": ("dpm++", {**SD15, "solver_order": 3, "final_sigmas_type": "sigma_min"}),
    "dpm++-heun": ("dpm++", {**SD15, "solver_type": "heun", "euler_at_final": True}),
    "dpm++-no-low-end": (
        "dpm++",
        {**SD15, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    ),
    "euler": ("euler", SD15),
    "euler-leading": ("euler", {**LEADING, "final_sigmas_type": "sigma_min"}),
    "euler-trailing": ("euler", {**TRAILING, "rescale_betas_zero_snr": True}),
    "euler-karras": ("euler", {**SD15, "use_karras_sigmas": True}),
    "euler-a": ("euler-a", SD15),
    "euler-a-leading": ("euler-a", LEADING),
    "euler-a-trailing": ("euler-a", TRAILING),
    "lcm": ("lcm", SD15),
    "lcm-other": ("lcm", {"original_inference_steps": 40, "timestep_scaling": 5.0}),
}
NO_SAMPLE_PREDICTION = ("pndm", "euler-a")  # diffusers' classes refuse it, and so do ours


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_sampler_steps_equal_diffusers_in_float64(published, case, prediction_type):
    import torch

    name, config = CASES[case]
    config = {**config, "prediction_type": prediction_type}
    if prediction_type == "sample" and name in NO_SAMPLE_PREDICTION:
        with pytest.raises(ValueError, match="expected a model that predicts noise or v"):
            make_sampler(name, config, 5)
        return
    random = np.random.default_rng(0)
    noise, fresh = random.standard_normal((2, 2, 3, 4, 4))
    for steps in (1, 2, 5, 20):
        scheduler = published(name, config, steps, fresh)
        sampler = make_sampler(name, config, steps, dtype=np.float64)
        np.testing.assert_allclose(sampler.rows.timestep, scheduler.timesteps.numpy(), rtol=1e-9)
        theirs = torch.from_numpy(noise) * scheduler.init_noise_sigma
        with jax.enable_x64(True):
            state = sampler.start(jnp.asarray(noise))
            for i, timestep in enumerate(scheduler.timesteps):
                # What the network sees is in the same units everywhere.
                seen = scheduler.scale_model_input(theirs, timestep).numpy()
                assert np.abs(np.asarray(state.sample) - seen).max() <= 1e-9 * seen.std(), i
                prediction = random.standard_normal(noise.shape)
                row = jax.tree.map(lambda table, i=i: table[i], sampler.rows)
                state = sampler.step(state, row, jnp.asarray(prediction), jnp.asarray(fresh))
                theirs = scheduler.step(torch.from_numpy(prediction), timestep, theirs).prev_sample
        end = theirs.numpy()
        assert np.abs(np.asarray(state.sample) - end).max() <= 1e-9 * end.std(), steps


def test_sampler_draws_each_samples_noise_from_its_own_seed():
    sampler = make_sampler("euler-a", SD15, 3)
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((2, 2, 3, 4)), jnp.float32)
    network = golden_network(jnp.eye(4))
    run = jax.jit(lambda x, seeds: samplers.sample(sampler, network, x, seeds=seeds))
    both = run(noise, jnp.array([4, 9], jnp.uint32))
    again, other = (run(noise[:1], jnp.array([seed], jnp.uint32))[0] for seed in (4, 5))
    np.testing.assert_array_equal(np.isfinite(both), True)
    # The network mixes the batch by its mean size only: a rounding-sized difference.
    assert np.abs(other - both[0]).max() > 10 * np.abs(again - both[0]).max()


def test_sampler_padded_to_a_bucket_runs_the_same_steps():
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 4)), jnp.float32)
    network = golden_network(jnp.eye(4))
    run = jax.jit(lambda s, x, scales: samplers.sample(s, lambda *a: a[2] * network(*a), x, scales))
    for name in ("pndm", "unipc", "euler"):
        sampler = make_sampler(name, SD15, 5)
        padded, scales = sampler.padded(), np.linspace(1, 2, sampler.steps)
        assert (len(padded.rows.timestep), padded.steps) == (32, sampler.steps)
        wide = np.pad(scales, (0, 32 - len(scales)), constant_values=np.nan)
        exact = run(sampler, noise, scales.astype(np.float32))
        np.testing.assert_array_equal(run(padded, noise, wide.astype(np.float32)), exact)
    assert [len(make_sampler("ddim", SD15, n).padded().rows.noise) for n in (32, 33, 64, 200)] == [
        32,
        64,
        64,
        256,
    ]


def test_loop_takes_guidance_of_three_predictions_and_a_memory():
    sampler = make_sampler("ddim", SD15, 4)
    noise = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 4)), jnp.float32)
    text_scale, image_scale = 3.0, 1.5

    def predict(x, timestep, extra, memory):
        bare, image, full = (jnp.tanh(x * k + timestep / 500) for k in (1, 2, 3))
        guided = bare + image_scale * (image - bare) + text_scale * (full - image)
        return guided, memory + jnp.abs(guided).sum()

    with_memory = samplers.sample(sampler, predict, noise, memory=jnp.zeros(()))
    plain = samplers.sample(sampler, lambda *a: predict(*a, jnp.zeros(()))[0], noise)
    np.testing.assert_array_equal(with_memory, plain)
    used = samplers.sample(
        sampler, lambda x, t, e, m: (m * jnp.ones_like(x), m + 1), noise, memory=jnp.zeros(())
    )
    counted = samplers.sample(
        sampler, lambda x, t, i: i * jnp.ones_like(x), noise, per_step=jnp.arange(4.0)
    )
    np.testing.assert_array_equal(used, counted)


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
    np.testing.assert_array_equal(
        today.predict[-1], [0, 1, 0, 0, 0, 0]
    )  # final sigma 0: all of it is m
    assert reference.predict[-1, 0] > 0


@pytest.mark.parametrize(
    ("name", "changes", "steps", "message"),
    [
        ("dddim", {}, 5, "expected scheduler in"),
        ("ddim", {}, 0, r"expected steps in 1\.\.1000, got 0"),
        ("unipc", {}, 1001, r"expected steps in 1\.\.1000, got 1001"),
        ("ddim", {}, 1000, "reach timestep 1000"),
        ("ddim", {"clip_sample": True}, 5, "expected clip_sample to be false"),
        ("unipc", {"use_beta_sigmas": True}, 5, "expected use_beta_sigmas to be false"),
        ("pndm", {"skip_prk_steps": False}, 5, "expected skip_prk_steps True"),
        ("dpm++", {"algorithm_type": "sde-dpmsolver++"}, 5, "expected algorithm_type"),
        ("dpm++", {"lambda_min_clipped": -5.1}, 5, "expected lambda_min_clipped -inf"),
        ("euler", {"timestep_type": "continuous"}, 5, "got timestep_type 'continuous'"),
        ("lcm", {}, 51, r"expected steps in 1\.\.50 for LCM"),
        ("unipc", {"predict_x0": False}, 5, "expected predict_x0 True"),
        ("unipc", {"solver_type": "bh3"}, 5, "expected solver_type in"),
        ("unipc", {"final_sigmas_type": "one"}, 5, "expected final_sigmas_type"),
        ("unipc", {"timestep_spacing": "even"}, 5, "expected timestep_spacing in"),
        ("unipc", {"lower_order_final": False}, 5, "no finite weights"),
        ("ddim", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 5, "zero term"),
    ],
)
def test_sampler_refuses_what_it_cannot_do(name, changes, steps, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(name, {**SD15, **changes}, steps)
