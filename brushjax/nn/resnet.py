"""The residual block and the two resamplers shared by UNet, branch and VAE."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from brushjax.nn.batch import plus
from brushjax.nn.execution import execution
from brushjax.nn.layers import GroupNorm, Rngs, conv, linear


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TimeShift:
    """What a residual block makes of the time embedding and adds between its convolutions."""

    values: Any  # [B, E]


class ResnetBlock(nnx.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, with the time embedding added in between.

    Source: diffusers `ResnetBlock2D`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        time_width: int | None,
        groups: int,
        epsilon: float,
        rngs: Rngs,
    ):
        self.norm1 = GroupNorm(channels_in, groups, epsilon)
        self.conv1 = conv(channels_in, channels_out, rngs=rngs)
        self.time_emb_proj = (
            None if time_width is None else linear(time_width, channels_out, rngs=rngs)
        )
        self.norm2 = GroupNorm(channels_out, groups, epsilon)
        self.conv2 = conv(channels_out, channels_out, rngs=rngs)
        self.conv_shortcut = (
            None if channels_in == channels_out else conv(channels_in, channels_out, 1, rngs=rngs)
        )

    def __call__(
        self, x: Float[Array, "_B h w C"], time: Float[Array, "_B D"] | TimeShift | None = None
    ) -> Float[Array, "_B h w E"]:
        out = self.conv1(jax.nn.silu(self.norm1(x)))  # [B, h, w, E]
        if self.time_emb_proj is not None:
            shift = time if isinstance(time, TimeShift) else self.time_shift(time)  # type: ignore[arg-type]
            out = plus(alone(out), shift.values[:, None, None, :])
        out = self.conv2(jax.nn.silu(self.norm2(out)))
        return plus(out, x if self.conv_shortcut is None else self.conv_shortcut(x))

    def time_shift(self, time: Float[Array, "B D"]) -> TimeShift:
        """Returns what the block adds for the time, which may be computed ahead of its input."""
        if self.time_emb_proj is None:
            raise ValueError("expected no time embedding: this block was made without time_width")
        return TimeShift(self.time_emb_proj(jax.nn.silu(time)))


def alone(x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """Keeps a GPU's convolution from adding what comes next, for which it would want a whole map;
    the norm behind it adds a vector for nothing."""
    return jax.lax.optimization_barrier(x) if execution().platform == "gpu" else x


class Downsample(nnx.Module):
    """Stride-2 convolution. UNets pad all four sides; VAEs pad right and bottom only."""

    def __init__(self, channels: int, *, symmetric: bool = True, rngs: Rngs):
        self.symmetric = symmetric
        self.conv = conv(channels, channels, stride=2, padding=1 if symmetric else 0, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B _h _w C"]:
        if not self.symmetric:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return self.conv(x)


class Upsample(nnx.Module):
    """Nearest-neighbour enlargement, to twice or an explicit size, then a convolution."""

    def __init__(self, channels: int, *, rngs: Rngs):
        self.conv = conv(channels, channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B h w C"], size: tuple[int, int] | None = None
    ) -> Float[Array, "B _h _w C"]:
        height, width = x.shape[1:3]
        size = (2 * height, 2 * width) if size is None else size
        return self.conv(_nearest(_nearest(x, size[0], 1), size[1], 2))


def _nearest(x: Array, size: int, axis: int) -> Array:
    """Enlarges one axis as PyTorch's nearest: output i reads input floor(i * in / out)."""
    length = x.shape[axis]
    if size == 2 * length:
        return jnp.repeat(x, 2, axis=axis)  # a broadcast; much cheaper than a gather
    return jnp.take(x, np.arange(size) * length // size, axis=axis)
