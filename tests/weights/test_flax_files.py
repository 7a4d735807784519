"""Weights that the Flax classes of diffusers and transformers wrote."""

import json
import re

import numpy as np
import pytest
import torch
from flax import serialization
from safetensors.torch import load_file

from brushjax import weights
from brushjax.weights.maps import MAPS
from tests.weights import tiny

NAMES = {"clip_text": "flax_model.msgpack", "clip_vision": "flax_model.msgpack"}
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def flax_tree(kind, state):
    """A state dict as the Flax classes name and turn it."""
    tree = {}
    for name, tensor in state.items():
        value = tensor.numpy()
        if kind == "vae":  # FlaxAutoencoderKL kept the first names of its attention
            for new, old in OLD.items():
                name = name.replace(f"attentions.0.{new}", f"attentions.0.{old}")
        if kind != "clip_text":  # transformers keeps numbers as dicts, diffusers appends them
            name = re.sub(r"\.(\d+)(?=\.)", r"_\1", name)
        *path, leaf = name.split(".")
        if path[-1].endswith("embedding") and value.ndim == 2 and kind == "clip_text":
            leaf = "embedding"
        elif value.ndim == 4:
            leaf, value = "kernel", value.transpose(2, 3, 1, 0)
        elif value.ndim == 2:
            leaf, value = "kernel", value.T
        elif leaf == "weight":
            leaf = "scale"
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


@pytest.mark.parametrize("kind", ["unet", "vae", "clip_text"])
@pytest.mark.parametrize("train_state", [False, True])
def test_flax_folder_and_file_are_read_and_converted(tmp_path, kind, train_state):
    config, state = tiny.CONFIGS[kind], tiny.state_dict(kind, tiny.CONFIGS[kind])
    folder = tmp_path / MAPS[kind].folder
    folder.mkdir()
    key = "architectures" if kind == "clip_text" else "_class_name"
    named = [f"Flax{config[key][0]}"] if kind == "clip_text" else f"Flax{config[key]}"
    flax_config = config | {key: named, "dtype": "float32", "from_pt": True}
    (folder / "config.json").write_text(json.dumps(flax_config))
    tree = flax_tree(kind, state)
    tree = {"params": tree, "step": np.int32(7), "opt_state": {}} if train_state else tree
    file = folder / NAMES.get(kind, "diffusion_flax_model.msgpack")
    file.write_bytes(serialization.msgpack_serialize(tree))
    for place in (folder, tmp_path, file):
        weights.convert(kind, place, tmp_path / f"out-{place.name}")
        (written,) = (tmp_path / f"out-{place.name}").glob("*.safetensors")
        assert tiny.same(load_file(written), state)


def test_flax_weights_of_bfloat16_keep_their_bits(tmp_path):
    state = {name: value.bfloat16() for name, value in tiny.state_dict("vae", tiny.VAE).items()}
    import ml_dtypes

    tree = flax_tree("vae", {name: value.float() for name, value in state.items()})
    tree = serialization.to_state_dict(
        {k: _cast(v, ml_dtypes.bfloat16) for k, v in tree.items()}
    )  # fmt: skip
    file = tmp_path / "diffusion_flax_model.msgpack"
    file.write_bytes(serialization.msgpack_serialize(tree))
    weights.convert("vae", file, tmp_path / "out", config=tiny.VAE)
    read = load_file(tmp_path / "out/diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in read.values()} == {torch.bfloat16}
    assert tiny.same(read, state)


def _cast(tree, dtype):
    return {k: _cast(v, dtype) for k, v in tree.items()} if isinstance(tree, dict) else (
        tree.astype(dtype))  # fmt: skip


def test_damaged_flax_file_is_one_clear_error(tmp_path):
    file = tmp_path / "diffusion_flax_model.msgpack"
    whole = serialization.msgpack_serialize({"conv_in": {"kernel": np.ones((3, 3, 4, 8))}})
    for length in range(9, len(whole), 97):
        file.write_bytes(whole[:length])
        with pytest.raises(weights.WeightsError, match="msgpack file of Flax weights, or it is"):
            weights.load("unet", file)
    file.write_bytes(serialization.msgpack_serialize({"conv_in": {"kernel": "words"}}))
    with pytest.raises(weights.WeightsError, match=r"conv_in\.kernel is no array"):
        weights.load("unet", file)
