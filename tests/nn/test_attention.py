"""Attention: its implementations agree, and the chunked one never holds all scores."""

from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from brushjax.nn import attention

MODULE = import_module("brushjax.nn.attention")  # the package has the function of its name
LENGTH, KEYS, HEADS, WIDTH = 549, 19, 2, 4
ROWS = 512  # of scores at once: two chunks, of which the second is padded


@pytest.fixture(autouse=True)
def _few_scores_at_once(monkeypatch):
    monkeypatch.setattr(MODULE, "SCORES_AT_ONCE", ROWS * KEYS)


def draw(seed=0, length=LENGTH, keys=KEYS, key_heads=HEADS):
    """Draws queries, keys and values, in float64 where that is on."""
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((2, length, HEADS, WIDTH))
    k, v = rng.standard_normal((2, 2, keys, key_heads, WIDTH))
    return tuple(map(jnp.asarray, (q, k, v)))


def reference(q, k, v, key_mask=None, bias=None, causal=False, scale=WIDTH**-0.5):
    """Attention written out in numpy, one row at a time."""
    q, k, v = map(np.asarray, (q, k, v))
    (batch, length, heads, _), keys, shared = q.shape, k.shape[1], q.shape[2] // k.shape[2]
    shape = (batch, heads, length, keys)
    bias = np.broadcast_to(0.0 if bias is None else np.asarray(bias), shape)
    out = np.zeros(q.shape)
    for b, h, i in np.ndindex(*shape[:3]):
        seen = np.ones(keys, bool) if key_mask is None else np.array(key_mask[b])
        if causal:
            seen &= np.arange(keys) <= i + keys - length
        scores = scale * k[b, :, h // shared] @ q[b, i, h] + bias[b, h, i]
        weights = np.where(seen, np.exp(scores - scores.max()), 0) if seen.any() else np.ones(keys)
        out[b, i, h] = weights @ v[b, :, h // shared] / weights.sum()
    return out


def padding(keys):
    """Padding at the right of one sample, and everywhere but at one key of the other."""
    return jnp.arange(keys) < jnp.array([[keys - 3], [1]])


@pytest.mark.parametrize(
    ("key_heads", "causal", "masked", "biased"),
    [
        (HEADS, False, False, None),
        (1, False, False, (1, HEADS, 1, KEYS)),
        (1, True, False, None),
        (HEADS, False, True, (2, HEADS, LENGTH, KEYS)),
        (1, True, True, (2, HEADS, LENGTH, KEYS)),
        (HEADS, True, True, (1, 1, LENGTH, KEYS)),
    ],
)
def test_implementations_agree_in_values_and_gradients(key_heads, causal, masked, biased):
    with jax.enable_x64(True):
        keys = LENGTH if causal else KEYS
        q, k, v = draw(keys=keys, key_heads=key_heads)
        bias = None
        if biased is not None:
            rng = np.random.default_rng(1)
            bias = jnp.asarray(rng.standard_normal((*biased[:3], keys)))
        options = {"key_mask": padding(keys) if masked else None, "causal": causal, "scale": 0.7}
        probe = jnp.cos(jnp.arange(q.size)).reshape(q.shape)

        def run(implementation):
            def value(operands):
                *qkv, bias = operands
                out = attention(*qkv, bias=bias, implementation=implementation, **options)
                return jnp.vdot(out, probe), out

            return jax.jit(jax.grad(value, has_aux=True))((q, k, v, bias))

        (plain, out), (chunked, chunked_out) = run("plain"), run("chunked")
        expected = reference(q, k, v, bias=bias, **options)
        assert out.dtype == jnp.float64
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-13)
        np.testing.assert_allclose(chunked_out, expected, rtol=0, atol=1e-13)
        for one, other in zip(*map(jax.tree.leaves, (plain, chunked)), strict=True):
            assert np.abs(one).max() > 0
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-12)


@pytest.mark.parametrize("implementation", ["plain", "chunked"])
def test_a_query_that_sees_nothing_averages_all_values(implementation):
    q, k, v = draw(length=5)
    mask = jnp.stack([jnp.zeros(KEYS, bool), jnp.ones(KEYS, bool)])
    bias = jnp.full((1, 1, 1, KEYS), -jnp.inf)
    mean = np.asarray(v).mean(1, keepdims=True)

    def run(q, k, **options):
        return attention(q, k, v, implementation=implementation, **options)

    np.testing.assert_allclose(
        run(q, k, key_mask=mask)[0], np.repeat(mean[0], 5, 0), rtol=0, atol=1e-6
    )
    hidden_twice = run(q, k, key_mask=mask, bias=bias)
    np.testing.assert_allclose(hidden_twice, np.repeat(mean, 5, 1), rtol=0, atol=1e-6)
    slopes = jax.grad(lambda q, k: run(q, k, key_mask=mask, bias=bias).sum(), argnums=(0, 1))(q, k)
    assert all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("implementation", ["plain", "chunked"])
def test_hidden_keys_do_not_matter(implementation):
    q, k, v = draw(length=KEYS)
    mask = padding(KEYS)

    def run(k, v):
        return attention(q, k, v, key_mask=mask, causal=True, implementation=implementation)

    other = [jnp.where(mask[..., None, None], x, 7.0) for x in (k, v)]
    assert jnp.array_equal(run(k, v), run(*other))
    later = [x.at[:, 9:].set(7.0) for x in (k, v)]
    assert jnp.array_equal(run(k, v)[:, :9], run(*later)[:, :9])


