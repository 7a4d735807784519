"""Attention: its implementations agree, and the chunked one never holds all scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from brushjax.nn import attention
from brushjax.nn.attention import QUERY_CHUNK

LENGTH, KEYS, HEADS, WIDTH = QUERY_CHUNK + 37, 19, 2, 4  # the last chunk is mostly padding


def draw(seed=0, length=LENGTH, keys=KEYS):
    """Draws queries, keys, values and a mask that leaves every query at least one key."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((2, length, HEADS, WIDTH))
    k, v = rng.standard_normal((2, 2, keys, HEADS, WIDTH))
    mask = rng.random((length, keys)) < 0.5
    mask[:, 0] = True
    return (*map(jnp.asarray, (q, k, v)), jnp.asarray(mask))


def reference(q, k, v, mask):
    """Attention written out in numpy."""
    scores = np.einsum("blhd,bnhd->bhln", q, k) / np.sqrt(WIDTH)
    scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhln,bnhd->blhd", weights, v)


@pytest.mark.parametrize("masked", [False, True])
def test_implementations_agree_in_values_and_gradients(masked):
    with jax.enable_x64(True):
        q, k, v, mask = draw()
        mask = mask if masked else None
        probe = jnp.cos(jnp.arange(q.size)).reshape(q.shape)

        def run(implementation):
            def value(q, k, v):
                out = attention(q, k, v, mask, implementation)
                return jnp.vdot(out, probe), out

            return jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(q, k, v)

        (plain, out), (chunked, chunked_out) = run("plain"), run("chunked")
        expected = reference(q, k, v, np.ones((LENGTH, KEYS), bool) if mask is None else mask)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(chunked_out, expected, rtol=0, atol=1e-13)
        for one, other in zip(plain, chunked, strict=True):
            assert np.abs(one).max() > 0
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-12)


def largest_array(function, *args):
    """Returns the size of the largest value in a function's program, inner programs included."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield from (var.aval.size for var in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    return max(walk(jax.make_jaxpr(function)(*args).jaxpr))


def test_chunked_attention_never_holds_all_scores():
    length = 8 * QUERY_CHUNK
    q = jax.ShapeDtypeStruct((1, length, 1, WIDTH), jnp.float32)

    def gradient(implementation):
        return jax.grad(lambda *qkv: attention(*qkv, None, implementation).sum(), argnums=(0, 1, 2))

    assert largest_array(gradient("plain"), q, q, q) == length * length
    assert largest_array(gradient("chunked"), q, q, q) == QUERY_CHUNK * length
    compiled = jax.jit(gradient("chunked")).lower(q, q, q).compile()
    scores = 4 * length * length  # bytes
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 2


def test_half_precision_attention_takes_its_softmax_in_float32():
    q, k, v, _ = draw(length=8)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attention(*half, implementation="plain")
    assert out.dtype == jnp.bfloat16
    text = str(jax.make_jaxpr(lambda *qkv: attention(*qkv, implementation="plain"))(*half))
    exponentials = [line for line in text.splitlines() if " exp " in line]
    assert exponentials
    assert all("f32" in line for line in exponentials)


def test_attention_picks_chunks_for_long_sequences():
    def program(length):
        q = jax.ShapeDtypeStruct((1, length, 1, WIDTH), jnp.float32)
        return largest_array(attention, q, q, q)

    assert program(1024) == 1024 * 1024  # plain
    assert program(2048) == QUERY_CHUNK * 2048  # chunked


def test_attention_refuses_an_unknown_implementation():
    q, k, v, _ = draw(length=4)
    with pytest.raises(ValueError, match=r"expected an attention implementation of .*'fast'"):
        attention.__wrapped__(q, k, v, implementation="fast")
