"""The one attention function, and the multi-head module around it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from brushjax.nn.batch import broadcast_batch, plus
from brushjax.nn.execution import Attention as Implementation
from brushjax.nn.execution import execution, own_samples
from brushjax.nn.layers import Rngs, linear
from brushjax.nn.splash import fits_splash, splash

SCORES_AT_ONCE = 2**23  # of one head: 2048 rows over 4096 keys, 32 MB in float32


def attention(
    q: Float[Array, "B L K D"],
    k: Float[Array, "B N J D"],
    v: Float[Array, "B N J D"],
    *,
    key_mask: Bool[Array, "B N"] | None = None,
    bias: Float[Array, "#B #K #L #N"] | None = None,
    causal: bool | Int[Array, ""] = False,
    scale: float | None = None,
    implementation: Implementation = "auto",
) -> Float[Array, "B L K D"]:
    """Returns softmax(scale q k^T + bias) v for every head, the softmax in at least float32.

    A query that may look at no key at all averages the values of all of them.

    Args:
      k: of J heads, which may be fewer than the queries' K: each serves K / J neighbours.
      key_mask: False for a key that no query of its sample may look at (padding).
      bias: added to the scaled scores; -inf is taken for the lowest finite number.
      causal: True: the last query sees all keys, the one before it all but the last, and so on. A
        number: which key the first query sees last, the next query one more, and so on.
      scale: of the scores, D^-0.5 when not given.
      implementation: "plain" holds all L x N scores; "chunked" holds some rows of one head at a
        time (`SCORES_AT_ONCE`), forward and backward; "cudnn" is the fused kernel of an NVIDIA GPU
        (half precision, D a multiple of 8 and at most 128); "splash" is that of a TPU (lengths that
        are multiples of 128). The kernels take neither key mask nor bias, and are causal in the
        first way alone, for as many queries as keys. "auto" picks by platform, dtype, size and what
        is masked.

    Raises:
      ValueError: for an implementation that is not in the list or can't do this; for heads of keys
        that do not divide those of queries.
    """
    first = None if isinstance(causal, bool) else causal
    ordered, factor = causal is not False, q.shape[-1] ** -0.5 if scale is None else scale
    scores = Scores(key_mask, bias, ordered, factor, first)
    if q.shape[2] % k.shape[2]:
        raise ValueError(
            f"expected heads of keys that divide those of queries, got {k.shape[2]} and "
            f"{q.shape[2]}"
        )
    if implementation == "auto":
        implementation = execution().attention
    if implementation == "auto":
        implementation = _pick(q, k, scores)
    if implementation in ("cudnn", "splash"):
        return _fused(q, k, v, scores, implementation)
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))  # [B, K, L, D]
    if implementation == "plain":
        out = _plain(q, k, v, scores)
    elif implementation == "chunked":
        out = _of_own(q, k, v, scores)
    else:
        raise ValueError(
            f"expected an attention implementation of {Implementation}, got {implementation!r}"
        )
    return out.transpose(0, 2, 1, 3)  # [B, L, K, D]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scores:
    """What is done to the scores between product and softmax."""

    key_mask: Any  # [B, N] or None
    bias: Any  # [B or 1, K or 1, L or 1, N or 1] or None
    causal: bool = dataclasses.field(metadata={"static": True})
    scale: float = dataclasses.field(metadata={"static": True})
    first: Any = None  # which key the first query sees last; None: the last query sees all

    def suits_kernels(self, queries: int, keys: int) -> bool:
        """Returns whether the fused kernels can do it."""
        square = not self.causal or (self.first is None and queries == keys)
        return self.key_mask is None and self.bias is None and square

    def last(self, queries: int, keys: int) -> Any:
        """Returns which key the first query sees last when causal."""
        return keys - queries if self.first is None else self.first

    def offset(self, first: Any, shape: tuple[int, int], last: Any, dtype: Any) -> Array | None:
        """Returns what is added to the scores of some queries, or None.

        What is hidden gets the lowest finite number, as PyTorch's language models do: -inf would
        make a row with nothing to see NaN. Added once, so that it stays finite.

        Args:
          first: the place of the first of them.
          shape: queries and keys.
          last: the key that the query at place 0 sees last when causal.
        """
        visible = None
        if self.key_mask is not None:
            visible = self.key_mask[:, None, None, :]  # [B, 1, 1, N]
        if self.causal:
            rows, columns = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
            past = columns <= rows + (first + last)  # [L, N]
            visible = past if visible is None else visible & past
        lowest = jnp.finfo(dtype).min
        hidden = None if visible is None else jnp.where(visible, 0, lowest).astype(dtype)
        if self.bias is None:
            return hidden
        bias = self.bias.astype(dtype)
        return jnp.maximum(bias if hidden is None else bias + hidden, lowest)


def _pick(q: Array, k: Array, scores: Scores) -> Implementation:
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    width, platform = q.shape[-1], execution().platform
    # Without a mesh nothing says how a kernel would have to be divided over several devices.
    known = execution().mesh is not None or jax.device_count() == 1
    simple = scores.suits_kernels(q.shape[1], k.shape[1])
    if platform == "gpu" and half and simple and width % 8 == 0 and width <= 128:
        return "cudnn"
    if platform == "tpu" and known and simple and fits_splash(q, k):
        return "splash"
    return "chunked" if q.shape[1] * k.shape[1] > 1024 * 1024 else "plain"


def _fused(q: Array, k: Array, v: Array, scores: Scores, implementation: Implementation) -> Array:
    if not scores.suits_kernels(q.shape[1], k.shape[1]):
        raise ValueError(
            f"expected neither key mask nor bias, and as many keys as queries when causal, for the "
            f"{implementation} kernel; use the plain or chunked implementation"
        )
    if implementation == "splash":
        return splash(q, k, v, causal=scores.causal, scale=scores.scale)
    return _cudnn(q, k, v, scores)


def _cudnn(q: Array, k: Array, v: Array, scores: Scores) -> Array:
    """Attends with the kernel of an NVIDIA GPU, whose backward pass JAX refuses for odd lengths:
    these get a place more, which the kernel is told to leave out."""
    queries, keys = q.shape[1], k.shape[1]
    lengths: dict[str, Any] = {}
    if queries % 2 or keys % 2:
        q, k, v = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (q, k, v))
        lengths = {"query_seq_lengths": queries, "key_value_seq_lengths": keys}
        lengths = {name: jnp.full(len(q), count, jnp.int32) for name, count in lengths.items()}
    out = jax.nn.dot_product_attention(
        q, k, v, is_causal=scores.causal, scale=scores.scale, implementation="cudnn", **lengths
    )
    return out[:, :queries]


def _plain(q: Array, k: Array, v: Array, scores: Scores) -> Array:
    """Attends with everything at once; q [B, K, L, D]."""
    (heads, queries), keys = q.shape[1:3], k.shape[2]
    offset = scores.offset(0, (queries, keys), scores.last(queries, keys), _precise(q))
    groups = heads // k.shape[1]
    if groups == 1:
        return _softmax(q, k, v, scores.scale, offset)
    if offset is not None and offset.ndim == 4:  # [B, K or 1, L, N]
        parts = (-1, groups) if offset.shape[1] == heads else (1, 1)
        offset = offset.reshape(offset.shape[0], *parts, *offset.shape[2:])
    grouped = q.reshape(q.shape[0], -1, groups, *q.shape[2:])  # [B, J, K/J, L, D]
    return _softmax(grouped, k[:, :, None], v[:, :, None], scores.scale, offset).reshape(q.shape)


def _softmax(q: Array, k: Array, v: Array, scale: float, offset: Array | None) -> Array:
    """Returns softmax(scale q k^T + offset) v; [..., L, D] with any leading axes."""
    scores = jnp.matmul(q, jnp.swapaxes(k, -1, -2)) * scale  # [..., L, N]
    scores = scores.astype(_precise(scores))
    if offset is not None:
        scores = scores + offset
    if v.dtype != scores.dtype:  # half precision, where the undivided sum could overflow
        return jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    # Divided after the product: D numbers a query instead of N.
    return jnp.matmul(weights, v) / weights.sum(axis=-1, keepdims=True)


def _precise(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _of_own(q: Array, k: Array, v: Array, scores: Scores) -> Array:
    """Attends in chunks, every device of a mesh to its own samples."""
    for_all = None if scores.bias is None or len(scores.bias) > 1 else scores.bias

    def attend(q: Array, k: Array, v: Array, mask: Any, bias: Any) -> Array:
        bias = bias if for_all is None else for_all
        return _chunked(q, k, v, dataclasses.replace(scores, key_mask=mask, bias=bias))

    return own_samples(attend, q, k, v, scores.key_mask, scores.bias if for_all is None else None)


def _chunked(q: Array, k: Array, v: Array, scores: Scores) -> Array:
    batch, heads, length, width = q.shape
    groups, keys = heads // k.shape[1], k.shape[2]
    chunks = -(-length // max(SCORES_AT_ONCE // keys, 1))
    rows = -(-length // chunks)
    padding = chunks * rows - length
    q = jnp.pad(q, ((0, 0), (0, 0), (0, padding), (0, 0)))
    q = q.reshape(batch * heads * chunks, rows, width)
    k, v = (x.reshape(-1, keys, width) for x in (k, v))
    bias = scores.bias
    if bias is not None and bias.shape[2] > 1:
        bias = jnp.pad(bias, ((0, 0), (0, 0), (0, padding), (0, 0)))
    scores = dataclasses.replace(scores, bias=bias)

    @jax.checkpoint  # the backward pass recomputes a chunk's scores rather than keeping all of them
    def attend(index: Array, q_chunk: Array, k: Array, v: Array, scores: Scores) -> Array:
        head, chunk = index // chunks, index % chunks
        here = _of_chunk(scores, head // heads, head % heads, (chunk * rows, rows))
        first = chunk * rows
        last = scores.last(length, keys)
        offset = here.offset(first, (rows, keys), last, _precise(q_chunk))
        offset = None if offset is None else offset.reshape(-1, offset.shape[-1])
        head = head // groups if groups > 1 else head
        return _softmax(q_chunk, k[head], v[head], scores.scale, offset)

    out = jax.lax.map(lambda item: attend(item[0], item[1], k, v, scores), (jnp.arange(len(q)), q))
    return out.reshape(batch, heads, chunks * rows, width)[:, :, :length]


def _of_chunk(scores: Scores, sample: Array, head: Array, queries: tuple[Any, int]) -> Scores:
    """Returns what concerns some queries of one head: the first of them, how many."""
    mask, bias = scores.key_mask, scores.bias
    if mask is not None:
        mask = jax.lax.dynamic_slice_in_dim(mask, sample, 1)
    if bias is not None:
        places = zip((sample, head, queries[0]), (1, 1, queries[1]), strict=True)
        for axis, (start, size) in enumerate(places):
            if bias.shape[axis] > 1:
                bias = jax.lax.dynamic_slice_in_dim(bias, start, size, axis)
    return dataclasses.replace(scores, key_mask=mask, bias=bias)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValue:
    """What an attention projects of its context, by head: [B, N, K, D/K] each."""

    key: Any
    value: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Streams:
    """Two contexts of one attention, each with a softmax of its own; the second adds to the first.

    Attributes:
      text, visual: features [B, N, M], or what attentions project of them.
      scale: of what `visual` adds, for all samples or one each.

    Source: FireEdit (arXiv 2503.19839), eq. 6; IP-Adapter (arXiv 2308.06721), eq. 5.
    """

    text: Any
    visual: Any
    scale: Any = 1.0


def part(given: Any, i: int) -> Any:
    """Returns block or layer `i`'s own of what was computed ahead, or what serves all of them."""
    if isinstance(given, Streams):
        return Streams(part(given.text, i), part(given.visual, i), given.scale)
    return given[i] if isinstance(given, tuple) else given


