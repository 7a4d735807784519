"""LLaMA over eight devices: equal to one, and frozen matrices stay where they are."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from brushjax import sharding
from brushjax.nn import Execution, executing, lora
from brushjax.sharding import LANGUAGE_MODEL, MeshShape, make_mesh
from tests.models.encoders.tiny_llama import TINY, build, inputs, is_factor
from tests.support import error

# Of the standard deviation: sums over devices come in another order, which is 1.04e-5 with
# jax 0.12; in float64 the same programs differ by 3e-14.
TOLERANCE = 2e-5
CONFIG = dataclasses.replace(
    TINY,
    vocab_size=48,
    hidden_size=32,
    intermediate_size=64,
    num_attention_heads=8,
    num_key_value_heads=4,
)
SHAPES = {"data x tensor": MeshShape(2, 1, 4), "fsdp": MeshShape(1, 8, 1)}


def step(graph, factors, frozen, values, mask):
    """States, logits, and the gradients of the low-rank updates."""

    def loss(factors):
        model = nnx.merge(graph, factors, frozen)
        states = model(values, mask)
        logits = model.logits(states)
        return jnp.sum(jnp.sin(logits)), (states, logits)

    return jax.grad(loss, has_aux=True)(factors)


@pytest.mark.parametrize("name", SHAPES)
def test_sharded_llama_equals_one_device(name):
    model = build(CONFIG, lora.LoRA(rank=4))
    graph, factors, frozen = nnx.split(model, is_factor, ...)
    values, mask = inputs(batch=8, length=6, width=32)
    mask = mask.at[1, 3:5].set(False)
    run = jax.jit(step, static_argnums=0)
    expected = run(graph, factors, frozen, values, mask)

    mesh = make_mesh(SHAPES[name])
    batch = jax.NamedSharding(mesh, sharding.BATCH)

    def place(state):
        pure = nnx.to_pure_dict(state)
        return jax.device_put(pure, sharding.shardings(pure, mesh, LANGUAGE_MODEL))

    placed = place(factors), place(frozen)
    kernel = placed[1]["model"]["layers"]["stack"]["mlp"]["down_proj"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (
        (3, 16, 32) if name == "data x tensor" else (3, 64, 4)
    )
    program = run.lower(graph, *placed, *jax.device_put((values, mask), batch)).compile()
    ours = program(*placed, *jax.device_put((values, mask), batch))
    for one, other in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
        assert error(one.reshape(-1), other.reshape(-1)) <= TOLERANCE

    gathered = gathered_shapes(program.as_text())
    whole = {shape for leaf in jax.tree.leaves(frozen) for shape in matrices(leaf.shape)}
    if name == "fsdp":
        assert gathered & whole  # what the next line looks for is what a gather looks like
    else:
        assert not gathered & whole


def test_states_are_cut_over_all_devices_wherever_the_inputs_lie():
    graph, state = nnx.split(build(CONFIG))
    mesh = make_mesh(SHAPES["data x tensor"])
    whole = jax.NamedSharding(mesh, jax.P())

    @jax.jit
    def states(params, values, mask):
        with executing(Execution(mesh=mesh)):
            return nnx.merge(graph, params)(values, mask)

    values, mask = inputs(batch=8, length=6, width=32)
    pure = nnx.to_pure_dict(state)
    params = jax.device_put(pure, sharding.shardings(pure, mesh, LANGUAGE_MODEL))
    ours = states(params, *jax.device_put((values, mask), whole))
    assert ours.sharding.shard_shape(ours.shape)[0] == 1  # the parts behind have no tensor axis
    assert error(ours.reshape(-1), nnx.merge(graph, pure)(values, mask).reshape(-1)) <= TOLERANCE


def matrices(shape):
    """How a matrix, or a layer's of a stack, may stand in a program."""
    return {shape[-2:], shape[-2:][::-1], shape, (1, *shape[-2:])} if len(shape) > 1 else set()


def gathered_shapes(text):
    """Shapes of all results of all-gather in a compiled program."""
    results = re.findall(r"= (.*) all-gather(?:-start)?\(", text)
    found = re.findall(r"\[([\d,]+)\]", " ".join(results))
    return {tuple(map(int, one.split(","))) for one in found}
