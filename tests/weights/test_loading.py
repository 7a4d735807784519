"""Where weights are found, and where they are put."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file, save_file

import brushjax
from brushjax import sharding, weights
from brushjax.weights.checkpoints import flat
from brushjax.weights.formats import read_file
from brushjax.weights.maps import MAPS
from brushjax.weights.store import FileTensor
from tests.support import GOLDEN
from tests.weights import tiny

STEM = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def original():
    return tiny.state_dict("vae", tiny.VAE)


@pytest.fixture
def folder(original, tmp_path):
    return tiny.write_folder(tmp_path / "vae", "vae", tiny.VAE, original)


def fits(path, original, **options):
    """Whether what is read from a path is the original."""
    read = weights.read("vae", path, **options).tensors
    return read.keys() == original.keys() and all(
        np.array_equal(tensor.array(), original[name].numpy()) for name, tensor in read.items()
    )


def test_folder_pipeline_and_file_are_the_same(folder, original):
    assert fits(folder, original)
    assert fits(folder.parent, original)
    assert fits(folder / f"{STEM}.safetensors", original)


def test_sharded_file_with_index_is_read(folder, original):
    (folder / f"{STEM}.safetensors").unlink()
    names = sorted(original)
    files = [f"{STEM}-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({name: original[name] for name in part}, folder / file)
    index = {"weight_map": {name: files[i % 2] for i, name in enumerate(names)}}
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps(index))
    assert fits(folder, original)
    (folder / files[1]).unlink()
    with pytest.raises(weights.WeightsError, match=f"missing are {files[1]}"):
        weights.read("vae", folder)


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_pickles_are_read(folder, original, zipped, nested):
    (folder / f"{STEM}.safetensors").unlink()
    content = {"state_dict": original, "global_step": 3} if nested else original
    torch.save(content, folder / f"{STEM}.bin", _use_new_zipfile_serialization=zipped)
    assert fits(folder, original)
    assert fits(folder / f"{STEM}.bin", original, config=tiny.VAE)


def test_bfloat16_pickle_keeps_its_bits(tmp_path):
    bits = tiny.random_bits("vae", tiny.VAE)
    torch.save(bits, tmp_path / "vae.ckpt")
    weights.convert("vae", tmp_path / "vae.ckpt", tmp_path / "out", config=tiny.VAE)
    assert tiny.same(load_file(tmp_path / f"out/{STEM}.safetensors"), bits)


def test_config_argument_overrides_the_folders_own(folder, tmp_path):
    wanted = tiny.VAE | {"scaling_factor": 0.5}
    (tmp_path / "other.json").write_text(json.dumps(wanted))
    assert weights.load("vae", folder).config.scaling_factor == 0.18215
    assert weights.load("vae", folder, config=wanted).config.scaling_factor == 0.5
    assert weights.load("vae", folder, config=tmp_path / "other.json").config.scaling_factor == 0.5
    ours = weights.load("vae", folder, config=wanted).config
    assert weights.load("vae", folder, config=ours).config.scaling_factor == 0.5


def test_default_is_float32_and_none_keeps_the_files_dtype(tmp_path):
    half = {name: value.half() for name, value in tiny.state_dict("vae", tiny.VAE).items()}
    folder = tiny.write_folder(tmp_path / "vae", "vae", tiny.VAE, half)
    for dtype, expected in (
        (None, jnp.float16),
        ("bfloat16", jnp.bfloat16),
        ("default", jnp.float32),
    ):
        options = {} if dtype == "default" else {"dtype": dtype}
        model = brushjax.load("vae", folder, **options)
        assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype(expected)}
    loaded = brushjax.load("vae", folder).encoder.conv_in.kernel[...]
    assert np.array_equal(loaded.transpose(3, 2, 0, 1), half["encoder.conv_in.weight"].float())


def test_float64_without_x64_is_an_error(folder):
    with pytest.raises(weights.WeightsError, match="jax_enable_x64"):
        weights.load("vae", folder, dtype=jnp.float64)


@pytest.mark.parametrize("layout", ["diffusers", "orbax"])
@pytest.mark.parametrize("form", ["function", "tree", "one"])
def test_tensors_land_in_their_shards(folder, layout, form, original, tmp_path):
    mesh = sharding.make_mesh(sharding.MeshShape(data=2, fsdp=4))
    rules = [(r".*\.kernel", "cut:fsdp")]
    weights.convert("vae", folder, tmp_path / "source", layout=layout)
    function = functools.partial(sharding.shardings, mesh=mesh, rules=rules)
    plain = nnx.to_pure_dict(nnx.state(weights.load("vae", folder)))
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    given = {"function": function, "tree": function(plain), "one": replicated}[form]
    model = weights.load("vae", tmp_path / "source", shardings=given)
    expected = flat(jax.tree.map(lambda _: replicated, plain) if form == "one" else function(plain))
    for path, leaf in flat(nnx.to_pure_dict(nnx.state(model))).items():
        assert leaf.sharding.is_equivalent_to(expected[path], leaf.ndim), path
        assert np.array_equal(leaf, flat(plain)[path])
    weights.save(model, tmp_path / "again")
    assert tiny.same(load_file(tmp_path / f"again/{STEM}.safetensors"), original)


def test_tree_of_shardings_of_another_shape_is_an_error(folder):
    with pytest.raises(weights.WeightsError, match="tree of shardings differs"):
        weights.load("vae", folder, shardings={"encoder": jax.devices()[0]})


def test_tensor_larger_than_a_slab_is_read_whole(tmp_path):
    values = torch.randn(70, 3, 1000, 13, generator=torch.Generator().manual_seed(0))
    save_file({"x": values, "scalar": torch.tensor(2.5)}, tmp_path / "x.safetensors")
    tensors, metadata = read_file(tmp_path / "x.safetensors")
    assert metadata == {}
    assert isinstance(tensors["x"], FileTensor)
    out = np.empty((1000, 13, 3, 70), np.float64)
    tensors["x"].fill(out.transpose(3, 2, 0, 1))
    assert np.array_equal(out, values.numpy().transpose(2, 3, 1, 0))
    assert np.array_equal(tensors["x"].rows(5, 9).array(), values[5:9].numpy())
    assert tensors["scalar"].array(np.dtype(np.float64)) == 2.5


@pytest.mark.parametrize(
    ("kind", "folder", "first"),
    [
        ("unet", "tiny_sd15", "down_blocks.0.attentions.0.proj_in.weight"),
        ("brushnet", "tiny_sdxl", "add_embedding.linear_1.weight"),
        ("clip_text", "tiny_sd15_pipeline", "text_model.final_layer_norm.weight"),
    ],
)
def test_published_files_load_and_save_unchanged(kind, folder, first, tmp_path):
    model = brushjax.load(kind, GOLDEN / folder)
    brushjax.save(model, tmp_path / "saved")
    (file,) = (tmp_path / "saved").glob("*.safetensors")
    published = load_file(GOLDEN / folder / MAPS[kind].folder / file.name)
    assert first in published
    assert tiny.same(load_file(file), published)
