"""The Q-Former between the language model's [IMG] states and the text space of the UNet."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from brushjax.models.fireedit.part import PartConfig
from brushjax.nn import Rngs, attention, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class QFormerConfig(PartConfig):
    """Settings of the Q-Former; the defaults are SmartEdit's.

    Attributes:
      encoder_width: of the language model's states.
      cross_attention_freq: every how many layers look at them, from the first on.
    """

    hidden: int = 768
    heads: int = 12
    layers: int = 6
    ffn: int = 3072
    encoder_width: int = 4096
    num_queries: int = 77
    cross_attention_freq: int = 2
    layer_norm_eps: float = 1e-12

    CLASS_NAME: ClassVar[str] = "QFormer"

    def __post_init__(self) -> None:
        if self.hidden % self.heads:
            raise ValueError(
                f"expected a width divisible by its heads, got {self.hidden} and {self.heads}"
            )


class Projections(nnx.Module):
    """Attention without what follows it, under BERT's name `self`."""

    def __init__(self, config: QFormerConfig, context_width: int, *, rngs: Rngs):
        self.heads = config.heads
        self.query = linear(config.hidden, config.hidden, rngs=rngs)
        self.key = linear(context_width, config.hidden, rngs=rngs)
        self.value = linear(context_width, config.hidden, rngs=rngs)

    def __call__(self, x: Array, context: Array, mask: Array | None) -> Array:
        q, k, v = (
            project(source).reshape(*source.shape[:2], self.heads, -1)
            for project, source in ((self.query, x), (self.key, context), (self.value, context))
        )
        return attention(q, k, v, key_mask=mask).reshape(x.shape)


class Output(nnx.Module):
    """A linear layer back to the residual, normed with it."""

    def __init__(self, config: QFormerConfig, width_in: int, *, rngs: Rngs):
        self.dense = linear(width_in, config.hidden, rngs=rngs)
        self.LayerNorm = layer_norm(config.hidden, config.layer_norm_eps, rngs=rngs)

    def __call__(self, x: Array, residual: Array) -> Array:
        return self.LayerNorm(self.dense(x) + residual)


class QFormerAttention(nnx.Module):
    """Attention of the queries to themselves or to the states, residual, norm."""

    def __init__(self, config: QFormerConfig, context_width: int, *, rngs: Rngs):
        self.self = Projections(config, context_width, rngs=rngs)
        self.output = Output(config, config.hidden, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        context: Float[Array, "B N M"],
        mask: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        return self.output(self.self(x, context, mask), x)


class Intermediate(nnx.Module):
    """The widening half of the feed-forward layer."""

    def __init__(self, config: QFormerConfig, *, rngs: Rngs):
        self.dense = linear(config.hidden, config.ffn, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        return jax.nn.gelu(self.dense(x), approximate=False)


class QFormerLayer(nnx.Module):
    """Self-attention, in some layers a look at the states, feed-forward; a norm behind each."""

    def __init__(self, config: QFormerConfig, looks: bool, *, rngs: Rngs):
        self.attention = QFormerAttention(config, config.hidden, rngs=rngs)
        self.crossattention = (
            QFormerAttention(config, config.encoder_width, rngs=rngs) if looks else None
        )
        self.intermediate_query = Intermediate(config, rngs=rngs)
        self.output_query = Output(config, config.ffn, rngs=rngs)

    def __call__(self, x: Array, states: Array, mask: Array | None) -> Array:
        x = self.attention(x, x)
        if self.crossattention is not None:
            x = self.crossattention(x, states, mask)
        return self.output_query(self.intermediate_query(x), x)


class Embeddings(nnx.Module):
    """The norm of the learned queries, under BERT's name `embeddings`."""

    def __init__(self, config: QFormerConfig, *, rngs: Rngs):
        self.LayerNorm = layer_norm(config.hidden, config.layer_norm_eps, rngs=rngs)


class Encoder(nnx.Module):
    """The stack of layers."""

    def __init__(self, config: QFormerConfig, *, rngs: Rngs):
        every = config.cross_attention_freq
        self.layer = nnx.List(
            [QFormerLayer(config, i % every == 0, rngs=rngs) for i in range(config.layers)]
        )


class Bert(nnx.Module):
    """Norm and layers under the published name `sd_qformer`."""

    def __init__(self, config: QFormerConfig, *, rngs: Rngs):
        self.embeddings = Embeddings(config, rngs=rngs)
        self.encoder = Encoder(config, rngs=rngs)


class QFormer(nnx.Module):
    """Brings the states at the [IMG] tokens into the form of Stable Diffusion's text features.

    Source: FireEdit, section 4.1, "an additional Q-Former module"; SmartEdit's (arXiv 2312.06739),
      whose weights it reads; BLIP-2 (arXiv 2301.12597), section 3.1.
    """

    def __init__(self, config: QFormerConfig, *, rngs: Rngs):
        self.config = config
        start = nnx.initializers.normal(0.02)
        shape = (1, config.num_queries, config.hidden)
        self.sd_query_tokens = nnx.Param(start(rngs.params(), shape))
        self.sd_qformer = Bert(config, rngs=rngs)

    def __call__(
        self, states: Float[Array, "B r E"], mask: Bool[Array, "B r"] | None = None
    ) -> Float[Array, "B Q D"]:
        """Args:
        states: of the language model, after its final norm: those at the [IMG] tokens, or of a
            whole sequence whose mask is True there.
        mask: True for states that count. Where none does, all count the same, as in the reference.
        """
        model = self.sd_qformer
        shape = (len(states), *self.sd_query_tokens.shape[1:])
        x = jnp.broadcast_to(model.embeddings.LayerNorm(self.sd_query_tokens[...]), shape)
        for layer in model.encoder.layer:
            x = layer(x, states, mask)
        return x  # [B, Q, D]
