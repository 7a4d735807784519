"""The TPU's kernel, run step by step on the CPU: equal to plain attention, also over a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from brushjax.nn import Execution, attention, executing
from brushjax.nn.attention import Scores, _pick
from brushjax.nn.splash import fits_splash, splash
from brushjax.sharding import MeshShape, make_mesh

SHAPE = (256, 2, 8)  # two of the kernel's smallest tiles


def gradients(function, mesh, inputs):
    def value(q, k, v):
        with executing(Execution(mesh=mesh)):
            out = function(q, k, v)
        return jnp.vdot(out, jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    return jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(*inputs)


@pytest.mark.parametrize(
    ("shape", "batch", "causal", "key_heads"),
    [
        (MeshShape(1), 4, False, 2),
        (MeshShape(2, 1, 2), 2, False, 2),
        (MeshShape(2, 1, 2), 4, True, 1),
    ],
    ids=["one", "four by heads", "four by samples, causal-grouped"],
)
def test_splash_equals_plain_attention_in_values_and_gradients(shape, batch, causal, key_heads):
    rng = np.random.default_rng(0)
    length, heads, width = SHAPE
    inputs = [
        jnp.asarray(rng.standard_normal((batch, length, n, width)), jnp.float32)
        for n in (heads, key_heads, key_heads)
    ]
    devices = jax.devices()[: shape.data * shape.tensor]

    def fused(q, k, v):
        return splash(q, k, v, causal=causal, interpret=True)

    def plain(q, k, v):
        return attention(q, k, v, causal=causal, implementation="plain")

    ours = gradients(fused, make_mesh(shape, devices), inputs)
    theirs = gradients(plain, None, inputs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.abs(other).max() > 0.01
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6)


def test_splash_refuses_lengths_that_fill_no_tile():
    x = jnp.zeros((1, 130, 1, 8))
    with pytest.raises(ValueError, match="multiples of 128"):
        splash(x, x, x)


def test_attention_picks_by_the_platform_it_is_traced_for(monkeypatch):
    long, text = (jnp.zeros((1, n, 8, 40), jnp.bfloat16) for n in (4096, 77))
    free = Scores(None, None, False, 1.0)
    picks = {}
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(Execution, "platform", platform)
        with executing(Execution(mesh=make_mesh())):
            picks[platform] = [_pick(long, keys, free) for keys in (long, text)]
    assert picks == {
        "cpu": ["chunked", "plain"],
        "gpu": ["cudnn", "cudnn"],
        "tpu": ["splash", "plain"],
    }
    assert not fits_splash(text, text)
    wide = jnp.zeros((1, 1024, 1, 512))
    assert not fits_splash(wide, wide)
    masked = Scores(jnp.ones((1, 4096), bool), None, False, 1.0)
    assert _pick(long, long, masked) == "chunked"  # no kernel takes a key mask
    assert _pick(long, long, free) == "chunked"  # on eight devices and no mesh to divide it by
    monkeypatch.setattr(Execution, "platform", "gpu")
    causal = Scores(None, None, True, 1.0)
    assert [_pick(long, long, causal), _pick(long, text, causal)] == ["cudnn", "plain"]


@pytest.mark.parametrize(
    ("samples", "layout"),
    [
        (8, PartitionSpec(("data", "fsdp", "tensor"), None, None, None)),
        (2, PartitionSpec(("data", "fsdp"), None, "tensor", None)),
        (3, PartitionSpec(None, None, "tensor", None)),
    ],
)
def test_devices_take_samples_and_heads_where_there_are_too_few(monkeypatch, samples, layout):
    found = []

    def noted(function, *, in_specs, **_):
        found.append(set(in_specs))
        return function

    monkeypatch.setattr(jax, "shard_map", noted)
    q = jax.ShapeDtypeStruct((samples, 128, 4, 128), jnp.float32)
    with executing(Execution(mesh=make_mesh(MeshShape(2, 1, 4)))):
        jax.eval_shape(functools.partial(splash, interpret=True), q, q, q)
    assert found == [{layout}]
