"""What a whole-model file says of the noise it was trained with, and how ours say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.diffusion.schedule import STABLE_DIFFUSION
from brushjax.weights import folders
from brushjax.weights.formats import read_file
from brushjax.weights.rules import WeightsError
from brushjax.weights.store import ArrayTensor, Tensor

# The scheduler_config.json of stable-diffusion-v1-5 and of stable-diffusion-xl-base-1.0.
SD1_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    **STABLE_DIFFUSION,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
XL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    **STABLE_DIFFUSION,
    "clip_sample": False,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
SD2_WIDTH = 1024  # of SD 2.x's text features

NOTE = "config.scheduler"  # where our own files keep the whole scheduler_config.json
VELOCITY, ZERO_SNR = "v_pred", "ztsnr"  # empty tensors by which community files mark themselves
CONTINUOUS = ("edm_mean", "edm_std", "edm_vpred.sigma_max", "edm_vpred.sigma_min")
SPEC = "modelspec."  # Stability's metadata, which kohya's scripts and others write
PREDICTIONS = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
}
ASK = "pass scheduler= (--scheduler-config) with the scheduler_config.json of the base"


def pipeline_scheduler(place: Path, unet: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Returns the scheduler config of a pipeline folder or a whole-model file.

    Args:
        place: the folder or file.
        unet: the config of its UNet.

    Returns:
        What the folder or our own file holds; for another file the published config of the UNet's
        family with what the file's marks change. None where it cannot be told: a folder without
        one, a Stable Diffusion 2 without a mark.

    Raises:
        WeightsError: the file says of itself what is not understood, or not supported.
    """
    if place.is_dir():
        return folders.read_config(place / "scheduler" / "scheduler_config.json")
    tensors, metadata = read_file(place)
    if NOTE in metadata:
        return json.loads(metadata[NOTE])
    marks = read_marks(place, tensors, metadata)
    unet = unet or {}
    if unet.get("addition_embed_type") is not None:
        return XL_SCHEDULER | marks
    if unet.get("cross_attention_dim") == SD2_WIDTH and "prediction_type" not in marks:
        return None
    return SD1_SCHEDULER | marks


def read_marks(
    source: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the scheduler's settings that a file states by its tensors' names and its metadata.

    Raises:
        WeightsError: it states continuous noise, a prediction type that is not known, or two.
    """
    edm = [name for name in CONTINUOUS if name in tensors]
    if edm:
        raise WeightsError(
            f"{source} carries {', '.join(edm)}: it is an EDM base, whose noise is no table of "
            "discrete timesteps. Such bases can't be run here; take another, or, if these tensors "
            f"are there by mistake, {ASK}."
        )
    stated: dict[str, str] = {}
    if VELOCITY in tensors:
        stated[f"the tensor {VELOCITY}"] = "v_prediction"
    if "v2-768-v" in metadata.get(f"{SPEC}architecture", ""):
        stated[f"{SPEC}architecture"] = "v_prediction"
    if f"{SPEC}prediction_type" in metadata:
        word = metadata[f"{SPEC}prediction_type"]
        if word.lower() not in PREDICTIONS:
            raise WeightsError(
                f"{source}: expected {SPEC}prediction_type {' or '.join(PREDICTIONS)}, got "
                f"{word!r}; {ASK}."
            )
        stated[f"{SPEC}prediction_type"] = PREDICTIONS[word.lower()]
    if len(set(stated.values())) > 1:
        said = " and ".join(f"{place} says {what}" for place, what in stated.items())
        raise WeightsError(f"{source} contradicts itself: {said}; {ASK}.")
    marks: dict[str, Any] = {}
    if stated:
        marks["prediction_type"] = next(iter(stated.values()))
    if ZERO_SNR in tensors:
        if marks.get("prediction_type") != "v_prediction":
            raise WeightsError(
                f"{source} carries the tensor {ZERO_SNR}, zero terminal SNR, which needs velocity "
                f"prediction, but does not say that it predicts velocity; {ASK}."
            )
        marks["rescale_betas_zero_snr"] = True
    return marks


def marks_of(scheduler: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors and the metadata by which a file says what `scheduler` is.

    The config itself is for us; the empty tensors are what ComfyUI and other programs look for.
    """
    velocity = scheduler.get("prediction_type") == "v_prediction"
    names = [VELOCITY] if velocity else []
    names += [ZERO_SNR] if velocity and scheduler.get("rescale_betas_zero_snr") else []
    empty = ArrayTensor(np.zeros(0, np.float32))
    return dict.fromkeys(names, empty), {NOTE: json.dumps(dict(scheduler))}
