"""What whole-model files say of their noise: believed, or refused by name."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from brushjax import weights
from brushjax.weights.formats import read_file
from brushjax.weights.noise import (
    SD1_SCHEDULER,
    XL_SCHEDULER,
    marks_of,
    pipeline_scheduler,
    read_marks,
)
from tests.weights import tiny

EMPTY = np.zeros(0, np.float32)
V, ZERO = {"prediction_type": "v_prediction"}, {"rescale_betas_zero_snr": True}
SPEC = "modelspec.prediction_type"
XL = {"addition_embed_type": "text_time"}


def write(path, names, metadata):
    save_file({"x": np.ones(2, np.float32)} | dict.fromkeys(names, EMPTY), path, metadata)
    return path


@pytest.mark.parametrize(
    ("names", "metadata", "expected"),
    [
        ((), None, {}),
        (("v_pred",), None, V),
        (("v_pred", "ztsnr"), None, V | ZERO),
        ((), {SPEC: "v"}, V),
        ((), {SPEC: "V_Prediction"}, V),
        ((), {SPEC: "epsilon"}, {"prediction_type": "epsilon"}),
        (("v_pred",), {SPEC: "v", "modelspec.architecture": "stable-diffusion-xl-v1-base"}, V),
        (("ztsnr",), {SPEC: "v"}, V | ZERO),
        ((), {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"}, V),
    ],
)
@pytest.mark.parametrize(("unet", "family"), [({}, SD1_SCHEDULER), (XL, XL_SCHEDULER)])
def test_marks_of_a_file_decide_its_schedule(tmp_path, names, metadata, expected, unet, family):
    file = write(tmp_path / "x.safetensors", names, metadata)
    assert pipeline_scheduler(file, unet) == family | expected


@pytest.mark.parametrize(
    ("names", "metadata", "message"),
    [
        (("edm_mean", "edm_std"), None, "carries edm_mean, edm_std: it is an EDM base"),
        (("edm_vpred.sigma_max",), None, "it is an EDM base"),
        ((), {SPEC: "x0"}, "expected modelspec.prediction_type epsilon or .* got 'x0'; pass sched"),
        (("v_pred",), {SPEC: "epsilon"}, "contradicts itself: the tensor v_pred says v_pre.*eps"),
        (("ztsnr",), None, "ztsnr, zero terminal SNR, which needs velocity"),
    ],
)
def test_marks_that_are_not_understood_are_refused_by_name(tmp_path, names, metadata, message):
    file = write(tmp_path / "x.safetensors", names, metadata)
    with pytest.raises(weights.WeightsError, match=message):
        pipeline_scheduler(file, XL)


def test_second_version_without_a_mark_is_not_guessed(tmp_path):
    unet = {"cross_attention_dim": 1024}
    assert pipeline_scheduler(write(tmp_path / "a.safetensors", (), None), unet) is None
    told = pipeline_scheduler(write(tmp_path / "b.safetensors", (), {SPEC: "v"}), unet)
    assert told == SD1_SCHEDULER | V


@pytest.mark.parametrize("scheduler", [SD1_SCHEDULER, XL_SCHEDULER | V, XL_SCHEDULER | V | ZERO])
def test_our_marks_are_read_back(tmp_path, scheduler):
    tensors, metadata = marks_of(scheduler)
    values = {name: tensor.array() for name, tensor in tensors.items()}
    save_file(values | {"x": np.ones(1)}, tmp_path / "x.safetensors", metadata)
    assert pipeline_scheduler(tmp_path / "x.safetensors", {}) == scheduler
    said = read_marks(tmp_path, tensors, {})  # what programs see that do not know our note
    assert said == {key: scheduler[key] for key in (V | ZERO) if scheduler.get(key) in
                    ("v_prediction", True)}  # fmt: skip


def test_scheduler_travels_through_files_and_back_into_a_folder(tmp_path):
    tiny.write_pipeline(tmp_path / "base")
    scheduler = SD1_SCHEDULER | V | ZERO | {"beta_end": 0.02}
    (tmp_path / "base/scheduler").mkdir()
    (tmp_path / "base/scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    weights.convert("pipeline", tmp_path / "base", tmp_path / "a.safetensors")
    weights.convert("pipeline", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert {"v_pred", "ztsnr"} <= load_file(tmp_path / "b.safetensors").keys()
    _, metadata = read_file(tmp_path / "b.safetensors")
    assert json.loads(metadata["config.scheduler"]) == scheduler
    weights.convert("pipeline", tmp_path / "b.safetensors", tmp_path / "back")
    file = tmp_path / "back/scheduler/scheduler_config.json"
    assert json.loads(file.read_text()) == scheduler
    assert all(row.bit_equal for row in weights.check("pipeline", tmp_path / "base",
                                                      tmp_path / "back"))  # fmt: skip
