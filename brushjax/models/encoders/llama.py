"""LLaMA: the language model of LLaVA and Vicuna, from embeddings to states to logits.

The layers are one module whose arrays have a leading axis, run by jax.lax.scan: the program holds
one layer, however many there are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from brushjax.models.encoders.clip import GENERATION
from brushjax.models.published import PublishedConfig
from brushjax.nn import (
    Keys,
    KeyValue,
    RMSNorm,
    Rngs,
    attention,
    constrain,
    projection,
    rematerialised,
)
from brushjax.nn.rotary import RotarySettings, Rotation, rotation

ROTARY = ("rope_parameters", "rope_theta", "rope_scaling")  # their settings in a config.json
DEVIATION = 0.02  # of a new table's entries
DEFAULT_ROTARY = RotarySettings()


@dataclasses.dataclass(frozen=True)
class LlamaConfig(PublishedConfig):
    """Settings of a published LLaMA; the defaults are 7B's, as transformers has them.

    Attributes:
      num_key_value_heads: None for as many as `num_attention_heads`.
      head_dim: None for the width over the heads.
      tie_word_embeddings: the embedding table also gives the logits.
      new_tokens: rows of embedding and head behind the vocabulary, in arrays of their own.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    rms_norm_eps: float | int = 1e-6
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    new_tokens: int = 0
    rotary: RotarySettings = DEFAULT_ROTARY

    CLASS_NAME: ClassVar[str] = "LlamaForCausalLM"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "model_type": ("llama",),
        "pretraining_tp": (1,),
    }
    HARMLESS: ClassVar[frozenset[str]] = GENERATION | {
        "architectures",
        "attention_dropout",  # for PyTorch's training mode
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "initializer_range",
        "max_position_embeddings",  # rotary embeddings have no end; how long it was trained for
        "max_sequence_length",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    }

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.kv_heads:
            raise ValueError(
                f"expected num_key_value_heads that divide num_attention_heads, got "
                f"{self.kv_heads} and {self.num_attention_heads}"
            )

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_width(self) -> int:
        """Features of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @classmethod
    def vicuna_7b(cls) -> LlamaConfig:
        """Vicuna-7B-v1.5, which LLaVA-1.5-7B's language model started from."""
        return cls(rms_norm_eps=1e-5)

    @classmethod
    def from_dict(cls, published: Mapping[str, Any]) -> LlamaConfig:
        """Reads a language model's config.

        Raises:
          ValueError: naming every setting that is not implemented.
        """
        rest = {name: value for name, value in published.items() if name not in ROTARY}
        config = super().from_dict(rest)
        return dataclasses.replace(config, rotary=RotarySettings.from_config(published))

    def to_dict(self) -> dict[str, Any]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["extra"], fields["rotary"]
        fixed = {key: choices[0] for key, choices in self.FIXED.items()}
        names = {"architectures": [self.CLASS_NAME]}
        published = {**json.loads(self.extra), **names, **fixed, **fields}
        if not self.new_tokens:
            del published["new_tokens"]  # unknown to transformers
        return published | self.rotary.to_config()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of tokens that were read, in places of which some are still empty.

    Attributes:
      read: of every layer, or of one. [N, B, C, J, D] or [B, C, J, D] each
      mask: which places tokens look at. [B, C]
      filled: how many places are taken.
    """

    read: KeyValue
    mask: Bool[Array, "B C"]
    filled: Int[Array, ""]

    @classmethod
    def empty(cls, config: LlamaConfig, batch: int, places: int, dtype: Any) -> Cache:
        """Returns a cache for all layers, with places for so many tokens."""
        shape = (config.num_hidden_layers, batch, places, config.kv_heads, config.head_width)
        read = KeyValue(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
        return cls(read, jnp.zeros((batch, places), bool), jnp.zeros((), jnp.int32))

    def holding(self, read: KeyValue) -> KeyValue:
        """Returns all keys and values, those of new tokens in the next places."""
        return jax.tree.map(
            lambda all, new: jax.lax.dynamic_update_slice_in_dim(all, new, self.filled, -3),
            self.read,
            read,
        )


class SelfAttention(nnx.Module):
    """Causal attention over turned queries and keys."""

    def __init__(self, config: LlamaConfig, *, rngs: Rngs):
        width, bias = config.hidden_size, config.attention_bias
        self.width = config.head_width
        inner, shared = (n * self.width for n in (config.num_attention_heads, config.kv_heads))
        self.q_proj = projection(width, inner, bias=bias, rngs=rngs)
        self.k_proj = projection(width, shared, bias=bias, rngs=rngs)
        self.v_proj = projection(width, shared, bias=bias, rngs=rngs)
        self.o_proj = projection(inner, width, bias=bias, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S E"],
        mask: Bool[Array, "B C"],
        turn: Rotation,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B S E"], KeyValue | None]:
        """Returns the output, and with a cache the keys and values that are new."""
        q, k, v = (
            constrain(project(x).reshape(*x.shape[:2], -1, self.width), "batch", None, "heads")
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )  # [B, S, K, D]; keys [B, S, J, D]
        q, new = turn(q), KeyValue(turn(k), v)
        read = new if cache is None else cache.holding(new)  # [B, C, J, D]
        past = True if cache is None else cache.filled
        out = attention(q, read.key, read.value, key_mask=mask, causal=past)  # [B, S, K, D]
        return self.o_proj(out.reshape(*x.shape[:2], -1)), None if cache is None else new


class MLP(nnx.Module):
    """SwiGLU: one projection gates the other.

    Source: Shazeer (arXiv 2002.05202), eq. 6.
    """

    def __init__(self, config: LlamaConfig, *, rngs: Rngs):
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = projection(width, inner, bias=bias, rngs=rngs)
        self.up_proj = projection(width, inner, bias=bias, rngs=rngs)
        self.down_proj = projection(inner, width, bias=bias, rngs=rngs)

    def __call__(self, x: Float[Array, "B S E"]) -> Float[Array, "B S E"]:
        inner = jax.nn.silu(self.gate_proj(x)) * self.up_proj(x)  # [B, S, F]
        return self.down_proj(constrain(inner, "batch", None, "features"))


class DecoderLayer(nnx.Module):
    """Attention and MLP, each behind a norm, each a residual."""

    def __init__(self, config: LlamaConfig, *, rngs: Rngs):
        width, epsilon = config.hidden_size, float(config.rms_norm_eps)
        self.input_layernorm = RMSNorm(width, epsilon)
        self.self_attn = SelfAttention(config, rngs=rngs)
        self.post_attention_layernorm = RMSNorm(width, epsilon)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B S E"],
        mask: Bool[Array, "B C"],
        turn: Rotation,
        cache: Cache | None = None,
    ) -> tuple[Float[Array, "B S E"], KeyValue | None]:
        x = constrain(x, "batch", ...)
        seen, new = self.self_attn(self.input_layernorm(x), mask, turn, cache)
        x = x + seen
        return constrain(x + self.mlp(self.post_attention_layernorm(x)), "batch", ...), new


class Layers(nnx.Module):
    """Equal layers as one: every array of `stack` has a leading axis, one entry a layer."""

    def __init__(self, count: int, make: Callable[[Rngs], nnx.Module], *, rngs: Rngs):
        def state(key: Array) -> Any:
            return nnx.state(make(Keys(key)))

        graph = nnx.graphdef(nnx.eval_shape(lambda: make(Keys(0))))
        stacked = jax.vmap(state)(jax.random.split(rngs.params(), count))
        self.stack = nnx.merge(graph, stacked)

    def __call__(
        self, x: Float[Array, "B S E"], *rest: Any, cache: Cache | None = None
    ) -> tuple[Float[Array, "B S E"], Any]:
        """Runs the layers one after the other; each gets `rest` too, and its part of the cache.

        Returns:
          The last one's output, and with a cache all layers' new keys and values.
        """
        graph, state = nnx.split(self.stack)

        def layer(x: Array, own: Any) -> tuple[Array, KeyValue | None]:
            state, read = own
            mine = None if cache is None else dataclasses.replace(cache, read=read)
            return nnx.merge(graph, state)(x, *rest, mine)

        of_each = (state, None if cache is None else cache.read)
        return jax.lax.scan(rematerialised(layer), x, of_each)


class Table(nnx.Module):
    """Embeddings of the vocabulary."""

    def __init__(self, count: int, width: int, *, rngs: Rngs):
        self.embedding = nnx.Param(DEVIATION * jax.random.normal(rngs.params(), (count, width)))


class Body(nnx.Module):
    """All but the head, under the published name `model`."""

    def __init__(self, config: LlamaConfig, *, rngs: Rngs):
        self.embed_tokens = Table(config.vocab_size, config.hidden_size, rngs=rngs)
        self.layers = Layers(
            config.num_hidden_layers, lambda keys: DecoderLayer(config, rngs=keys), rngs=rngs
        )
        self.norm = RMSNorm(config.hidden_size, float(config.rms_norm_eps))


class Llama(nnx.Module):
    """A causal language model that reads embeddings.

    It computes in the dtype of the embeddings, whatever dtype the frozen matrices are kept in.
    Ids from `vocab_size` on are new tokens, whose rows are parameters of their own, so that the
    published table is neither copied nor trained with them.

    Source: Touvron et al. (arXiv 2302.13971), section 2.2; transformers `LlamaForCausalLM`.
    Differs: positions count only what the mask leaves.
    """

    def __init__(self, config: LlamaConfig, *, rngs: Rngs):
        self.config = config
        width, new = config.hidden_size, config.new_tokens
        self.model = Body(config, rngs=rngs)
        tied = config.tie_word_embeddings
        self.lm_head = None if tied else projection(width, config.vocab_size, rngs=rngs)
        self.new_embed = nnx.data(nnx.Param(jnp.zeros((new, width))) if new else None)
        self.new_head = nnx.data(nnx.Param(jnp.zeros((new, width))) if new else None)

    def __call__(
        self,
        embeddings: Float[Array, "B S E"],
        mask: Bool[Array, "B S"],
        positions: Int[Array, "B S"] | None = None,
    ) -> Float[Array, "B S E"]:
        """Returns the states behind the final norm, finite also where the mask is False.

        Args:
          mask: False for what no token looks at, wherever it stands: padding, unused slots.
          positions: of the tokens; when not given they count what the mask leaves, so that unused
            slots in the middle change nothing.
        """
        mask = constrain(mask, "batch", ...)
        positions = _counted(mask) if positions is None else constrain(positions, "batch", ...)
        turn = self._turn(positions, embeddings.dtype)
        x = constrain(embeddings, "batch", ...)
        x = constrain(self.model.layers(x, mask, turn)[0], "batch", ...)
        return constrain(self.model.norm(x), "samples", ...)  # [B, S, E]

    def read(
        self, embeddings: Float[Array, "B S E"], mask: Bool[Array, "B S"], cache: Cache
    ) -> tuple[Float[Array, "B S E"], Cache]:
        """Reads tokens behind those that a cache holds, as if all were read at once.

        The cache must have room for them: nothing tells that it is full while a program runs.

        Args:
          mask: as for a call, of the new tokens.

        Returns:
          The states of the new tokens, and the cache with them.
        """
        mask = jax.lax.dynamic_update_slice_in_dim(cache.mask, mask, cache.filled, 1)  # [B, C]
        count = embeddings.shape[1]
        positions = jax.lax.dynamic_slice_in_dim(_counted(mask), cache.filled, count, 1)
        turn = self._turn(positions, embeddings.dtype)
        states, new = self.model.layers(embeddings, mask, turn, cache=cache)
        return self.model.norm(states), Cache(cache.holding(new), mask, cache.filled + count)

    def _turn(self, positions: Int[Array, "B S"], dtype: Any) -> Rotation:
        return rotation(positions, self.config.rotary.frequencies(self.config.head_width), dtype)

    def embed(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch E"]:
        """Returns the embeddings of ids, in the dtype of the published table."""
        table, size = self.model.embed_tokens.embedding[...], self.config.vocab_size
        known = constrain(jnp.take(table, jnp.minimum(ids, size - 1), axis=0), "batch")
        if self.new_embed is None:
            return known
        new = jnp.take(self.new_embed[...], jnp.maximum(ids - size, 0), axis=0)
        return jnp.where((ids < size)[..., None], known, new.astype(known.dtype))

    def logits(self, states: Float[Array, "*batch E"]) -> Float[Array, "*batch V"]:
        """Returns the logits of the next token, at least in float32; those of new tokens last.

        Choose the positions first: the vocabulary is wide.
        """
        precise = jnp.promote_types(states.dtype, jnp.float32)
        states = constrain(states, "batch", ...)
        if self.lm_head is None:
            table = self.model.embed_tokens.embedding[...].astype(states.dtype)
            known = jnp.matmul(states, table.T).astype(precise)
        else:
            known = self.lm_head(states).astype(precise)
        # Cut as the head is, also on the way back, or the head would be gathered.
        known = constrain(known, "batch", *[None] * (known.ndim - 2), "features")
        if self.new_head is None:
            return known
        new = jnp.matmul(states, self.new_head[...].astype(states.dtype).T)
        return jnp.concatenate([known, new.astype(precise)], axis=-1)

    def add_tokens(self, count: int) -> None:
        """Adds rows for new tokens, which start as the mean of the published ones.

        Raises:
          ValueError: if there are new tokens already.
        """
        if self.config.new_tokens:
            raise ValueError(f"expected no new tokens, got {self.config.new_tokens} already")
        head = self.model.embed_tokens.embedding[...]
        self.new_embed = nnx.Param(_mean_rows(head, count))
        if self.lm_head is not None:
            head = self.lm_head.kernel[...].T
        self.new_head = nnx.Param(_mean_rows(head, count))
        self.config = dataclasses.replace(self.config, new_tokens=count)


def _counted(mask: Bool[Array, "B S"]) -> Int[Array, "B S"]:
    """Returns positions that count what the mask leaves."""
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def _mean_rows(table: Array, count: int) -> Array:
    """Returns `count` times the mean row, in at least float32: these rows are trained."""
    mean = jnp.mean(table, axis=0, dtype=jnp.promote_types(table.dtype, jnp.float32))
    return jnp.tile(mean, (count, 1))
