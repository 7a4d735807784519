"""What a proposer learns from: cells of things, their boxes, and that a step on it helps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.models.fireedit.detector import cell_centres
from brushjax.models.fireedit.proposals import Proposer, ProposerConfig
from brushjax.training.objectives.proposals import assigned, proposal_error
from tests.tiny_fireedit import random_model

CONFIG = ProposerConfig(
    dino_dim=8,
    d_model=8,
    heads=2,
    encoder_layers=1,
    decoder_layers=1,
    ffn=8,
    n_points=1,
    queries=6,
    bbox_hidden=8,
)


def test_cells_belong_to_the_smallest_thing_that_holds_them():
    centres = jnp.asarray(cell_centres(4, 4), jnp.float32)
    whole, corner, absent = [0.5, 0.5, 1.0, 1.0], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1]
    boxes = jnp.asarray([[whole, corner, absent]])
    holds, wanted = assigned(centres, boxes, jnp.array([[True, True, False]]))
    assert holds.all()
    inside = np.zeros((4, 4), bool)
    inside[:2, :2] = True
    np.testing.assert_array_equal(wanted[0, :, 2] == 0.5, inside.reshape(-1))
    none, _ = assigned(centres, boxes, jnp.zeros((1, 3), bool))
    assert not none.any()


@pytest.mark.slow  # half a minute of compiling
def test_steps_on_the_error_bring_boxes_to_the_things():
    model = random_model(Proposer, CONFIG, 0)
    graph, state = nnx.split(model)
    features = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4, 4, 8)), jnp.float32)
    boxes = jnp.asarray([[[0.25, 0.5, 0.4, 0.8]], [[0.7, 0.5, 0.5, 0.6]]])
    there = jnp.ones((2, 1), bool)

    @jax.jit
    def step(params):
        def loss(params):
            return proposal_error(nnx.merge(graph, params), features, boxes, there).value

        value, gradient = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda x, g: x - 0.05 * g, params, gradient)

    params = nnx.to_pure_dict(state)
    first, params = step(params)
    for _ in range(60):
        last, params = step(params)
    assert np.isfinite(last)
    assert last < 0.5 * first
