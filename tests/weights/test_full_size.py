"""Full-size names and shapes, without memory: configs from shapes, and the published key lists."""

import json

import numpy as np
import pytest

from brushjax.models import BrushNetConfig, CLIPTextConfig, UNetConfig, VAEConfig
from brushjax.weights.maps import MAPS
from brushjax.weights.reading import interpret
from brushjax.weights.store import ArrayTensor
from brushjax.weights.writing import _ldm_tensors
from tests.support import GOLDEN
from tests.weights import tiny

CASES = {
    "sd15 unet": ("unet", UNetConfig.sd15()),
    "sd2 unet": ("unet", UNetConfig.sd2()),
    "sdxl unet": ("unet", UNetConfig.sdxl()),
    "sd15 branch": ("brushnet", BrushNetConfig.sd15()),
    "sdxl branch": ("brushnet", BrushNetConfig.sdxl()),
    "vae": ("vae", VAEConfig()),
    "clip": ("clip_text", CLIPTextConfig.sd15()),
    "sd2 clip": ("clip_text", CLIPTextConfig.sd2()),
    "sdxl clip 2": ("clip_text_2", CLIPTextConfig.sdxl_2()),
}


def hollow(shape):
    """A tensor of a shape that takes no memory."""
    return ArrayTensor(np.broadcast_to(np.float32(0), shape))


def original_names(weights):
    """The same tensors in the original code's names and shapes, hollow again."""
    return {name: hollow(tensor.shape) for name, tensor in _ldm_tensors(weights, [weights]).items()}


def network(config):
    """The settings of a config that change the network."""
    fields = {name: value for name, value in vars(config).items() if name != "extra"}
    if isinstance(config, BrushNetConfig):  # the attention settings of a branch without attention
        for name in ("cross_attention_dim", "attention_head_dim", "use_linear_projection"):
            del fields[name]
        del fields["transformer_layers_per_block"]
    if isinstance(config, CLIPTextConfig) and not config.with_projection:
        del fields["projection_dim"]
    return fields


@pytest.mark.parametrize(
    ("case", "layout"),
    [(case, "diffusers") for case in CASES]
    + [(case, "ldm") for case in CASES if "branch" not in case],
)
def test_config_is_told_from_the_shapes_of_a_file(case, layout):
    kind, config = CASES[case]
    tensors = {name: hollow(shape) for name, shape in tiny.shapes(kind, config.to_dict()).items()}
    read = interpret(MAPS[kind], tensors, None, "test")
    if layout == "ldm":
        read = interpret(MAPS[kind], original_names(read), None, "test")
    assert read.layout == layout
    assert {name: tensor.shape for name, tensor in read.tensors.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    assert network(type(config).from_dict(read.config)) == network(config)


def test_input_channels_are_told_from_the_shapes():
    shapes = tiny.shapes("unet", UNetConfig.sd15().to_dict()) | {"conv_in.weight": (320, 9, 3, 3)}
    tensors = {name: hollow(shape) for name, shape in shapes.items()}
    assert interpret(MAPS["unet"], tensors, None, "test").config["in_channels"] == 9


def test_vae_of_an_xl_file_gets_xls_scaling_factor():
    vae, text = VAEConfig(), CLIPTextConfig.sdxl_2()
    tensors = {}
    for kind, config in (("vae", vae), ("clip_text_2", text)):
        shapes = tiny.shapes(kind, config.to_dict())
        part = interpret(MAPS[kind], {n: hollow(s) for n, s in shapes.items()}, None, "test")
        tensors |= original_names(part)
    told = interpret(MAPS["vae"], tensors, None, "test").config
    assert VAEConfig.from_dict(told).scaling_factor == VAEConfig.sdxl().scaling_factor != 0.18215


@pytest.mark.parametrize(
    ("file", "kind", "config", "parameters"),
    [
        ("sd15_unet", "unet", UNetConfig.sd15(), 859_520_964),
        ("sd15_brushnet", "brushnet", BrushNetConfig.sd15(), 618_830_080),
        ("sdxl_unet", "unet", UNetConfig.sdxl(), 2_567_463_684),
        ("sdxl_brushnet", "brushnet", BrushNetConfig.sdxl(), 373_332_480),
    ],
)
def test_written_names_and_shapes_are_the_published(file, kind, config, parameters):
    published = json.loads((GOLDEN / f"{file}_keys.json").read_text())
    ours = tiny.shapes(kind, config.to_dict())
    assert {name: list(shape) for name, shape in ours.items()} == published
    assert sum(int(np.prod(shape)) for shape in ours.values()) == parameters
