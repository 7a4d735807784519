"""What is traced otherwise for GPUs, and the exact GELU of half precision."""

import jax
import jax.numpy as jnp
import numpy as np

from brushjax.nn import Keys, execution
from brushjax.nn.execution import Execution
from brushjax.nn.resnet import ResnetBlock
from brushjax.nn.transformer import exact_gelu


def program(block):
    x, time = jnp.zeros((1, 4, 4, 8)), jnp.zeros((1, 6))
    return str(jax.make_jaxpr(lambda x, time: block(x, time))(x, time))


def test_a_gpus_convolution_does_not_add_the_time(monkeypatch):
    block = ResnetBlock(8, 8, time_width=6, groups=2, epsilon=1e-5, rngs=Keys(0))
    assert "optimization_barrier" not in program(block)
    monkeypatch.setattr(Execution, "platform", "gpu")
    assert execution().platform == "gpu"
    assert program(block).count("optimization_barrier") == 1


def test_gelu_in_half_precision_is_that_of_single_precision_rounded():
    x = jnp.linspace(-6, 6, 501).astype(jnp.bfloat16)
    exact = exact_gelu(x.astype(jnp.float32))
    np.testing.assert_allclose(exact_gelu(x).astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_gelu_keeps_half_precision_alone_for_the_backward_pass():
    x = jnp.linspace(-6, 6, 501).astype(jnp.bfloat16)
    value, pull = jax.vjp(exact_gelu, x)
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(pull)] == [(x.shape, x.dtype)]
    slope = jax.vmap(jax.grad(exact_gelu))(x.astype(jnp.float32))
    np.testing.assert_allclose(pull(jnp.ones_like(x))[0].astype(jnp.float32), slope, atol=2**-8)
    np.testing.assert_array_equal(value, exact_gelu(x))
