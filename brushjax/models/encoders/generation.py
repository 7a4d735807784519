"""Words of a language model: the likeliest token, again and again."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from brushjax.models.encoders.llama import Cache, Llama

BUCKET = 64  # lengths are rounded up to multiples of it: one program serves all in between


def generate(
    model: Llama, texts: Sequence[Sequence[int]], count: int, end: int | None = None
) -> list[list[int]]:
    """Continues texts by the likeliest token, one after the other.

    Compiles once for each number of texts and each multiple of `BUCKET` to which the longest text's
    length and `count` are rounded up.

    Args:
      texts: tokens of each, at least one; they may be of unlike length.
      count: how many tokens to add at most.
      end: the token that ends a text; None: all are continued to the last.

    Returns:
      The new tokens of each text, `end` included where it came.

    Raises:
      ValueError: for a text without tokens.
    """
    if not texts or not all(texts):
        raise ValueError(f"expected texts of at least one token, got {list(map(len, texts))}")
    length = _rounded(max(map(len, texts)))
    ids, mask = np.zeros((len(texts), length), np.int32), np.zeros((len(texts), length), bool)
    for row, text in enumerate(texts):  # to the right, so that what follows stands next to all
        ids[row, length - len(text) :], mask[row, length - len(text) :] = text, True
    stop = -1 if end is None else end
    written = np.asarray(_continued(model, ids, mask, count, stop, room=_rounded(count)))
    return [_until(row[:count].tolist(), stop) for row in written]


def _rounded(length: int) -> int:
    return -(-length // BUCKET) * BUCKET


def _until(tokens: list[int], end: int) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


@functools.partial(jax.jit, static_argnames="room")
def _continued(
    model: Llama,
    ids: Int[Array, "B S"],
    mask: Bool[Array, "B S"],
    count: Int[Array, ""],
    end: Int[Array, ""],
    *,
    room: int,
) -> Int[Array, "B room"]:
    """Returns up to `count` new tokens; what follows an `end` is of no meaning."""
    batch, length = ids.shape
    embeddings = model.embed(ids)
    cache = Cache.empty(model.config, batch, length + room, embeddings.dtype)
    states, cache = model.read(embeddings, mask, cache)
    written = jnp.zeros((batch, room), jnp.int32)
    one = jnp.ones((batch, 1), bool)

    def unfinished(carry):
        number, *_, ended = carry
        return (number < count) & ~ended.all()

    def step(carry):
        number, written, state, cache, ended = carry
        token = jnp.argmax(model.logits(state), axis=-1).astype(jnp.int32)  # [B]
        written = written.at[:, number].set(token)
        states, cache = model.read(model.embed(token[:, None]), one, cache)
        return number + 1, written, states[:, -1], cache, ended | (token == end)

    start = (0, written, states[:, -1], cache, jnp.zeros(batch, bool))
    return jax.lax.while_loop(unfinished, step, start)[1]
