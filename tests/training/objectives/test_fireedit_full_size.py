"""FireEdit's second stage at full size, by shapes alone: what learns, and what a chip holds."""

import dataclasses
from pathlib import Path

import jax
import pytest

from brushjax import config as configs
from brushjax import sharding
from brushjax.sharding import MeshShape
from brushjax.training.plan import make_plan
from brushjax.training.scale.ahead import sums_over_tensor
from brushjax.training.scale.program import Operation
from brushjax.training.state import count

GIB = 2**30
STAGE_2 = Path(__file__).parents[3] / "configs" / "fireedit" / "stage2.py"
LEARNT = {
    "qformer": 65_015_040,
    "tati": 23_334_144,
    "hvca": 21_070_080,
    "bridge": 33_562_624,
    "region_encoder": 1024 * 4096 + 4096,  # the last layer alone
    "llama": 4_194_304 + 2 * 35 * 4096,  # low-rank updates; rows of 35 new tokens, in and out
    "unet": 859_532_484 + 19_169_280,  # eight channels; the second stream
}


@pytest.fixture(scope="module")
def plan():
    """Of 64 x 4 chips; here are eight devices, which differ in how far the state is cut."""
    config = configs.load(STAGE_2)
    return make_plan(dataclasses.replace(config, mesh=MeshShape(data=2, fsdp=1, tensor=4)))


def test_stage_2_learns_the_parameters_of_the_published_counts(plan):
    assert {kind: count(tree) for kind, tree in plan.state["params"].items()} == LEARNT


def test_stage_2_fits_chips_of_16_gb_with_the_language_model_over_four(plan):
    frozen = sharding.bytes_per_device(plan.frozen, plan.frozen_layout)
    llama = sharding.bytes_per_device(plan.frozen["llama"], plan.frozen_layout["llama"])
    assert llama == pytest.approx(2 * count(plan.frozen["llama"]) / 4, rel=0.01)
    learnt = count(plan.state["params"])
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(plan.state))
    cut = sharding.bytes_per_device(plan.state, plan.places.state)
    assert cut == pytest.approx(state / 2, rel=0.01)  # nothing of any size stays whole
    held = frozen + 2 * learnt + 2 * learnt + state / 64  # beside it the copy and its gradient
    print(f"frozen {frozen / GIB:.2f}, together {held / GIB:.2f} GiB")
    assert held < 11 * GIB


def through(depth, features):
    """Every layer's product of four samples of 640 tokens with a matrix."""
    shape, layers = (4, 640, features), 32
    work = 2.0 * 4 * 640 * depth * features * layers
    return Operation("dot", ("bfloat16",) * 2, shape, layers, work, False)


def test_least_traffic_of_stage_2_counts_two_sums_a_layer_each_way(plan):
    products = [through(4096, 4096), through(4096, 11008), through(11008, 4096)]
    samples, chips = 2, 4  # two rows of four chips share the four samples
    one = samples * 640 * 4096 * 2 * 2 * (chips - 1) / chips
    assert sums_over_tensor(plan, products, 2) == pytest.approx(32 * 2 * 2 * one)
    forward = sums_over_tensor(plan, products[2:], 2)  # neither the other matrices, nor a way back
    assert forward == pytest.approx(32 * one)
