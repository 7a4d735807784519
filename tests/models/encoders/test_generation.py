"""Reading with a cache, and greedy continuations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.models.encoders.generation import BUCKET, _continued, generate
from brushjax.models.encoders.llama import Cache
from tests.models.encoders.tiny_llama import TINY, build, inputs, run
from tests.support import error

CONFIG = dataclasses.replace(TINY, new_tokens=2)


@pytest.fixture(scope="module")
def model():
    return build(CONFIG)


def test_reading_in_parts_equals_reading_at_once(model):
    values, mask = inputs()
    mask = mask.at[0, 1:3].set(False).at[1, 4].set(False)  # places that nothing looks at
    expected = run(model, values, mask)
    read = jax.jit(lambda model, *inputs: model.read(*inputs))
    cache, states = Cache.empty(CONFIG, 2, 10, jnp.float32), []
    for start, stop in ((0, 4), (4, 5), (5, 6), (6, 7)):
        one, cache = read(model, values[:, start:stop], mask[:, start:stop], cache)
        states.append(one)
    assert error(jnp.concatenate(states, axis=1), expected) <= 1e-5
    assert cache.filled == 7
    assert not np.asarray(cache.read.key[:, :, 7:]).any()
    np.testing.assert_array_equal(cache.mask[:, :7], mask)
    assert not np.asarray(cache.mask[:, 7:]).any()


def test_continuations_are_those_of_reading_anew_and_compile_once_a_bucket(model):
    texts = [[1, 2, 3], [4], [11, 12, 5, 6]]  # 11 and 12 are new tokens
    before = _continued._cache_size()
    ours = generate(model, texts, 5)
    written = jnp.asarray([(text + new + [0] * 4)[:9] for text, new in zip(texts, ours)])
    likeliest = jax.jit(lambda model, ids, mask: model.logits(model(model.embed(ids), mask)))(
        model, written, jnp.ones(written.shape, bool)
    ).argmax(-1)  # later tokens change nothing, so what is read too much does not either
    for text, new, next_tokens in zip(texts, ours, likeliest, strict=True):
        assert new == next_tokens[len(text) - 1 : len(text) + 4].tolist()
    longer = generate(model, [[7] * BUCKET, [4], texts[2]], BUCKET)
    assert longer[2][:5] == ours[2]
    assert _continued._cache_size() == before + 1
    end = ours[2][2]
    stopped = generate(model, texts, 5, end)
    assert stopped[2] == ours[2][: ours[2].index(end) + 1]
    assert _continued._cache_size() == before + 1


def test_continuations_need_a_token_to_start_from(model):
    with pytest.raises(ValueError, match=r"texts of at least one token, got \[2, 0\]"):
        generate(model, [[1, 2], []], 3)
