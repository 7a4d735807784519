"""Which processes a scheduler config may describe: every sampler refuses the others by name."""

import inspect

import pytest

from brushjax.diffusion.samplers import SAMPLERS, make_sampler
from brushjax.diffusion.schedule import (
    DISCRETE,
    SETTINGS,
    Schedule,
    read_scheduler_config,
)

FOREIGN = {
    "EDMDPMSolverMultistepScheduler": {
        "algorithm_type": "dpmsolver++", "prediction_type": "epsilon", "rho": 7.0,
        "sigma_data": 0.5, "sigma_max": 80.0, "sigma_min": 0.002,
    },
    "EDMEulerScheduler": {"prediction_type": "v_prediction", "sigma_data": 1.0, "rho": 7.0},
    "FlowMatchEulerDiscreteScheduler": {"num_train_timesteps": 1000, "shift": 3.0},
    "FlowMatchHeunDiscreteScheduler": {},
    "CosineDPMSolverMultistepScheduler": {},
    "CogVideoXDDIMScheduler": {"beta_end": 0.012},
    "OurOwnScheduler": {},
}  # fmt: skip


@pytest.mark.parametrize("solver", SAMPLERS)
@pytest.mark.parametrize("name", FOREIGN)
def test_scheduler_class_of_another_process_is_refused_by_every_sampler(name, solver):
    with pytest.raises(ValueError, match=f"got {name}: bases of EDM, of flow matching"):
        make_sampler(solver, {"_class_name": name, **FOREIGN[name]}, 8)


@pytest.mark.parametrize("solver", SAMPLERS)
@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("sigma_data", 0.5, "got sigma_data, which nothing here reads"),
        ("shift", 3.0, "got shift, which nothing here reads"),
        ("snr_shift_scale", 3.0, "which nothing here reads"),
        ("use_flow_sigmas", True, "got use_flow_sigmas True"),
        ("timestep_type", "continuous", "got timestep_type 'continuous'"),
        ("prediction_type", "flow_prediction", "expected prediction_type in"),
    ],
)
def test_setting_that_changes_the_process_is_refused_by_every_sampler(
    solver, setting, value, message
):
    config = {"clip_sample": False, "skip_prk_steps": True, setting: value}
    with pytest.raises(ValueError, match=message):
        make_sampler(solver, config, 8)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers' own code
def test_every_setting_of_the_discrete_classes_is_known():
    import diffusers

    missing = {}
    for name in sorted(DISCRETE - {"DPMSolverSDE"}):  # wants torchsde
        scheduler = getattr(diffusers, f"{name}Scheduler")
        wanted = set(inspect.signature(scheduler.__init__).parameters) - {"self", "kwargs"}
        missing[name] = wanted - SETTINGS
        read_scheduler_config(dict(scheduler().config) | {"_class_name": f"{name}Scheduler"})
    assert not any(missing.values()), missing


@pytest.mark.parametrize(
    ("solver", "config", "message"),
    [
        ("ddim", {}, "got True, the default where the config names none .clipping is for pixel"),
        ("ddim", {"clip_sample": True}, r"got True \(clipping is for pixel"),
        ("pndm", {}, "expected skip_prk_steps True .* got False, the default where"),
        ("pndm", {"skip_prk_steps": False}, "got False$"),
    ],
)
def test_error_about_a_default_says_so(solver, config, message):
    with pytest.raises(ValueError, match=message):
        make_sampler(solver, config, 8)


def test_prediction_type_of_the_first_configs_is_read():
    assert Schedule.from_config({"predict_epsilon": False}).prediction_type == "sample"
    assert Schedule.from_config({"predict_epsilon": True}).prediction_type == "epsilon"
    both = {"predict_epsilon": True, "prediction_type": "v_prediction"}
    assert Schedule.from_config(both).prediction_type == "v_prediction"


def test_flax_classes_are_the_same_process():
    config = {"_class_name": "FlaxDDIMScheduler", "dtype": "float32", "beta_end": 0.012}
    assert read_scheduler_config(config) == config
