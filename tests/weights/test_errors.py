"""Damaged and unfit weights: each gives one clear error, and the destination stays as it was."""

import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from brushjax import weights
from tests.weights import tiny

WeightsError = weights.WeightsError


@pytest.fixture
def source(tmp_path):
    """A VAE folder; tests damage its file."""
    tensors = tiny.state_dict("vae", tiny.VAE)
    return tiny.write_folder(tmp_path / "source", "vae", tiny.VAE, tensors)


def file_of(folder: Path) -> Path:
    return folder / "diffusion_pytorch_model.safetensors"


def test_all_offenders_stand_in_one_error_and_the_target_is_untouched(source, tmp_path):
    weights.save(weights.load("vae", source), tmp_path / "target")
    before = {path: path.read_bytes() for path in (tmp_path / "target").iterdir()}
    tensors = load_file(file_of(source))
    del tensors["quant_conv.bias"]
    del tensors["encoder.conv_in.weight"]
    tensors["quant_conv.bais"] = torch.zeros(8)
    tensors["decoder.extra.weight"] = torch.zeros(2, 3)
    tensors["decoder.conv_in.bias"] = torch.zeros(7)
    tensors["encoder.conv_out.weight"] = torch.zeros(8, 16, 1, 1)
    save_file(tensors, file_of(source))
    for attempt in (
        lambda: weights.load("vae", source),
        lambda: weights.convert("vae", source, tmp_path / "target"),
        lambda: weights.convert("vae", source, tmp_path / "target", dry_run=True),
    ):
        with pytest.raises(WeightsError) as caught:
            attempt()
        message = str(caught.value)
        for part in (
            "missing (2):",
            "encoder.conv_in.weight [8, 3, 3, 3]",
            "quant_conv.bias [8]   (nearest: quant_conv.bais)",
            "unused (2):",
            "decoder.extra.weight [2, 3]",
            "wrong shape (2):",
            "decoder.conv_in.bias: expected [16], got [7]",
            "encoder.conv_out.weight: expected [8, 16, 3, 3], got [8, 16, 1, 1]",
        ):
            assert part in message, (part, message)
    assert {path: path.read_bytes() for path in (tmp_path / "target").iterdir()} == before


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_truncated_file_is_named_as_such(source, keep):
    content = file_of(source).read_bytes()
    file_of(source).write_bytes(content[:keep])
    with pytest.raises(WeightsError, match=r"cut short.*ownload"):
        weights.load("vae", source)


def test_appended_bytes_are_an_error(source):
    with open(file_of(source), "ab") as file:
        file.write(b"\0")
    with pytest.raises(WeightsError, match="something was appended"):
        weights.load("vae", source)


def test_header_that_lies_about_a_size_is_an_error(source):
    content = file_of(source).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["quant_conv.bias"]["shape"] = [9]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (length - len(text))
    file_of(source).write_bytes(content[:8] + text + content[8 + length :])
    with pytest.raises(WeightsError, match=r"quant_conv\.bias.*damaged header"):
        weights.load("vae", source)


def test_web_page_is_named_as_such(source):
    file_of(source).write_text("<!DOCTYPE html>\n<html><body>Please log in</body></html>")
    with pytest.raises(WeightsError, match="web page"):
        weights.load("vae", source)


def test_git_lfs_pointer_is_named_as_such(source):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 334643276\n"
    file_of(source).write_text(pointer)
    with pytest.raises(WeightsError, match="git lfs pull"):
        weights.load("vae", source)


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.torch
@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickle_that_would_run_code_is_refused(name, zipped, source, tmp_path):
    file_of(source).unlink()
    trap = {"quant_conv.bias": Trap(tmp_path / "sprung")}
    if zipped:
        torch.save(trap, source / name)
    else:
        (source / name).write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(WeightsError, match=r"refused.*run code"):
        weights.load("vae", source / name, config=tiny.VAE)
    assert not (tmp_path / "sprung").exists()


def test_pickle_is_read_without_torch(source, monkeypatch):
    torch.save(load_file(file_of(source)), source / "model.ckpt")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails from here on
    weights.load("vae", source / "model.ckpt", config=tiny.VAE)


def test_other_kind_of_model_is_an_error(source, tmp_path):
    with pytest.raises(WeightsError, match="describes a AutoencoderKL; expected BrushNetModel"):
        weights.load("brushnet", source)
    with pytest.raises(WeightsError, match=r"holds no brushnet: expected a tensor named"):
        weights.load("brushnet", file_of(source))
    with pytest.raises(WeightsError, match="unknown kind 'controlnet'; expected one of unet"):
        weights.load("controlnet", source)


def test_nothing_there_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="no file or folder"):
        weights.load("vae", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        WeightsError, match=r"expected diffusion_pytorch_model\.safetensors.*nothing"
    ):
        weights.load("vae", tmp_path / "empty")
    with pytest.raises(WeightsError, match="is no pipeline"):
        weights.convert("pipeline", tmp_path / "empty", tmp_path / "out")


def test_config_that_shapes_cannot_tell_is_asked_for(source):
    (source / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"32 norm groups\. Pass config= \(--config\)"):
        weights.load("vae", source)


def test_setting_that_is_not_implemented_is_an_error(source):
    config = tiny.VAE | {"mid_block_add_attention": False}
    with pytest.raises(ValueError, match="mid_block_add_attention"):
        weights.load("vae", source, config=config)


def test_failure_while_writing_leaves_nothing_behind(source, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("json.dumps", fail)  # config.json is written last
    with pytest.raises(OSError, match="disk full"):
        weights.convert("vae", source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_weights_of_another_layout_in_the_target_are_not_shadowed(source):
    with pytest.raises(WeightsError, match="holds other weights already"):
        weights.convert("vae", source, source, layout="orbax")


@pytest.mark.parametrize(
    ("layout", "name", "message"),
    [
        ("ldm", "folder", "is one file"),
        ("diffusers", "x.safetensors", "is a folder"),
        ("comfyui", "x.safetensors", "for a brushnet alone"),
        ("onnx", "x", "unknown layout 'onnx'"),
    ],
)
def test_target_that_does_not_suit_the_layout_is_an_error(layout, name, message, source, tmp_path):
    with pytest.raises(WeightsError, match=message):
        weights.convert("vae", source, tmp_path / name, layout=layout)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
