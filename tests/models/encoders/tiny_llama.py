"""Small LLaMAs with numpy's random weights: nothing is compiled to build one."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from brushjax.models import Llama, LlamaConfig
from brushjax.nn import Keys, lora

TINY = LlamaConfig(
    vocab_size=11,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
)
run = jax.jit(lambda model, *inputs: model(*inputs))


def build(config=TINY, updates=None, seed=0):
    """Builds a model, with low-rank updates whose factors are both random if asked for."""

    def make():
        model = Llama(config, rngs=Keys(0))
        if updates is not None:
            lora.add(model, updates, rngs=Keys(1))
        return model

    graph, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        near = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        width = leaf.shape[-2] if len(leaf.shape) > 1 else 100
        return jnp.asarray(near + rng.standard_normal(leaf.shape) * width**-0.5, jnp.float32)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(draw, state))


def inputs(batch=2, length=7, width=16, seed=0):
    """Draws embeddings; the mask is full."""
    rng = np.random.default_rng(seed)
    values = jnp.asarray(rng.standard_normal((batch, length, width)), jnp.float32)
    return values, jnp.ones((batch, length), bool)


def arange(mask):
    """Positions that count unused slots too."""
    return jnp.broadcast_to(jnp.arange(mask.shape[1]), mask.shape)


def is_factor(path, _=None):
    """Whether a parameter is part of a low-rank update."""
    return bool({"lora_A", "lora_B"} & set(path))
