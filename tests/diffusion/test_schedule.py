"""Forward process against diffusers and closed forms."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.diffusion.schedule import Schedule, read_scheduler_config, spaced_timesteps

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CONFIGS = {
    "sd15": SD15,
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    "zero-snr": {**SD15, "rescale_betas_zero_snr": True},
}


@pytest.mark.torch
@pytest.mark.parametrize("name", CONFIGS)
def test_schedule_tables_equal_diffusers_up_to_its_float32_betas(name):
    import diffusers

    ours = Schedule.from_config(CONFIGS[name]).alphas_cumprod
    theirs = diffusers.DDIMScheduler.from_config(CONFIGS[name]).alphas_cumprod.numpy()
    assert ours.dtype == np.float64
    # diffusers rounds betas and their running product to float32: 1000 products of 6e-8 each.
    np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.torch
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_schedule_noise_and_target_equal_diffusers(prediction_type):
    import diffusers
    import torch

    config = {**SD15, "prediction_type": prediction_type}
    random = np.random.default_rng(0)
    latents, noise = random.standard_normal((2, 4, 3, 2, 4)).astype(np.float32)
    time = np.array([0, 17, 500, 999])
    ours = Schedule.from_config(config)
    theirs = diffusers.DDPMScheduler.from_config(config)
    inputs = [torch.from_numpy(a) for a in (latents, noise, time)]
    mine = [jnp.asarray(a) for a in (latents, noise, time)]
    velocity = theirs.get_velocity(*inputs).numpy()
    pairs = [
        (ours.add_noise(*mine), theirs.add_noise(*inputs).numpy()),
        (ours.target(*mine), noise if prediction_type == "epsilon" else velocity),
    ]
    for result, reference in pairs:
        assert np.abs(result - reference).max() <= 2e-6 * reference.std()


def test_schedule_inverts_noise_and_velocity():
    schedule = Schedule.from_config({**SD15, "prediction_type": "v_prediction"})
    random = np.random.default_rng(1)
    latents, noise = jnp.asarray(random.standard_normal((2, 3, 2, 2, 4)), jnp.float32)
    time = jnp.array([3, 400, 990])
    noisy, velocity = (
        schedule.add_noise(latents, noise, time),
        schedule.target(latents, noise, time),
    )
    alpha, sigma = (
        t[np.asarray(time)].reshape(3, 1, 1, 1) for t in (schedule.alphas, schedule.sigmas)
    )
    np.testing.assert_allclose(alpha * noisy - sigma * velocity, latents, atol=1e-6)
    np.testing.assert_allclose(sigma * noisy + alpha * velocity, noise, atol=1e-6)


def test_schedule_keeps_the_latents_dtype_and_computes_in_float32():
    schedule = Schedule.from_config(SD15)
    latents = jnp.ones((1, 2, 2, 4), jnp.bfloat16)
    noisy = schedule.add_noise(latents, jnp.zeros_like(latents), jnp.array([10]))
    assert noisy.dtype == jnp.bfloat16
    assert noisy[0, 0, 0, 0] == jnp.bfloat16(schedule.alphas[10])


def test_schedule_zero_terminal_snr_ends_in_pure_noise():
    schedule = Schedule.from_config(CONFIGS["zero-snr"])
    assert schedule.alphas[-1] == 0.0
    np.testing.assert_allclose(schedule.alphas[0], Schedule.from_config(SD15).alphas[0])


def test_timesteps_of_each_spacing():
    assert spaced_timesteps(5, 1000, "leading", 1).tolist() == [801, 601, 401, 201, 1]
    assert spaced_timesteps(5, 1000, "linspace").tolist() == [999, 749, 500, 250, 0]
    assert spaced_timesteps(5, 1000, "trailing").tolist() == [999, 799, 599, 399, 199]
    assert spaced_timesteps(4, 1000, "linspace", open_end=True).tolist() == [999, 749, 500, 250]
    assert spaced_timesteps(4, 1000, "leading", 1, open_end=True).tolist() == [801, 601, 401, 201]


def test_scheduler_config_is_found_in_file_folder_and_pipeline(tmp_path):
    folder = tmp_path / "scheduler"
    folder.mkdir()
    file = folder / "scheduler_config.json"
    file.write_text(
        json.dumps({"beta_end": 1, "beta_start": 2, "_use_default_values": ["beta_start"]})
    )
    for place in (file, folder, tmp_path, str(tmp_path)):
        assert read_scheduler_config(place) == {"beta_end": 1}
    with pytest.raises(FileNotFoundError, match=r"expected a scheduler_config\.json at one of"):
        read_scheduler_config(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prediction_type": "flow"}, "expected prediction_type in"),
        ({"beta_schedule": "quadratic"}, "expected beta_schedule"),
        ({"trained_betas": [0.1, 1.5]}, r"expected betas inside \(0, 1\)"),
    ],
)
def test_schedule_refuses_unknown_settings(config, message):
    with pytest.raises(ValueError, match=message):
        Schedule.from_config(config)
