"""Loops over a batch that lies on several devices: each goes through its own samples alone."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.models.fireedit.regions import RegionEncoderConfig, RegionFeatures
from brushjax.nn import Execution, Keys, attention, executing
from brushjax.sharding import BATCH, MeshShape, make_mesh
from brushjax.training.scale.collectives import collectives
from tests.support import error

MESH = MeshShape(4, 1, 2)
ROWS = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(sys.modules["brushjax.nn.attention"], "SCORES_AT_ONCE", 10)


def compiled(function, *arrays):
    """The program over eight devices of arrays that are cut over their first axis, and what it
    gives."""
    mesh = make_mesh(MESH)

    def run(*arrays):
        with executing(Execution(mesh=mesh)):
            return function(*arrays)

    placed = jax.device_put(arrays, jax.NamedSharding(mesh, jax.P(*BATCH)))
    program = jax.jit(run).lower(*placed).compile()
    return program, program(*placed)


def moved(program):
    """Shapes of what the devices exchange."""
    found = collectives(program.as_text(), devices=8)
    return [shape for one in found for _, shape in one.arrays]


def drawn(*shape):
    return jnp.asarray(ROWS.standard_normal(shape), jnp.float32)


def chunked(q, k, v, mask):
    return attention(q, k, v, key_mask=mask, bias=BIAS, implementation="chunked")


BIAS = drawn(1, 2, 6, 5)


@pytest.mark.parametrize("batch", [8, 4])  # a sample a device, or for two that do the same
def test_chunked_attention_over_devices_exchanges_nothing(batch):
    q, k, v = drawn(batch, 6, 2, 3), drawn(batch, 5, 2, 3), drawn(batch, 5, 2, 3)
    mask = jnp.arange(5) < jnp.arange(batch)[:, None] % 5 + 1
    program, ours = compiled(chunked, q, k, v, mask)
    assert not moved(program)
    assert error(ours.reshape(-1), chunked(q, k, v, mask).reshape(-1)) <= 1e-6


def test_loop_over_the_batch_itself_brings_all_samples_to_each_device():
    """What the other tests would see."""
    program, _ = compiled(lambda x: jax.lax.map(jnp.sin, x), drawn(8, 6))
    assert (8, 6) in moved(program) or (1, 6) in moved(program)


def test_regions_cut_out_over_devices_exchange_nothing():
    config = RegionEncoderConfig(
        channels=4, pos_hidden=4, feature_dim=4, out_dim=4, roi_output_size=2, image_size=16
    )
    model = RegionFeatures(config, rngs=Keys(0))
    maps = tuple(drawn(8, side, side, 4) for side in (8, 4, 2))
    boxes = jnp.tile(jnp.asarray([[0.5, 0.5, 0.5, 0.25], [0.3, 0.6, 0.2, 0.2]]), (8, 1, 1))
    boxes = boxes * jnp.linspace(0.5, 1, 8)[:, None, None]
    program, ours = compiled(lambda *x: model(x[:-1], x[-1]), *maps, boxes)
    assert not moved(program)
    assert error(ours.reshape(-1), model(maps, boxes).reshape(-1)) <= 1e-5
