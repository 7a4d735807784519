"""Bases of every form: the same edit as PyTorch's classes make of them, or a clear error."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file

from benchmarks.edit_in_pytorch import edit as torch_edit
from brushjax import weights
from brushjax.inference.inpaint import Inpainter
from brushjax.pipelines import bases
from brushjax.weights import WeightsError
from tests.inference import community

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings(
        "ignore:pictures are worked on at:UserWarning"
    ),  # tiny ones are meant
]

SETTINGS = {"scheduler": "ddim", "steps": 2, "guidance": 3.0}
# For tests that compile: the fixture's parameters, XL's of which are heavy.
FAMILIES = pytest.mark.parametrize(
    "base",
    [pytest.param(False, id="v1"), pytest.param(True, id="xl", marks=pytest.mark.heavy)],
    indirect=True,
)


def photo():
    return np.random.default_rng(0).integers(0, 256, (18, 24, 3), np.uint8)


def hole():
    mask = np.zeros((18, 24), np.uint8)
    mask[4:14, 6:20] = 255
    return mask


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "xl"])
def base(request, tokenizer_folder, tmp_path_factory):
    """A pipeline folder, a branch's, and whether they are XL's."""
    folder = tmp_path_factory.mktemp("base")
    community.write_pipeline(folder / "base", tokenizer_folder, request.param)
    branch = community.write_branch(folder / "branch", request.param)
    return folder / "base", branch, request.param


@pytest.fixture(scope="module")
def expected(base):
    """What PyTorch makes of the folder: final latents."""
    folder, branch, _ = base
    noise = np.random.default_rng(1).standard_normal((1, 2, 3, 4), np.float32)
    latents, _ = torch_edit(folder, branch, photo(), hole(), "a red cat", noise, **SETTINGS)
    return noise, latents


@FAMILIES
@pytest.mark.parametrize("form", ["folder", "file", "averages", "separate-vae"])
def test_base_of_every_form_gives_pytorchs_edit(
    base, expected, tmp_path, tokenizer_folder, monkeypatch, form
):
    folder, branch, xl = base
    noise, latents = expected
    source, given = folder, {}
    if form != "folder":
        extra = {"averages": form == "averages", "vae": form != "separate-vae"}
        source = community.write_file(folder, tmp_path / "model.safetensors", xl, **extra)
        # As ComfyUI's users keep it: no config beside.
        file = tmp_path / "branch.safetensors"
        branch = shutil.copy(branch / "diffusion_pytorch_model.safetensors", file)
    if form == "separate-vae":
        given["vae"] = tmp_path / "vae.safetensors"
        shutil.copy(folder / "vae/diffusion_pytorch_model.safetensors", given["vae"])
    if form == "averages":  # the vocabulary comes from the hub's cache
        monkeypatch.setattr(bases, "from_hub", lambda name, wanted: tokenizer_folder)
    elif form != "folder":
        given["tokenizer"] = tokenizer_folder
    painter = Inpainter.load(source, branch, **given)
    result = painter(photo(), hole(), "a red cat", initial_noise=noise, blend="paste", **SETTINGS)
    assert result.latents.shape == latents.shape
    assert np.abs(result.latents - latents).max() <= 1e-4 * latents.std()
    outside = hole() == 0
    np.testing.assert_array_equal(result.images[0][outside], photo()[outside])


def test_file_without_parts_says_what_to_pass(base, tmp_path, tokenizer_folder):
    folder, branch, xl = base
    file = community.write_file(folder, tmp_path / "model.safetensors", xl, vae=False)
    with pytest.raises(WeightsError, match=r"holds no vae: .* pass vae= \(--vae\)"):
        Inpainter.load(file, branch, tokenizer=tokenizer_folder)
    vae = folder / "vae"
    with pytest.raises(WeightsError, match=r"(?s)CLIP's vocabulary.*can't be had.*tokenizer="):
        Inpainter.load(file, branch, vae=vae)
    with pytest.raises(FileNotFoundError, match=r"expected brushnet= .*configs/quickstart\.py"):
        Inpainter.load(file)
    unet = {name: x for name, x in load_file(file).items() if name.startswith("model.diff")}
    save_file(unet, tmp_path / "unet.safetensors")
    with pytest.raises(WeightsError, match=r"no clip_text and no vae: .*pass another base"):
        Inpainter.load(tmp_path / "unet.safetensors", branch)
    with pytest.raises(WeightsError, match=r"the hub did not give it.*hf auth login"):
        Inpainter.load("nobody/nothing", branch)


def test_second_version_must_bring_its_scheduler(tmp_path):
    class Config:
        @staticmethod
        def to_dict():
            return {"cross_attention_dim": 1024}

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"noise or velocity: pass scheduler="):
        bases._scheduler(bases.BaseFiles(tmp_path / "x.safetensors"), Config)


@FAMILIES
def test_our_own_single_file_gives_the_folders_edit_to_the_bit(base, tmp_path, tokenizer_folder):
    """Also where the schedule is none that the family would suggest."""
    folder, branch, _ = base
    shutil.copytree(folder, tmp_path / "base")
    place = tmp_path / "base/scheduler/scheduler_config.json"
    changed = json.loads(place.read_text()) | {"prediction_type": "v_prediction", "beta_end": 0.02}
    place.write_text(json.dumps(changed))
    whole = tmp_path / "whole.safetensors"
    weights.convert("pipeline", tmp_path / "base", whole)
    edits = [
        Inpainter.load(source, branch, tokenizer=tokenizer_folder)(
            photo(), hole(), "a red cat", **SETTINGS
        ).latents
        for source in (tmp_path / "base", whole, folder)
    ]
    np.testing.assert_array_equal(edits[0], edits[1])
    assert np.abs(edits[0] - edits[2]).max() > 0.1  # the schedule matters


@pytest.mark.parametrize("mark", ["tensors", "metadata", "edm"])
def test_marks_of_a_community_file_reach_the_edit(base, tmp_path, tokenizer_folder, mark):
    folder, _, xl = base
    plain = community.write_file(folder, tmp_path / "plain.safetensors", xl)
    tensors, metadata = load_file(plain), {}
    if mark == "metadata":
        metadata = {"modelspec.prediction_type": "v"}
    else:
        names = ("v_pred", "ztsnr") if mark == "tensors" else ("edm_mean", "edm_std")
        tensors |= {name: torch.zeros(0) for name in names}
    save_file(tensors, tmp_path / "marked.safetensors", metadata)
    files = bases.BaseFiles(tmp_path / "marked.safetensors", tokenizer=tokenizer_folder)
    if mark == "edm":
        with pytest.raises(WeightsError, match="it is an EDM base"):
            bases.load_base(files, None)
        files = dataclasses.replace(files, scheduler={"beta_end": 0.5})  # what is passed wins
        assert bases.load_base(files, None)["scheduler"] == {"beta_end": 0.5}
        return
    changes = {"prediction_type": "v_prediction"}
    changes |= {"rescale_betas_zero_snr": True} if mark == "tensors" else {}
    published = bases.XL_SCHEDULER if xl else bases.SD1_SCHEDULER
    assert bases.load_base(files, None)["scheduler"] == published | changes


def test_lora_files_reach_the_networks_and_must_be_of_the_family(base, tmp_path, tokenizer_folder):
    folder, branch, xl = base
    names = {
        "lora_unet_mid_block_attentions_0_proj_in": ("unet", 128 if xl else 64),
        "lora_te1_text_model_encoder_layers_1_mlp_fc1"
        if xl
        else "lora_te_text_model_encoder_layers_1_mlp_fc1": ("text_encoder", 64),
    }
    if xl:
        names["lora_te2_text_model_encoder_layers_0_self_attn_q_proj"] = ("text_encoder_2", 64)
    file = {}
    for name, (_, width) in names.items():
        kernel = () if xl or "unet" not in name else (1, 1)  # version 1 has 1x1 convolutions there
        file[f"{name}.lora_down.weight"] = torch.ones(2, width, *kernel)
        file[f"{name}.lora_up.weight"] = torch.ones(width, 2, *kernel)
        file[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(file, tmp_path / "lora.safetensors")
    plain = bases.load_base(bases.BaseFiles(folder), None)
    files = bases.BaseFiles(folder, lora=((tmp_path / "lora.safetensors", 0.5),))
    merged = bases.load_base(files, None)
    for kind in {kind for kind, _ in names.values()}:
        before, after = (jax.tree.leaves(nnx.state(parts[kind])) for parts in (plain, merged))
        steps = [np.abs(np.float32(b) - np.float32(a)).max() for a, b in zip(before, after)]
        assert np.count_nonzero(steps) == 1
        np.testing.assert_allclose(max(steps), 0.5, atol=2e-3)  # 0.5 * 1 / 2 * (1 + 1)
    wrong = {name.replace("mid_block", "down_blocks_7"): value for name, value in file.items()}
    save_file(wrong, tmp_path / "wrong.safetensors")
    with pytest.raises(WeightsError, match=r"(?s)nothing was merged.*down_blocks_7.*no such layer"):
        Inpainter.load(folder, branch, lora=tmp_path / "wrong.safetensors")
