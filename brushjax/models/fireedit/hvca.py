"""Hybrid visual cross-attention: a few visual tokens, of two encoders, that know the text."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from brushjax.models.fireedit.part import PartConfig
from brushjax.nn import Rngs, attention, broadcast_batch, layer_norm, linear

ORDERS = ("visual_first", "text_first")


@dataclasses.dataclass(frozen=True)
class HVCAConfig(PartConfig):
    """Settings of the module; the defaults are FireEdit's with IP-Adapter-Plus's widths.

    Attributes:
      depth: blocks.
      clip_dim, dino_dim: channels of the two encoders' tokens.
      text_dim: channels of the text; null is `width`.
      block_order: which of a block's two cross-attentions comes first.
    """

    width: int = 768
    heads: int = 12
    dim_head: int = 64
    depth: int = 2
    num_queries: int = 16
    clip_dim: int = 1024
    dino_dim: int = 1024
    ff_mult: int = 4
    norm_eps: float = 1e-5
    text_dim: int | None = None
    block_order: str = "visual_first"

    CLASS_NAME: ClassVar[str] = "HVCA"

    def __post_init__(self) -> None:
        if self.block_order not in ORDERS:
            raise ValueError(
                f"expected block_order {' or '.join(ORDERS)}, got {self.block_order!r}"
            )


class CrossAttention(nnx.Module):
    """Multi-head attention without biases, whose heads need not add up to the width."""

    def __init__(self, config: HVCAConfig, context_width: int, *, rngs: Rngs):
        inner, self.heads = config.heads * config.dim_head, config.heads
        self.to_q = linear(config.width, inner, bias=False, rngs=rngs)
        self.to_k = linear(context_width, inner, bias=False, rngs=rngs)
        self.to_v = linear(context_width, inner, bias=False, rngs=rngs)
        self.to_out = linear(inner, config.width, bias=False, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        context: Float[Array, "B N M"],
        mask: Bool[Array, "B N"] | None = None,
    ) -> Float[Array, "B Q D"]:
        q, k, v = (
            project(source).reshape(*source.shape[:2], self.heads, -1)
            for project, source in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out(attention(q, k, v, key_mask=mask).reshape(*x.shape[:2], -1))


class FeedForward(nnx.Module):
    """Two linear layers without biases around an exact GELU."""

    def __init__(self, config: HVCAConfig, *, rngs: Rngs):
        hidden = config.ff_mult * config.width
        self.fc1 = linear(config.width, hidden, bias=False, rngs=rngs)
        self.fc2 = linear(hidden, config.width, bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "B Q D"]) -> Float[Array, "B Q D"]:
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class Block(nnx.Module):
    """The queries look at the picture and at the text, then a feed-forward layer."""

    def __init__(self, config: HVCAConfig, *, rngs: Rngs):
        width, epsilon, text = config.width, config.norm_eps, config.text_dim or config.width
        self.order = config.block_order
        self.norm_q1 = layer_norm(width, epsilon, rngs=rngs)
        self.norm_visual = layer_norm(width, epsilon, rngs=rngs)
        self.visual_attention = CrossAttention(config, width, rngs=rngs)
        self.norm_q2 = layer_norm(width, epsilon, rngs=rngs)
        self.norm_text = layer_norm(text, epsilon, rngs=rngs)
        self.text_attention = CrossAttention(config, text, rngs=rngs)
        self.norm_ff = layer_norm(width, epsilon, rngs=rngs)
        self.ff = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        q: Float[Array, "B Q D"],
        visual: Float[Array, "B N D"],
        text: Float[Array, "B L M"],
        text_mask: Bool[Array, "B L"] | None,
    ) -> Float[Array, "B Q D"]:
        if self.order == "visual_first":
            q = self.look(q, visual)
            q = self.read(q, text, text_mask)
        else:
            q = self.read(q, text, text_mask)
            q = self.look(q, visual)
        return q + self.ff(self.norm_ff(q))

    def look(self, q: Array, visual: Array) -> Array:
        """Adds what the queries find in the picture."""
        return q + self.visual_attention(self.norm_q1(q), self.norm_visual(visual))

    def read(self, q: Array, text: Array, mask: Array | None) -> Array:
        """Adds what the queries find in the text."""
        return q + self.text_attention(self.norm_q2(q), self.norm_text(text), mask)


class HVCA(nnx.Module):
    """Makes the tokens of the UNet's second stream: FireEdit's v of eq. 6.

    Source: FireEdit, section 4.2 and figure 3; sizes of IP-Adapter-Plus.
    Differs: docs/deviations.md#fireedit-hvca.
    """

    def __init__(self, config: HVCAConfig, *, rngs: Rngs):
        width, normal = config.width, nnx.initializers.normal(config.width**-0.5)
        self.config = config
        self.queries = nnx.Param(normal(rngs.params(), (1, config.num_queries, width)))
        self.proj_clip = linear(config.clip_dim, width, rngs=rngs)
        self.proj_dino = linear(config.dino_dim, width, rngs=rngs)
        self.type_clip = nnx.Param(normal(rngs.params(), (width,)))
        self.type_dino = nnx.Param(normal(rngs.params(), (width,)))
        self.blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.depth)])
        self.proj_out = linear(width, width, rngs=rngs)
        self.norm_out = layer_norm(width, config.norm_eps, rngs=rngs)

    def __call__(
        self,
        clip_tokens: Float[Array, "_B N1 C1"],
        dino_tokens: Float[Array, "_B N2 C2"],
        text: Float[Array, "_B L M"],
        text_mask: Bool[Array, "_B L"] | None = None,
    ) -> Float[Array, "_ Q D"]:
        """Any batch may be the smaller: a picture's tokens serve several texts.

        Args:
          clip_tokens: of the layer before the last.
          dino_tokens: of the last layer after its norm, without the class token.
          text: features of the edit that don't depend on the timestep.
          text_mask: True for text that counts; where none does, all of it does.
        """
        clip = self.proj_clip(clip_tokens) + self.type_clip[...]  # [B, N1, D]
        dino = self.proj_dino(dino_tokens) + self.type_dino[...]  # [B, N2, D]
        visual = jnp.concatenate(broadcast_batch(clip, dino), axis=1)  # [B, N, D]
        q, visual, text = broadcast_batch(self.queries[...], visual, text)
        for block in self.blocks:
            q = block(q, visual, text, text_mask)
        return self.norm_out(self.proj_out(q))  # [B, Q, D]