class Attention(nnx.Module):
    """Multi-head attention with the checkpoint's names: to_q, to_k, to_v, to_out.0.

    With a `visual_width` there are keys and values of a second stream, to_k_ip and to_v_ip.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int | None = None,
        *,
        bias: bool = False,
        visual_width: int | None = None,
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
        self.to_k_ip, self.to_v_ip = (
            None if visual_width is None else linear(visual_width, width, bias=False, rngs=rngs)
            for _ in range(2)
        )

    def __call__(
        self,
        x: Float[Array, "_B L D"],
        context: Float[Array, "_B N M"] | KeyValue | Streams | None = None,
    ) -> Float[Array, "_B L D"]:
        """Attends from `x` to `context`, or to itself when there is none.

        Either batch may be the smaller: see `brushjax.nn.batch`.
        """
        context = x if context is None else context
        text = context.text if isinstance(context, Streams) else context
        read = text if isinstance(text, KeyValue) else self.project(text)
        q = self._split(self.to_q(x))  # [B, L, K, D/K]
        out = _looked_up(q, read)
        if isinstance(context, Streams):
            visual = context.visual
            visual = visual if isinstance(visual, KeyValue) else self.project_visual(visual)
            scale = jnp.asarray(context.scale, out.dtype).reshape(-1, 1, 1, 1)
            out = plus(out, _scaled(_looked_up(q, visual), scale))
        return self.to_out[0](out.reshape(*out.shape[:2], -1))  # [B, L, D]

    def project(self, context: Float[Array, "B N M"]) -> KeyValue:
        """Returns keys and values of a context, which may be computed once for many calls."""
        return KeyValue(self._split(self.to_k(context)), self._split(self.to_v(context)))

    def project_visual(self, visual: Float[Array, "B N M"]) -> KeyValue:
        """Returns keys and values of the second stream.

        Raises:
          ValueError: for an attention that has none.
        """
        if self.to_k_ip is None or self.to_v_ip is None:
            raise ValueError(
                "expected no visual tokens: this attention has no to_k_ip and to_v_ip (config "
                "visual_cross_attention_dim)"
            )
        return KeyValue(self._split(self.to_k_ip(visual)), self._split(self.to_v_ip(visual)))

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


def _looked_up(q: Array, read: KeyValue) -> Array:
    return attention(*broadcast_batch(q, read.key, read.value))  # [B, L, K, D/K]


def _scaled(x: Array, scale: Array) -> Array:
    x, scale = broadcast_batch(x, scale)
    return x * scale
