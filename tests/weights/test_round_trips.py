"""From PyTorch to JAX and back is the identity, to the bit, through every pair of layouts."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from brushjax import weights
from brushjax.weights.maps import MAPS
from tests.weights import tiny

pytestmark = pytest.mark.torch
LAYOUTS = {
    "unet": ("diffusers", "ldm", "orbax"),
    "vae": ("diffusers", "ldm", "orbax"),
    "clip_text": ("diffusers", "ldm", "orbax"),
    "clip_text_2": ("diffusers", "ldm", "orbax"),
    "brushnet": ("diffusers", "comfyui", "orbax"),
    "llama": ("diffusers", "ldm", "orbax"),  # "ldm": LLaVA's names
}


def target(folder, layout):
    return folder / (layout if layout in ("diffusers", "orbax") else f"{layout}.safetensors")


def read_back(folder, kind):
    return load_file(folder / f"{MAPS[kind].stem}.safetensors")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_model_loaded_and_saved_keeps_every_bit(kind, tmp_path):
    config = tiny.CONFIGS[kind]
    original = tiny.random_bits(kind, config)
    assert {value.dtype for value in original.values()} == set(tiny.BITS)
    source = tiny.write_folder(tmp_path / "source", kind, config, original)
    weights.save(weights.load(kind, source, dtype=None), tmp_path / "saved")
    assert tiny.same(read_back(tmp_path / "saved", kind), original)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_pair_of_layouts_keeps_every_bit(kind, tmp_path):
    a, b, c = LAYOUTS[kind]
    tour = (a, a, b, b, c, c, a, c, b, a)  # each of the nine ordered pairs once
    assert len(set(itertools.pairwise(tour))) == 9
    config = tiny.CONFIGS[kind]
    original = tiny.random_bits(kind, config)
    place = tiny.write_folder(tmp_path / "0", kind, config, original)
    for number, layout in enumerate(tour[1:], 1):
        following = target(tmp_path / str(number), layout)
        weights.convert(kind, place, following, layout=layout)
        place = following
    assert tiny.same(read_back(place, kind), original)


@pytest.mark.parametrize("layout", ["diffusers", "ldm", "orbax"])
def test_pipeline_keeps_every_bit(layout, tmp_path):
    written = tiny.write_pipeline(tmp_path / "source", tiny.UNET_XL, second=True)
    weights.convert("pipeline", tmp_path / "source", target(tmp_path, layout), layout=layout)
    weights.convert("pipeline", target(tmp_path, layout), tmp_path / "back")
    for kind, original in written.items():
        assert tiny.same(read_back(tmp_path / "back" / MAPS[kind].folder, kind), original)


def test_companions_of_a_pipeline_go_along(tmp_path):
    tiny.write_pipeline(tmp_path / "source")
    (tmp_path / "source" / "tokenizer").mkdir()
    (tmp_path / "source" / "tokenizer" / "vocab.json").write_text("{}")
    weights.convert("pipeline", tmp_path / "source", tmp_path / "copy", layout="orbax")
    assert (tmp_path / "copy" / "tokenizer" / "vocab.json").read_text() == "{}"


def test_dtype_on_request_rounds_as_torch_does(tmp_path):
    original = tiny.state_dict("vae", tiny.VAE)
    source = tiny.write_folder(tmp_path / "source", "vae", tiny.VAE, original)
    for dtype in (torch.float16, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        weights.convert("vae", source, tmp_path / name, dtype=name)
        rounded = {key: value.to(dtype) for key, value in original.items()}
        assert tiny.same(read_back(tmp_path / name, "vae"), rounded)


def test_dtype_too_narrow_for_a_value_is_an_error_and_writes_nothing(tmp_path):
    original = tiny.state_dict("vae", tiny.VAE)
    original["encoder.conv_in.bias"][0] = 1e6
    source = tiny.write_folder(tmp_path / "source", "vae", tiny.VAE, original)
    with pytest.raises(weights.WeightsError, match=r"encoder\.conv_in\.bias.*1e\+06.*float16"):
        weights.convert("vae", source, tmp_path / "half", dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("config", "count"), [(tiny.BRUSHNET, 322), (tiny.BRUSHNET_XL, 252)], ids=["sd15", "sdxl"]
)
def test_comfyui_file_has_the_tensors_it_is_recognised_by(config, count, tmp_path):
    original = tiny.state_dict("brushnet", config)
    source = tiny.write_folder(tmp_path / "source", "brushnet", config, original)
    weights.save(weights.load("brushnet", source), tmp_path / "b.safetensors", layout="comfyui")
    file = load_file(tmp_path / "b.safetensors")
    assert len(file) == count
    assert tiny.same(file, original)


def test_comfyui_file_is_refused_when_it_would_not_be_recognised(tmp_path):
    config = tiny.BRUSHNET | {"layers_per_block": 1}
    original = tiny.state_dict("brushnet", config)
    source = tiny.write_folder(tmp_path / "source", "brushnet", config, original)
    with pytest.raises(weights.WeightsError, match="would not recognise this branch"):
        weights.convert("brushnet", source, tmp_path / "b.safetensors", layout="comfyui")
    assert not (tmp_path / "b.safetensors").exists()
