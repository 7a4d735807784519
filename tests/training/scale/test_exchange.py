"""Exchanges over eight devices leave what one reduce-scatter and one gather would."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from brushjax.sharding import make_mesh
from brushjax.training.scale import exchange
from brushjax.training.scale.exchange import Exchange, scatter_rounds

CUTS = {
    "whole": PartitionSpec(),
    "front": PartitionSpec("data"),
    "middle": PartitionSpec(None, "data", None),
    "bias": PartitionSpec("data"),
}
SHAPES = {"whole": (3, 5), "front": (64, 3), "middle": (3, 16, 5), "bias": (8,)}


def over_devices(function, arrays, out):
    mesh = make_mesh()
    whole = jax.tree.map(lambda _: PartitionSpec(), CUTS)
    cuts = {"gather": (CUTS, whole), "mean": (PartitionSpec("data"), CUTS)}[out]
    return jax.jit(
        jax.shard_map(function, mesh=mesh, in_specs=(cuts[0],), out_specs=cuts[1], check_vma=False)
    )(arrays)


@pytest.mark.parametrize("small", [0, 100, 10**6])
@pytest.mark.parametrize("group", [None, 2, 4, 8])
def test_mean_of_gradients_lies_where_the_state_does(monkeypatch, small, group):
    monkeypatch.setattr(exchange, "SMALL", small)
    monkeypatch.setattr(exchange, "TPU_GROUP", group or 8)
    how = Exchange(CUTS, make_mesh(), tiles=group is not None)
    rng = np.random.default_rng(0)
    each = {
        name: rng.integers(0, 99, (8, *shape)).astype(np.float32) for name, shape in SHAPES.items()
    }
    ours = over_devices(
        lambda part: how.mean(jax.tree.map(lambda x: x[0], part), np.float32), each, "mean"
    )
    for name, array in each.items():
        np.testing.assert_array_equal(ours[name], array.mean(axis=0), err_msg=name)


@pytest.mark.parametrize("small", [0, 100, 10**6])
@pytest.mark.parametrize("group", [None, 2, 4, 8])
def test_gather_undoes_the_cut(monkeypatch, small, group):
    monkeypatch.setattr(exchange, "SMALL", small)
    monkeypatch.setattr(exchange, "TPU_GROUP", group or 8)
    how = Exchange(CUTS, make_mesh(), tiles=group is not None)
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    ours = over_devices(how.gather, arrays, "gather")
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_rounds_take_prime_factors_whole():
    assert [len(groups[0]) for groups in scatter_rounds(22, 8)] == [2, 11]
    assert [len(groups[0]) for groups in scatter_rounds(256, 8)] == [8, 8, 4]