def test_last_queries_of_a_causal_attention_are_those_of_the_whole():
    q, k, v = draw(length=KEYS)
    whole = attention(q, k, v, causal=True)
    last = attention(q[:, -4:], k, v, causal=True)
    np.testing.assert_allclose(last, whole[:, -4:], rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["plain", "chunked"])
def test_queries_from_a_place_on_see_what_they_see_in_the_whole(implementation):
    """Where the first query stands is a number that a program may compute."""
    q, k, v = draw(length=KEYS)
    whole = attention(q, k, v, causal=True)

    @jax.jit
    def some(first):
        part = jax.lax.dynamic_slice_in_dim(q, first, 4, 1)
        return attention(part, k, v, causal=first, implementation=implementation)

    for first in (0, 7):
        np.testing.assert_allclose(some(first), whole[:, first : first + 4], rtol=0, atol=1e-6)


def test_decoupled_attention_has_the_published_numbers():
    q = jnp.array([[1.0, 0], [0, 2]])[None, :, None]
    k, v = jnp.array([[[1.0, 0], [0, 1], [1, 1]], [[1, 2], [3, 4], [5, 6]]])[:, None, :, None]
    text = attention(q, k, v)
    k, v = jnp.array([[[2.0, 0], [0, -1]], [[10, 0], [0, 10]]])[:, None, :, None]
    both = (text + 0.5 * attention(q, k, v))[0, :, 0]
    expected = [[7.022148, 4.977852], [7.696998, 5.652701]]
    np.testing.assert_allclose(both, expected, rtol=0, atol=2e-6)


def largest_array(function, *args):
    """Returns the size of the largest value in a function's program, inner programs included."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield from (var.aval.size for var in equation.outvars)
            for inner in jaxprs_in_params(equation.params):
                yield from walk(inner)

    return max(walk(jax.make_jaxpr(function)(*args).jaxpr))


def test_chunked_attention_never_holds_all_scores(monkeypatch):
    length = 8 * ROWS
    monkeypatch.setattr(MODULE, "SCORES_AT_ONCE", ROWS * length)
    q = jax.ShapeDtypeStruct((1, length, 1, WIDTH), jnp.float32)

    def gradient(implementation):
        return jax.grad(
            lambda *qkv: attention(*qkv, implementation=implementation).sum(), argnums=(0, 1, 2)
        )

    assert largest_array(gradient("plain"), q, q, q) == length * length
    assert largest_array(gradient("chunked"), q, q, q) == ROWS * length
    compiled = jax.jit(gradient("chunked")).lower(q, q, q).compile()
    scores = 4 * length * length  # bytes
    assert compiled.memory_analysis().temp_size_in_bytes < scores / 2


def test_half_precision_attention_takes_its_softmax_in_float32():
    q, k, v = draw(length=8)
    half = [jnp.asarray(x, jnp.bfloat16) for x in (q, k, v)]
    out = attention(*half, implementation="plain")
    assert out.dtype == jnp.bfloat16
    text = str(jax.make_jaxpr(lambda *qkv: attention(*qkv, implementation="plain"))(*half))
    exponentials = [line for line in text.splitlines() if " exp " in line]
    assert exponentials
    assert all("f32" in line for line in exponentials)


def test_attention_picks_chunks_for_long_sequences(monkeypatch):
    monkeypatch.setattr(MODULE, "SCORES_AT_ONCE", ROWS * 2048)

    def program(length):
        q = jax.ShapeDtypeStruct((1, length, 1, WIDTH), jnp.float32)
        return largest_array(attention, q, q, q)

    assert program(1024) == 1024 * 1024  # plain
    assert program(2048) == ROWS * 2048  # chunked


def test_attention_refuses_an_unknown_implementation():
    q, k, v = draw(length=4)
    with pytest.raises(ValueError, match=r"expected an attention implementation of .*'fast'"):
        attention.__wrapped__(q, k, v, implementation="fast")


@pytest.mark.parametrize("kernel", ["cudnn", "splash"])
@pytest.mark.parametrize("option", ["key_mask", "bias", "causal"])
def test_kernels_refuse_what_they_can_not_mask(kernel, option):
    q, k, v = draw(length=4)
    masks = {"key_mask": padding(KEYS), "bias": jnp.zeros((1, 1, 1, KEYS)), "causal": True}
    with pytest.raises(ValueError, match=f"expected neither key mask nor bias.*{kernel} kernel"):
        attention.__wrapped__(q, k, v, implementation=kernel, **{option: masks[option]})


def test_odd_lengths_reach_the_gpu_kernel_even_and_with_their_count(monkeypatch):
    """JAX refuses the kernel's gradient for odd lengths; here its plain form stands for it."""
    seen, replaced = [], jax.nn.dot_product_attention

    def kernel(q, k, v, *, implementation, **options):
        seen.append((implementation, q.shape[1], k.shape[1]))
        return replaced(q, k, v, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)

    def run(implementation):
        def value(operands):
            return (attention(*operands, implementation=implementation) ** 2).sum()

        return jax.value_and_grad(value)(draw(length=5, keys=7))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), run("cudnn"), run("plain")
    )
    assert seen == [("cudnn", 6, 8)]


def test_attention_refuses_heads_of_keys_that_do_not_divide():
    q, k, v = draw(length=4)
    three = [jnp.concatenate([x, x[:, :, :1]], axis=2) for x in (k, v)]
    with pytest.raises(ValueError, match="expected heads of keys that divide"):
        attention.__wrapped__(q, *three)
