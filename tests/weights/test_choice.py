"""Which of a folder's files are read: every arrangement that diffusers and transformers write."""

import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from brushjax import weights
from brushjax.weights import folders
from brushjax.weights.choice import choose
from brushjax.weights.maps import MAPS
from tests.torch_reference import randomize
from tests.weights import tiny

pytestmark = pytest.mark.torch
STEM = "diffusion_pytorch_model"
SHARD = "-00001-of-00002"


@pytest.mark.parametrize("variant", [None, "fp16", "non_ema"])
@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("shards", [True, False])
def test_folder_as_diffusers_writes_it_is_read(tmp_path, variant, safe, shards):
    settings = {key: value for key, value in tiny.UNET.items() if not key.startswith("_")}
    model = randomize(UNet2DConditionModel(**settings), 0, torch.float32)
    size = {"max_shard_size": "40KB"} if shards else {}
    model.save_pretrained(tmp_path, variant=variant, safe_serialization=safe, **size)
    assert len(list(tmp_path.glob("*.index*.json"))) == shards
    read = weights.read("unet", tmp_path).tensors
    expected = model.state_dict()
    assert read.keys() == expected.keys()
    assert all((read[name].array() == value.numpy()).all() for name, value in expected.items())
    for index in tmp_path.glob("*.index*.json"):  # some repositories hold none
        index.unlink()
        assert weights.read("unet", tmp_path).tensors.keys() == expected.keys()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.fp16.bin", "model.fp16.bin"])
def test_text_encoders_of_every_name_are_read(tmp_path, name):
    state = tiny.state_dict("clip_text", tiny.CLIP)
    (tmp_path / "config.json").write_text(json.dumps(tiny.CLIP))
    torch.save(state, tmp_path / name)
    assert weights.read("clip_text", tmp_path).tensors.keys() == state.keys()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("{}.bin", "{}.fp16.safetensors"), ("{}.bin",)),  # precision before the kind of file
        (("{}.fp16.bin", "{}.fp16.safetensors"), ("{}.fp16.safetensors",)),
        (("{}.non_ema.safetensors", "{}.fp16.bin"), ("{}.fp16.bin",)),
        (("{}.safetensors", "{}" + SHARD + ".safetensors", "{}.bin"), ("{}.safetensors",)),
        (("{}.fp16" + SHARD + ".bin", "{}.fp16.bin.index.json", "{}.ema.bin"),
         ("{}.fp16.bin.index.json", "{}.fp16" + SHARD + ".bin")),
        (("{}" + SHARD + ".fp16.safetensors", "{}.safetensors.index.fp16.json"),
         ("{}.safetensors.index.fp16.json", "{}" + SHARD + ".fp16.safetensors")),
        (("diffusion_flax_model.msgpack", "{}.bin"), ("{}.bin",)),
        (("diffusion_flax_model.msgpack", "model.onnx"), ("diffusion_flax_model.msgpack",)),
    ],
)  # fmt: skip
def test_choice_follows_one_rule(names, expected):
    chosen = choose(MAPS["unet"], [name.format(STEM) for name in names])
    assert chosen is not None
    assert chosen.files == tuple(name.format(STEM) for name in expected)
    assert choose(MAPS["unet"], ["v1-5-pruned.safetensors", "config.json"]) is None


def test_folder_with_only_unknown_variants_or_some_of_its_shards_is_refused(tmp_path):
    state = tiny.state_dict("vae", tiny.VAE)
    folder = tiny.write_folder(tmp_path / "vae", "vae", tiny.VAE, state)
    file = folder / f"{STEM}.safetensors"
    file.rename(folder / f"{STEM}.ema.safetensors")
    assert weights.read("vae", folder).tensors.keys() == state.keys()
    (folder / f"{STEM}.other.bin").write_bytes(b"")
    with pytest.raises(weights.WeightsError, match="several variants of the vae, ema, other, and"):
        weights.read("vae", folder)
    shutil.rmtree(folder)
    tiny.write_folder(folder, "vae", tiny.VAE, state)
    file.rename(folder / f"{STEM}{SHARD}.safetensors")
    with pytest.raises(weights.WeightsError, match="holds 1 of 2 shards"):
        weights.read("vae", folder)


class Hub:
    """A repository that is a folder here; records what is downloaded."""

    def __init__(self, names, monkeypatch, listed=True):
        self.names, self.taken = names, []
        self.listed = listed
        monkeypatch.setattr("huggingface_hub.list_repo_files", self.list_repo_files)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)

    def list_repo_files(self, repository):
        if not self.listed:
            raise OSError("no connection")
        return self.names

    def snapshot_download(self, repository, allow_patterns):
        from huggingface_hub.utils import filter_repo_objects

        self.taken = sorted(filter_repo_objects(self.names, allow_patterns=allow_patterns))
        return "/somewhere"


HALF_ONLY = (
    f"unet/{STEM}.fp16.safetensors",
    f"unet/{STEM}.fp16.bin",
    "unet/config.json",
    "text_encoder/pytorch_model.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder/config.json",
    "scheduler/scheduler_config.json",
    "tokenizer/merges.txt",
    "model_index.json",
    "whole.safetensors",
    "safety_checker/model.safetensors",
)


def test_hub_repository_with_only_half_precision_or_pickles_is_downloaded(monkeypatch):
    hub = Hub(HALF_ONLY, monkeypatch)
    tables = tuple(MAPS[kind] for kind in ("unet", "clip_text"))
    folders.local_path("someone/something", tables)
    left_out = {HALF_ONLY[1], HALF_ONLY[4], *HALF_ONLY[-2:]}
    assert hub.taken == sorted({*HALF_ONLY} - left_out)


def test_hub_downloads_each_model_once(monkeypatch):
    names = [f"vae/{STEM}{end}" for end in (".safetensors", ".bin", ".fp16.safetensors")]
    names += ["vae/config.json", f"unet/{STEM}.safetensors", f"{STEM}.safetensors", "v1-5.ckpt"]
    hub = Hub(names, monkeypatch)
    folders.local_path("someone/something", (MAPS["vae"],))
    assert hub.taken == sorted([names[0], names[3], names[5]])


def test_hub_out_of_reach_gives_what_its_cache_holds(monkeypatch):
    hub = Hub(HALF_ONLY, monkeypatch, listed=False)
    folders.local_path("someone/something", (MAPS["unet"],))
    assert f"unet/{STEM}.fp16.safetensors" in hub.taken


def test_index_and_shards_may_be_named_themselves(tmp_path):
    state = tiny.state_dict("vae", tiny.VAE)
    folder = tiny.write_folder(tmp_path / "vae", "vae", tiny.VAE, {})
    files = [f"part{i}.safetensors" for i in range(2)]
    for i, file in enumerate(files):
        save_file({name: state[name] for name in sorted(state)[i::2]}, folder / file)
    weight_map = {name: files[i % 2] for i, name in enumerate(sorted(state))}
    index = folder / f"{STEM}.fp16.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert weights.read("vae", index).tensors.keys() == state.keys()
