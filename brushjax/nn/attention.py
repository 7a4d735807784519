"""The one attention function, and the multi-head module around it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from brushjax.nn.batch import alike
from brushjax.nn.execution import Attention as Implementation
from brushjax.nn.execution import execution
from brushjax.nn.layers import Rngs, linear
from brushjax.nn.splash import fits_splash, splash

QUERY_CHUNK = 512  # rows of scores held at once: 512 x 4096 float32 is 8 MB, within a CPU cache


def attention(
    q: Float[Array, "B L K D"],
    k: Float[Array, "B N K D"],
    v: Float[Array, "B N K D"],
    mask: Bool[Array, "L N"] | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "B L K D"]:
    """Returns softmax(q k^T / sqrt(D)) v for every head, the softmax in at least float32.

    Args:
      mask: True where a query may look at a key; None looks everywhere.
      implementation: "plain" holds all L x N scores; "chunked" holds `QUERY_CHUNK` rows of one head
        at a time, forward and backward; "cudnn" is the fused kernel of an NVIDIA GPU (half
        precision, D a multiple of 8 and at most 128, no mask); "splash" is that of a TPU (lengths
        that are multiples of 128, no mask); "auto" picks by platform, dtype and size.

    Raises:
      ValueError: for an implementation that is not in the list.
    """
    if implementation == "auto":
        implementation = execution().attention
    if implementation == "auto":
        implementation = _pick(q, k, mask)
    if implementation == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if implementation == "splash":
        return splash(q, k, v)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # [B, K, L, D]
    if implementation == "plain":
        out = _plain(q, k, v, mask)
    elif implementation == "chunked":
        out = _chunked(q, k, v, mask)
    else:
        raise ValueError(
            f"expected an attention implementation of {Implementation}, got {implementation!r}"
        )
    return out.transpose(0, 2, 1, 3)  # [B, L, K, D]


def _pick(q: Array, k: Array, mask: Array | None) -> Implementation:
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    width, platform = q.shape[-1], execution().platform
    # Without a mesh nothing says how a kernel would have to be divided over several devices.
    known = execution().mesh is not None or jax.device_count() == 1
    if platform == "gpu" and half and mask is None and width % 8 == 0 and width <= 128:
        return "cudnn"
    if platform == "tpu" and known and mask is None and fits_splash(q, k):
        return "splash"
    return "chunked" if q.shape[1] * k.shape[1] > 1024 * 1024 else "plain"


def _plain(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Attends with everything at once; [..., L, D] with any leading axes."""
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) * q.shape[-1] ** -0.5  # [..., L, N]
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf)
    return jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _chunked(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    batch, heads, length, width = q.shape
    chunks = -(-length // QUERY_CHUNK)
    padding = chunks * QUERY_CHUNK - length
    q = jnp.pad(q, ((0, 0), (0, 0), (0, padding), (0, 0)))
    q = q.reshape(batch * heads * chunks, QUERY_CHUNK, width)
    k, v = (x.reshape(batch * heads, -1, width) for x in (k, v))
    rows = None
    if mask is not None:
        # Padded queries look everywhere: their softmax stays finite. They are cut off below.
        rows = jnp.pad(mask, ((0, padding), (0, 0)), constant_values=True)
        rows = rows.reshape(chunks, QUERY_CHUNK, -1)

    @jax.checkpoint  # the backward pass recomputes a chunk's scores rather than keeping all of them
    def attend(index: Array, q_chunk: Array, k: Array, v: Array) -> Array:
        head = index // chunks
        return _plain(q_chunk, k[head], v[head], None if rows is None else rows[index % chunks])

    out = jax.lax.map(lambda item: attend(item[0], item[1], k, v), (jnp.arange(len(q)), q))
    return out.reshape(batch, heads, chunks * QUERY_CHUNK, width)[:, :, :length]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValue:
    """What an attention projects of its context, by head: [B, N, K, D/K] each."""

    key: Any
    value: Any


class Attention(nnx.Module):
    """Multi-head attention with the checkpoint's names: to_q, to_k, to_v, to_out.0."""

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        bias: bool = False,
        rngs: Rngs,
    ):
        if width % heads:
            raise ValueError(
                f"expected an attention width divisible by its heads, got {width} and {heads}"
            )
        self.heads = heads
        context_width = width if context_width is None else context_width
        self.to_q = linear(width, width, bias=bias, rngs=rngs)
        self.to_k = linear(context_width, width, bias=bias, rngs=rngs)
        self.to_v = linear(context_width, width, bias=bias, rngs=rngs)
        self.to_out = nnx.List([linear(width, width, rngs=rngs)])

    def __call__(
        self, x: Float[Array, "_B L D"], context: Float[Array, "_B N M"] | KeyValue | None = None
    ) -> Float[Array, "_B L D"]:
        """Attends from `x` to `context`, or to itself when there is none.

        Either batch may be the smaller: see `brushjax.nn.batch`.
        """
        context = x if context is None else context
        read = context if isinstance(context, KeyValue) else self.project(context)
        q = self._split(self.to_q(x))  # [B, L, K, D/K]
        q, key, value = alike(q, read.key, read.value)
        out = attention(q, key, value)  # [B, L, K, D/K]
        return self.to_out[0](out.reshape(*out.shape[:2], -1))  # [B, L, D]

    def project(self, context: Float[Array, "B N M"]) -> KeyValue:
        """Returns keys and values of a context, which may be computed once for many calls."""
        return KeyValue(self._split(self.to_k(context)), self._split(self.to_v(context)))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)
