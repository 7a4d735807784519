"""Meshes over the eight fake devices, and rules that cut arrays."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from brushjax import sharding
from brushjax.sharding import MeshShape, make_mesh

TREE = {
    "unet": {"conv_in": {"kernel": jax.ShapeDtypeStruct((3, 3, 4, 16), jnp.float32)}},
    "norm": {0: {"scale": jax.ShapeDtypeStruct((6,), jnp.bfloat16)}},
}


def specs(rules, shape=None):
    layout = sharding.shardings(TREE, make_mesh(shape), rules)
    return layout["unet"]["conv_in"]["kernel"].spec, layout["norm"][0]["scale"].spec


def test_mesh_takes_all_devices_on_the_open_axis():
    assert dict(make_mesh().shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(make_mesh(MeshShape(fsdp=2, tensor=2)).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


@pytest.mark.parametrize("shape", [MeshShape(data=3), MeshShape(fsdp=3), MeshShape(-1, -1)])
def test_mesh_refuses_sizes_that_do_not_use_every_device(shape):
    with pytest.raises(ValueError, match="to multiply to 8 devices"):
        make_mesh(shape)


def test_rules_cut_the_largest_dimension_that_divides():
    assert specs([(".*", "cut:data")]) == (P(None, None, None, "data"), P())
    assert specs([(".*", "cut:fsdp")], MeshShape(data=4, fsdp=2))[1] == P("fsdp")


def test_first_rule_that_matches_the_whole_path_decides():
    rules = [("conv_in", "cut:data"), (r"norm\.0\..*", "replicate"), (".*", "cut:data")]
    assert specs(rules) == (P(None, None, None, "data"), P())
    assert specs([(r"unet\..*", "None,None,None,data")])[0] == P(None, None, None, "data")
    assert specs([]) == (P(), P())


@pytest.mark.parametrize("tactic", ["cut:dat", "shard", "data", "None,None,data,None"])
def test_rules_refuse_unknown_tactics_and_layouts_that_do_not_fit(tactic):
    with pytest.raises(ValueError, match=r"tactic|does not fit"):
        specs([(".*", tactic)])


def test_large_arrays_that_stay_whole_are_logged(caplog):
    tree = {"table": jax.ShapeDtypeStruct((4099, 4099), jnp.float32)}  # prime: nothing divides it
    with caplog.at_level(logging.WARNING):
        sharding.shardings(tree, make_mesh(), [(".*", "cut:data")])
    assert "table (4099, 4099) stays whole" in caplog.text
    caplog.clear()
    sharding.shardings(tree, make_mesh(devices=jax.devices()[:1]), [(".*", "cut:data")])
    assert not caplog.text  # one device has all anyway


def test_bytes_per_device_counts_one_part():
    mesh = make_mesh()
    layout = sharding.shardings(TREE, mesh, [("unet.*", "cut:data")])
    assert sharding.bytes_per_device(TREE, layout) == 3 * 3 * 4 * 16 * 4 // 8 + 6 * 2


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a TPU's chip."""

    id: int
    coords: tuple[int, int, int]
    device_kind: str
    platform: str = "tpu"
    core_on_chip: int = 0
    process_index: int = 0


@pytest.mark.parametrize("kind", ["TPU v5 lite", "TPU v6 lite"])
def test_mesh_cuts_an_axis_of_a_slice_in_parts(kind):
    slice_ = [Chip(16 * y + x, (x, y, 0), kind) for y in range(16) for x in range(16)]
    mesh = make_mesh(MeshShape(tensor=4), slice_)
    assert mesh.shape == {"data": 64, "fsdp": 1, "tensor": 4}
    for row in mesh.devices.reshape(64, 4):  # neighbours on the torus
        places = np.array([chip.coords for chip in row])
        assert np.ptp(places, axis=0).sum() == 3
