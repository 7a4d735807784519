"""Rematerialisation: same numbers, less kept; and a block's settings end with the block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from brushjax.models import UNet, UNetConfig
from brushjax.nn import Execution, constrain, executing, execution
from brushjax.sharding import BATCH, MeshShape, make_mesh
from brushjax.training.scale.program import flops
from tests.inference.conftest import filled

UNET = UNetConfig(
    block_out_channels=(8,),
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("UpBlock2D",),
    layers_per_block=1,
    cross_attention_dim=8,
    attention_head_dim=2,
    norm_num_groups=4,
)
KINDS = ("nothing", "elementwise", "layers")


def test_settings_end_with_their_block():
    assert execution() == Execution()
    with executing(Execution(attention="plain")):
        assert execution().attention == "plain"
    assert execution() == Execution()


def loss_of(kind, model):
    def loss(sample):
        with executing(Execution(rematerialise=kind, attention="plain")):
            out = model(sample, jnp.full(2, 3), jnp.ones((2, 5, 8)))
        return jnp.square(out).mean()

    return loss


def kept(loss, sample):
    """Counts the values that wait for the backward pass."""
    _, pull = jax.eval_shape(lambda sample: jax.vjp(loss, sample), sample)
    return sum(leaf.size for leaf in jax.tree.leaves(pull))


def test_rematerialisation_changes_no_gradient_and_keeps_less():
    model = filled(UNet, UNET, 0)
    sample = jnp.cos(jnp.arange(2 * 8 * 8 * 4.0)).reshape(2, 8, 8, 4)
    found, work, memory = {}, {}, {}
    for kind in ("nothing", "elementwise", "layers"):
        loss = loss_of(kind, model)
        traced = jax.jit(jax.grad(loss)).trace(sample)
        found[kind] = traced.lower().compile()(sample)
        work[kind] = flops(traced.jaxpr)
        memory[kind] = kept(loss, sample)
    largest = np.abs(found["nothing"]).max()
    assert largest > 0
    for kind in ("elementwise", "layers"):
        assert np.abs(found[kind] - found["nothing"]).max() <= 1e-5 * largest
    assert work["elementwise"] == work["nothing"]  # no product twice
    assert 1.1 * work["nothing"] < work["layers"] < 1.6 * work["nothing"]
    assert memory["layers"] < memory["elementwise"] < memory["nothing"]


def cut_of(x, *axes, shape=(2, 1, 4)):
    """The layout that `constrain` gives an array that lies whole on every device."""
    mesh = make_mesh(MeshShape(*shape))

    def run(x):
        with executing(Execution(mesh=mesh)):
            return constrain(x, *axes) + 0

    whole = jax.device_put(x, NamedSharding(mesh, PartitionSpec()))
    return jax.jit(run)(whole).sharding.shard_shape(x.shape)


def test_constrain_cuts_named_axes_over_the_mesh_where_it_divides_them():
    x = jnp.ones((4, 3, 8, 5))
    assert cut_of(x, "batch", None, "heads") == (2, 3, 2, 5)
    assert cut_of(x, "batch", "features", shape=(2, 2, 2)) == (1, 3, 8, 5)  # 2 divides no 3
    assert cut_of(x, None, shape=(8, 1, 1)) == x.shape
    assert cut_of(x, "samples", ..., shape=(2, 1, 4)) == (2, 3, 8, 5)  # 8 divide no 4 samples
    assert cut_of(x, None, None, "samples", shape=(2, 1, 4)) == (4, 3, 1, 5)
    with pytest.raises(KeyError, match="width"):
        constrain(x, "width")


def test_constrain_leaves_what_is_cut_by_hand_and_what_has_no_mesh():
    mesh = make_mesh()

    def run(x):
        with executing(Execution(mesh=mesh)):
            return constrain(x, "batch")

    by_hand = jax.shard_map(run, mesh=mesh, in_specs=BATCH, out_specs=BATCH, check_vma=False)
    for function in (by_hand, lambda x: constrain(x, "batch")):
        assert "sharding_constraint" not in str(jax.make_jaxpr(function)(jnp.ones((8, 2))))
    assert "sharding_constraint" in str(jax.make_jaxpr(run)(jnp.ones((8, 2))))
