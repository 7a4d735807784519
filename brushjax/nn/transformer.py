"""The transformer over image positions that lets text steer the UNet."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from brushjax.nn.attention import Attention, KeyValue, Streams, part
from brushjax.nn.batch import plus
from brushjax.nn.execution import rematerialised
from brushjax.nn.layers import GroupNorm, Rngs, conv, layer_norm, linear


class GEGLU(nnx.Module):
    """A linear layer whose second half, through an exact GELU, gates its first half."""

    def __init__(self, width_in: int, width_out: int, *, rngs: Rngs):
        self.proj = linear(width_in, 2 * width_out, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L E"]:
        value, gate = jnp.split(self.proj(x), 2, axis=-1)  # no axis moves, so GPUs copy nothing
        return value * exact_gelu(gate)


def exact_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x times the normal distribution's share below x.

    Half precision takes it from erf, as PyTorch does, and not from erfc, which keeps a GPU busier
    than its memory does and is more exact only where the result is next to nothing.
    """
    if x.dtype == jnp.promote_types(x.dtype, jnp.float32):
        return jax.nn.gelu(x, approximate=False)
    return _gelu_by_erf(x)


@jax.custom_jvp
def _gelu_by_erf(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    return _gelu_and_slope(x)[0]


@_gelu_by_erf.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """A backward pass keeps the slope in half precision, where it would keep erf in float32."""
    value, slope = _gelu_and_slope(*primals)
    return value, tangents[0] * slope


def _gelu_and_slope(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.float32)
    share = 0.5 * (1 + jax.lax.erf(wide * 0.5**0.5))
    slope = share + wide * jnp.exp(-0.5 * wide * wide) / (2 * jnp.pi) ** 0.5
    return (wide * share).astype(x.dtype), slope.astype(x.dtype)


class FeedForward(nnx.Module):
    """GEGLU to four times the width and back. `net.1` is the checkpoint's (empty) dropout."""

    def __init__(self, width: int, *, rngs: Rngs):
        down = linear(4 * width, width, rngs=rngs)
        self.net = nnx.List([GEGLU(width, 4 * width, rngs=rngs), nnx.Dropout(0.0), down])

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Self-attention, attention to the text, feed-forward; each after a norm, each a residual."""

    def __init__(
        self,
        width: int,
        heads: int,
        context_width: int,
        visual_width: int | None = None,
        *,
        rngs: Rngs,
    ):
        self.norm1 = layer_norm(width, rngs=rngs)
        self.attn1 = Attention(width, heads, rngs=rngs)
        self.norm2 = layer_norm(width, rngs=rngs)
        self.attn2 = Attention(width, heads, context_width, visual_width=visual_width, rngs=rngs)
        self.norm3 = layer_norm(width, rngs=rngs)
        self.ff = FeedForward(width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "_B L D"], context: Float[Array, "_B N M"] | KeyValue | Streams
    ) -> Float[Array, "_B L D"]:
        x = x + self.attn1(self.norm1(x))
        x = plus(x, self.attn2(self.norm2(x), context))
        return x + self.ff(self.norm3(x))


class Transformer2D(nnx.Module):
    """Flattens a feature map into tokens, runs the blocks, and adds the result to the map.

    `linear_projection` follows SD2 and SDXL; SD1.5 projects by 1x1 convolutions, which is the same
    arithmetic under other weight shapes. Source: diffusers `Transformer2DModel`.
    """

    def __init__(
        self,
        channels: int,
        *,
        heads: int,
        context_width: int,
        layers: int,
        groups: int,
        linear_projection: bool,
        visual_width: int | None = None,
        rngs: Rngs,
    ):
        def project() -> nnx.Module:
            if linear_projection:
                return linear(channels, channels, rngs=rngs)
            return conv(channels, channels, 1, rngs=rngs)

        self.norm = GroupNorm(channels, groups, 1e-6)
        self.proj_in = project()
        self.transformer_blocks = nnx.List(
            [
                TransformerBlock(channels, heads, context_width, visual_width, rngs=rngs)
                for _ in range(layers)
            ]
        )
        self.proj_out = project()

    def __call__(
        self,
        x: Float[Array, "_B h w C"],
        context: Float[Array, "_B N M"] | tuple[KeyValue, ...] | Streams,
    ) -> Float[Array, "_B h w C"]:
        """Adds what the tokens gathered to `x`.

        Args:
          context: text features, or what each block projects of them; or these and visual ones.
        """
        tokens = self.proj_in(self.norm(x))  # [B, h, w, C]
        tokens = rearrange(tokens, "B h w C -> B (h w) C")  # [B, L, C]
        for i, block in enumerate(self.transformer_blocks):
            tokens = rematerialised(block.__call__)(tokens, part(context, i))
        return plus(x, self.proj_out(tokens.reshape(-1, *x.shape[1:])))  # [B, h, w, C]
