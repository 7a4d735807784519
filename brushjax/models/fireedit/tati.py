"""Time-aware target injection: a resampler of the instruction that knows the timestep."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Num

from brushjax.models.fireedit.part import PartConfig
from brushjax.nn import Rngs, TimestepEmbedding, attention, broadcast_batch, linear, plus, sinusoid


@dataclasses.dataclass(frozen=True)
class TATIConfig(PartConfig):
    """Settings of the resampler; the defaults are FireEdit's.

    Attributes:
      time_channel, time_embed_dim: widths of the timestep's waves and of their embedding.
      input_dim: channels of the features; null leaves out the projection of them to `width`.
      mlp_hidden: null is four times the width.
      gate: each residual is multiplied by a gate that the timestep says and that starts at 0.
      residual: the output starts as the features themselves.
    """

    time_channel: int = 320
    time_embed_dim: int = 768
    width: int = 768
    layers: int = 2
    heads: int = 8
    num_latents: int = 77
    input_dim: int | None = 768
    mlp_hidden: int | None = None
    norm_eps: float = 1e-6
    gate: bool = False
    residual: bool = False

    CLASS_NAME: ClassVar[str] = "TATI"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"expected a width divisible by its heads, got {self.width} and {self.heads}"
            )


class AdaLayerNorm(nnx.Module):
    """A layer norm whose shift, scale and, on request, gate come from the timestep.

    Source: DiT (arXiv 2212.09748), figure 3; ELLA's `AdaLayerNorm`, without gate.
    """

    def __init__(self, config: TATIConfig, gate: bool, *, rngs: Rngs):
        width, self.parts = config.width, 3 if gate else 2
        self.norm = nnx.LayerNorm(
            width,
            epsilon=config.norm_eps,
            use_bias=False,
            use_scale=False,
            use_fast_variance=False,
            rngs=rngs,  # pyright: ignore[reportArgumentType] - Keys stands in for Rngs
        )
        self.linear = _zero_linear(config.time_embed_dim, self.parts * width, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B L D"], time: Float[Array, "_B E"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "_B 1 D"] | None]:
        """Returns the normed input, and the gate where there is one."""
        said = self.linear(jax.nn.silu(time))[:, None]  # [B, 1, 2 D] or [B, 1, 3 D]
        shift, scale, *gate = jnp.split(said, self.parts, axis=-1)
        return self.norm(x) * (1 + scale) + shift, gate[0] if gate else None


class PackedAttention(nnx.Module):
    """Multi-head attention with the three projections in one matrix (out, in), as in PyTorch."""

    def __init__(self, width: int, heads: int, *, rngs: Rngs):
        self.heads = heads
        start = nnx.initializers.xavier_uniform(in_axis=1, out_axis=0)
        self.in_proj_weight = nnx.Param(start(rngs.params(), (3 * width, width)))
        self.in_proj_bias = nnx.Param(jnp.zeros(3 * width))
        self.out_proj = linear(width, width, rngs=rngs)

    def __call__(
        self, queries: Float[Array, "B L D"], context: Float[Array, "B N D"]
    ) -> Float[Array, "B L D"]:
        weights = jnp.split(self.in_proj_weight[...], 3)  # [D, D] each
        biases = jnp.split(self.in_proj_bias[...], 3)
        sources = (queries, context, context)
        q, k, v = (
            (x @ weight.T + bias).reshape(*x.shape[:2], self.heads, -1)
            for x, weight, bias in zip(sources, weights, biases, strict=True)
        )
        return self.out_proj(attention(q, k, v).reshape(queries.shape))


class MLP(nnx.Module):
    """Two linear layers around a squared ReLU."""

    def __init__(self, config: TATIConfig, *, rngs: Rngs):
        hidden = config.mlp_hidden or 4 * config.width
        self.c_fc = linear(config.width, hidden, rngs=rngs)
        self.c_proj = linear(hidden, config.width, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.c_proj(jnp.square(jax.nn.relu(self.c_fc(x))))


class Block(nnx.Module):
    """Latents look at the text and at themselves, then a feed-forward layer; all timed."""

    def __init__(self, config: TATIConfig, *, rngs: Rngs):
        self.ln_1 = AdaLayerNorm(config, config.gate, rngs=rngs)
        self.ln_2 = AdaLayerNorm(config, False, rngs=rngs)
        self.attn = PackedAttention(config.width, config.heads, rngs=rngs)
        self.ln_ff = AdaLayerNorm(config, config.gate, rngs=rngs)
        self.mlp = MLP(config, rngs=rngs)

    def __call__(
        self, latents: Float[Array, "B Q D"], text: Float[Array, "B L D"], time: Array
    ) -> Float[Array, "B Q D"]:
        queries, gate = self.ln_1(latents, time)
        context = jnp.concatenate([queries, self.ln_2(text, time)[0]], axis=1)  # [B, Q + L, D]
        latents = latents + _gated(self.attn(queries, context), gate)
        x, gate = self.ln_ff(latents, time)
        return latents + _gated(self.mlp(x), gate)


def _gated(x: Array, gate: Array | None) -> Array:
    return x if gate is None else x * gate


class Connector(nnx.Module):
    """Latents and blocks, under ELLA's name `connector`."""

    def __init__(self, config: TATIConfig, *, rngs: Rngs):
        width, start = config.width, nnx.initializers.normal(config.width**-0.5)
        self.latents = nnx.Param(start(rngs.params(), (config.num_latents, width)))
        self.time_aware_linear = linear(config.time_embed_dim, width, rngs=rngs)
        self.proj_in = (
            None if config.input_dim is None else linear(config.input_dim, width, rngs=rngs)
        )
        self.perceiver_blocks = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])
        self.residual_proj = _zero_linear(width, width, rngs=rngs) if config.residual else None


