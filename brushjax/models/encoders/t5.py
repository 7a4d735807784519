"""T5's encoder, of version 1.0 and of 1.1 as FLAN-T5 has it: it reads the edit instruction."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from brushjax.models.encoders.clip import GENERATION
from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, attention, linear

GATED = {"relu": False, "gated-gelu": True}  # feed_forward_proj of T5 1.0 and 1.1
OF_THE_DECODER = frozenset(
    {"decoder_start_token_id", "is_encoder_decoder", "num_decoder_layers", "scale_decoder_outputs"}
)


@dataclasses.dataclass(frozen=True)
class T5Config(PublishedConfig):
    """Settings of a published T5; the defaults are FLAN-T5-base's.

    Attributes:
      d_kv: width of one head; heads x d_kv need not be d_model.
      feed_forward_proj: "gated-gelu" (the tanh approximation; version 1.1) or "relu" (1.0).
      relative_attention_num_buckets: of distances, half of them for each direction.
      relative_attention_max_distance: in tokens; all beyond share the last bucket.
    """

    vocab_size: int = 32128
    d_model: int = 768
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 12
    num_heads: int = 12
    feed_forward_proj: str = "gated-gelu"
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    architectures: tuple[str, ...] = ("T5EncoderModel",)

    CLASS_NAME: ClassVar[str] = "T5EncoderModel"
    FIXED: ClassVar[dict[str, tuple[Any, ...]]] = {"model_type": ("t5",)}
    HARMLESS: ClassVar[frozenset[str]] = GENERATION | frozenset(
        {
            "classifier_dropout",
            "dropout_rate",  # for PyTorch's training mode
            "dtype",
            "eos_token_id",
            "initializer_factor",
            "n_positions",  # written by old configs; positions are relative and have no end
            "output_past",
            "pad_token_id",
            "torch_dtype",
            "transformers_version",
            "use_cache",
        }
    )

    def __post_init__(self) -> None:
        if self.feed_forward_proj not in GATED:
            raise ValueError(
                f"expected feed_forward_proj {' or '.join(GATED)}, got {self.feed_forward_proj!r}"
            )

    @property
    def gated(self) -> bool:
        """Whether the activated half of the feed-forward part multiplies the other half."""
        return GATED[self.feed_forward_proj]

    @classmethod
    def from_dict(cls, published: Mapping[str, Any]) -> "T5Config":
        """Reads the config of an encoder or of a whole T5, of which only the encoder is kept.

        Raises:
          ValueError: naming every setting that is not implemented.
        """
        settings = {name: value for name, value in published.items() if name not in OF_THE_DECODER}
        implied = {name: settings.pop(name, None) for name in ("dense_act_fn", "is_gated_act")}
        config = super().from_dict(settings | {"architectures": [cls.CLASS_NAME]})
        for name, value in config._implied().items():
            if implied[name] not in (None, value):
                raise ValueError(
                    f"expected {name} {value!r} with feed_forward_proj "
                    f"{config.feed_forward_proj!r}, got {implied[name]!r}"
                )
        return config

    def to_dict(self) -> dict[str, Any]:
        published = super().to_dict()
        del published["_class_name"]  # transformers names the class under "architectures"
        return published | self._implied()

    def _implied(self) -> dict[str, Any]:
        """Returns what newer configs say beside `feed_forward_proj`."""
        return {
            "dense_act_fn": "gelu_new" if self.gated else "relu",
            "is_gated_act": self.gated,
        }


def buckets(relative: Int[np.ndarray, "*S"], count: int, furthest: int) -> Int[np.ndarray, "*S"]:
    """Returns the bucket of each relative position (key minus query), 0 to `count` - 1.

    Half of the buckets look forward. Of each half, one half holds single distances and the other
    grows with their logarithm up to `furthest`.

    Source: arXiv 1910.10683, section 2.1; transformers `T5Attention._relative_position_bucket`.
    """
    half = count // 2
    exact = half // 2
    distance = np.abs(relative)
    growth = np.log(np.maximum(distance, 1) / exact) / np.log(furthest / exact)
    far = np.minimum(exact + (growth * (half - exact)).astype(np.int64), half - 1)
    return half * (relative > 0) + np.where(distance < exact, distance, far)


def _rms_norm(config: T5Config, *, rngs: Rngs) -> nnx.RMSNorm:
    epsilon = config.layer_norm_epsilon
    return nnx.RMSNorm(config.d_model, epsilon=epsilon, rngs=rngs)  # pyright: ignore[reportArgumentType]


class SelfAttention(nnx.Module):
    """Multi-head self-attention whose scores are not scaled; q, k, v, o as published."""

    def __init__(self, config: T5Config, *, rngs: Rngs, positions: bool):
        width, inner = config.d_model, config.num_heads * config.d_kv
        self.heads = config.num_heads
        self.q = linear(width, inner, bias=False, rngs=rngs)
        self.k = linear(width, inner, bias=False, rngs=rngs)
        self.v = linear(width, inner, bias=False, rngs=rngs)
        self.o = linear(inner, width, bias=False, rngs=rngs)
        self.relative_attention_bias = (
            _table(config.relative_attention_num_buckets, config.num_heads, rngs=rngs)
            if positions
            else None
        )

    def __call__(
        self,
        x: Float[Array, "B L D"],
        bias: Float[Array, "1 K L L"],
        key_mask: Bool[Array, "B L"] | None,
    ) -> Float[Array, "B L D"]:
        q, k, v = (
            project(x).reshape(*x.shape[:2], self.heads, -1)  # [B, L, K, D/K]
            for project in (self.q, self.k, self.v)
        )
        out = attention(q, k, v, key_mask=key_mask, bias=bias, scale=1.0)
        return self.o(out.reshape(*x.shape[:2], -1))


class DenseReluDense(nnx.Module):
    """Two linear layers around the activation; with a gate, two side by side before it."""

    def __init__(self, config: T5Config, *, rngs: Rngs):
        width, inner = config.d_model, config.d_ff
        if config.gated:
            self.wi_0 = linear(width, inner, bias=False, rngs=rngs)
            self.wi_1 = linear(width, inner, bias=False, rngs=rngs)
        else:
            self.wi = linear(width, inner, bias=False, rngs=rngs)
        self.wo = linear(inner, width, bias=False, rngs=rngs)
        self.gated = config.gated

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        if self.gated:
            return self.wo(jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x))
        return self.wo(jax.nn.relu(self.wi(x)))


class AttentionLayer(nnx.Module):
    """A norm, self-attention, and the residual."""

    def __init__(self, config: T5Config, *, rngs: Rngs, positions: bool):
        self.SelfAttention = SelfAttention(config, rngs=rngs, positions=positions)
        self.layer_norm = _rms_norm(config, rngs=rngs)

    def __call__(self, x: Array, bias: Array, key_mask: Array | None) -> Array:
        return x + self.SelfAttention(self.layer_norm(x), bias, key_mask)


class FeedForwardLayer(nnx.Module):
    """A norm, the feed-forward part, and the residual."""

    def __init__(self, config: T5Config, *, rngs: Rngs):
        self.DenseReluDense = DenseReluDense(config, rngs=rngs)
        self.layer_norm = _rms_norm(config, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return x + self.DenseReluDense(self.layer_norm(x))


class Block(nnx.Module):
    """Both layers; `positions` stand in the first block alone and serve all."""

    def __init__(self, config: T5Config, *, rngs: Rngs, positions: bool):
        attend = AttentionLayer(config, rngs=rngs, positions=positions)
        self.layer: Any = nnx.List([attend, FeedForwardLayer(config, rngs=rngs)])

    def __call__(self, x: Array, bias: Array, key_mask: Array | None) -> Array:
        return self.layer[1](self.layer[0](x, bias, key_mask))


class Encoder(nnx.Module):
    """The stack of blocks and the final norm."""

    def __init__(self, config: T5Config, *, rngs: Rngs):
        self.block: Any = nnx.List(
            [Block(config, rngs=rngs, positions=i == 0) for i in range(config.num_layers)]
        )
        self.final_layer_norm = _rms_norm(config, rngs=rngs)


class T5Encoder(nnx.Module):
    """T5's encoder: F_ins of the learnable regions.

    Source: arXiv 1910.10683; transformers `T5EncoderModel`; "Beyond Editing Pairs", section 3.1.
    """

    def __init__(self, config: T5Config, *, rngs: Rngs):
        self.config = config
        self.shared = _table(config.vocab_size, config.d_model, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Int[Array | np.ndarray, "B L"],
        attention_mask: Bool[Array | np.ndarray, "B L"]
        | Int[Array | np.ndarray, "B L"]
        | None = None,
    ) -> Float[Array, "B L D"]:
        """Encodes token ids.

        Args:
          input_ids: an instruction and the end token, padded to any length.
          attention_mask: true or 1 for tokens, false or 0 for padding; None takes all for tokens.

        Returns:
          The states after the final norm. Those of padding are defined too: it reads the tokens.
        """
        key_mask = None if attention_mask is None else jnp.asarray(attention_mask).astype(bool)
        x = jnp.take(self.shared.embedding[...], input_ids, axis=0)  # [B, L, D]
        bias = self._positions(x.shape[1])  # [1, K, L, L]
        for block in self.encoder.block:
            x = block(x, bias, key_mask)
        return self.encoder.final_layer_norm(x)

    def _positions(self, length: int) -> Float[Array, "1 K L L"]:
        """Returns what is added to the scores for the distance of key and query."""
        config, places = self.config, np.arange(length)
        found = buckets(
            places[None, :] - places[:, None],
            config.relative_attention_num_buckets,
            config.relative_attention_max_distance,
        )
        table = self.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
        return jnp.take(table.embedding[...], found, axis=0).transpose(2, 0, 1)[None]


def _table(count: int, width: int, *, rngs: Rngs) -> nnx.Embed:
    return nnx.Embed(count, width, rngs=rngs)  # pyright: ignore[reportArgumentType]
