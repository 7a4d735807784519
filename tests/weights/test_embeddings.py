"""Embeddings in every form of file in which they are published."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from brushjax.weights import WeightsError
from brushjax.weights.adapters.embeddings import read_embedding

pytestmark = pytest.mark.torch

TWO, ONE = torch.arange(8.0).reshape(2, 4), torch.arange(4.0)
XL = {"clip_l": torch.ones(2, 4), "clip_g": torch.ones(2, 6)}


def parameters():
    held = torch.nn.ParameterDict({"*": torch.nn.Parameter(TWO)})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": held}


PICKLED = {
    "automatic": {"string_to_token": {"*": 265}, "string_to_param": {"*": TWO}, "name": "it",
                  "step": 500, "sd_checkpoint": None},
    "first-code": parameters(),
    "diffusers": {"<it>": TWO},
}  # fmt: skip
SAFE = {
    "emb_params": {"emb_params": TWO},
    "bundle": {"string_to_param.*": TWO},
    "diffusers": {"<it>": TWO},
}


@pytest.mark.parametrize("form", PICKLED)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_embedding_is_read(tmp_path, form, zipped):
    place = tmp_path / "it.pt"
    torch.save(PICKLED[form], place, _use_new_zipfile_serialization=zipped)
    read = read_embedding(place)
    assert read.keys() == {""}
    np.testing.assert_array_equal(read[""], TWO.numpy())


@pytest.mark.parametrize("form", SAFE)
def test_safetensors_embedding_is_read(tmp_path, form):
    save_file({name: value.half() for name, value in SAFE[form].items()}, tmp_path / "it.st")
    np.testing.assert_array_equal(read_embedding(tmp_path / "it.st")[""], TWO.numpy())


@pytest.mark.parametrize("names", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_embedding_for_two_encoders_keeps_them_apart(tmp_path, names):
    save_file(dict(zip(names, XL.values(), strict=True)), tmp_path / "it.safetensors")
    read = read_embedding(tmp_path / "it.safetensors")
    shapes = {kind: x.shape for kind, x in read.items()}
    assert shapes == {"clip_text": (2, 4), "clip_text_2": (2, 6)}


def test_single_vector_is_one_row(tmp_path):
    torch.save({"<it>": ONE}, tmp_path / "it.bin")
    assert read_embedding(tmp_path / "it.bin")[""].shape == (1, 4)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match="there is no embedding"):
        read_embedding(tmp_path / "none.pt")
    save_file({"a": ONE, "b": TWO}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"no embedding that is known here.*got a, b"):
        read_embedding(tmp_path / "x.safetensors")
    save_file({"a": torch.ones(2, 3, 4)}, tmp_path / "y.safetensors")
    with pytest.raises(WeightsError, match=r"expected vectors \[n, D\], got \[2, 3, 4\]"):
        read_embedding(tmp_path / "y.safetensors")