class TATI(nnx.Module):
    """Makes the UNet's context of the edit's features, anew for every timestep.

    Source: FireEdit, section 4.3 and figure 3; ELLA's time-aware resampler (arXiv 2403.05135),
      section 3.2, whose weights it reads.
    Differs: docs/deviations.md#fireedit-tati.
    """

    def __init__(self, config: TATIConfig, *, rngs: Rngs):
        self.config = config
        self.time_embedding = TimestepEmbedding(
            config.time_channel, config.time_embed_dim, rngs=rngs
        )
        self.connector = Connector(config, rngs=rngs)

    def __call__(
        self, features: Float[Array, "B L C"], timestep: Num[Array, " _B"]
    ) -> Float[Array, "_ Q D"]:
        """Args:
          features: of the instruction; all of them count, there is no mask.
          timestep: in [0, T), may be a fraction; one for all samples or one each.

        Raises:
          ValueError: with `residual`, for features that don't have the output's shape.
        """
        waves = sinusoid(timestep, self.config.time_channel, dtype=features.dtype)
        return self.resampled(features, waves)

    def resampled(
        self, features: Float[Array, "B L C"], waves: Float[Array, "_B T"]
    ) -> Float[Array, "_ Q D"]:
        """Does the work, from a timestep's waves on."""
        parts = self.connector
        time = self.time_embedding(waves)  # [B, E]
        latents = parts.latents[...][None] + parts.time_aware_linear(jax.nn.silu(time))[:, None]
        text = features if parts.proj_in is None else parts.proj_in(features)  # [B, L, D]
        latents, text, time = broadcast_batch(latents, text, time)
        for block in parts.perceiver_blocks:
            latents = block(latents, text, time)
        if parts.residual_proj is None:
            return latents  # [B, Q, D]
        if features.shape[1:] != latents.shape[1:]:
            raise ValueError(
                f"expected features of {latents.shape[1]} tokens and width {latents.shape[2]} with "
                f"residual=True, got {features.shape[1:]}"
            )
        return plus(features, parts.residual_proj(latents))


def _zero_linear(width_in: int, width_out: int, *, rngs: Rngs) -> nnx.Linear:
    return nnx.Linear(
        width_in,
        width_out,
        kernel_init=nnx.initializers.zeros,
        rngs=rngs,  # pyright: ignore[reportArgumentType] - Keys stands in for Rngs
    )
