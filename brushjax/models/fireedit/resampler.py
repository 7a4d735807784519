"""IP-Adapter-Plus's resampler of CLIP's tokens: visual tokens that do not know the text.

What hybrid visual cross-attention is measured against, and what reads published IP-Adapters.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from brushjax.models.fireedit.part import PartConfig
from brushjax.nn import Rngs, attention, layer_norm, linear


@dataclasses.dataclass(frozen=True)
class ResamplerConfig(PartConfig):
    """Settings of the resampler; the defaults are ip-adapter-plus_sd15's.

    Attributes:
      embedding_dim: of CLIP's tokens.
      output_dim: of the tokens that come out.
    """

    dim: int = 768
    depth: int = 4
    dim_head: int = 64
    heads: int = 12
    num_queries: int = 16
    embedding_dim: int = 1280
    output_dim: int = 768
    ff_mult: int = 4
    norm_eps: float = 1e-5

    CLASS_NAME: ClassVar[str] = "Resampler"
    HARMLESS: ClassVar[frozenset[str]] = PartConfig.HARMLESS | {"input_tokens"}


class PerceiverAttention(nnx.Module):
    """The latents look at the tokens and at themselves."""

    def __init__(self, config: ResamplerConfig, *, rngs: Rngs):
        width, inner = config.dim, config.heads * config.dim_head
        self.heads = config.heads
        self.norm1 = layer_norm(width, config.norm_eps, rngs=rngs)
        self.norm2 = layer_norm(width, config.norm_eps, rngs=rngs)
        self.to_q = linear(width, inner, bias=False, rngs=rngs)
        self.to_kv = linear(width, 2 * inner, bias=False, rngs=rngs)
        self.to_out = linear(inner, width, bias=False, rngs=rngs)

    def __call__(
        self, latents: Float[Array, "B Q D"], tokens: Float[Array, "B N D"]
    ) -> Float[Array, "B Q D"]:
        latents, tokens = self.norm2(latents), self.norm1(tokens)
        context = jnp.concatenate([tokens, latents], axis=1)
        k, v = jnp.split(self.to_kv(context), 2, axis=-1)
        q, k, v = (x.reshape(*x.shape[:2], self.heads, -1) for x in (self.to_q(latents), k, v))
        return self.to_out(attention(q, k, v).reshape(*latents.shape[:2], -1))


class Projection(nnx.Module):
    """The resampler under its published name `image_proj`."""

    def __init__(self, config: ResamplerConfig, *, rngs: Rngs):
        width, start = config.dim, nnx.initializers.normal(config.dim**-0.5)
        self.latents = nnx.Param(start(rngs.params(), (1, config.num_queries, width)))
        self.proj_in = linear(config.embedding_dim, width, rngs=rngs)
        self.proj_out = linear(width, config.output_dim, rngs=rngs)
        self.norm_out = layer_norm(config.output_dim, config.norm_eps, rngs=rngs)
        self.layers = nnx.List([_layer(config, rngs=rngs) for _ in range(config.depth)])


def _layer(config: ResamplerConfig, *, rngs: Rngs) -> Any:
    hidden = config.ff_mult * config.dim
    forward = nnx.Dict(  # "2" is the activation
        {
            "0": layer_norm(config.dim, config.norm_eps, rngs=rngs),
            "1": linear(config.dim, hidden, bias=False, rngs=rngs),
            "3": linear(hidden, config.dim, bias=False, rngs=rngs),
        }
    )
    return nnx.List([PerceiverAttention(config, rngs=rngs), forward])


class Resampler(nnx.Module):
    """Makes a few visual tokens of CLIP's.

    Source: IP-Adapter (arXiv 2308.06721), section 3.2.2; its `Resampler`.
    """

    def __init__(self, config: ResamplerConfig, *, rngs: Rngs):
        self.config = config
        self.image_proj = Projection(config, rngs=rngs)

    def __call__(self, tokens: Float[Array, "B N C"]) -> Float[Array, "B Q D"]:
        """Args:
        tokens: of the layer before the last, class token included.
        """
        parts = self.image_proj
        x = parts.proj_in(tokens)  # [B, N, D]
        latents = jnp.broadcast_to(
            parts.latents[...], (len(x), *parts.latents.shape[1:])
        )  # [B, Q, D]
        for attend, forward in parts.layers:
            latents = latents + attend(latents, x)
            y = forward["1"](forward["0"](latents))
            latents = latents + forward["3"](jax.nn.gelu(y, approximate=False))
        return parts.norm_out(parts.proj_out(latents))
