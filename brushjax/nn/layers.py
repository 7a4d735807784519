"""Constructors of the stock nnx layers with the conventions of Stable Diffusion checkpoints."""

from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.linear import default_kernel_init
from jaxtyping import Array, Float

from brushjax.nn.convolution import convolve


class Keys:
    """Hands out initialisation keys; stands in for `nnx.Rngs` where a model is only traced.

    `nnx.Rngs` counts on a traced array, which makes abstract initialisation of a full-size UNet
    several times slower; a Python counter folded into one key does not.
    """

    def __init__(self, seed: int | jax.Array = 0):
        self._key = jax.random.key(seed) if isinstance(seed, int) else seed
        self._count = 0

    def params(self) -> jax.Array:
        """Returns the next key."""
        self._count += 1
        return jax.random.fold_in(self._key, self._count)


class Shapes(Keys):
    """Stands in for keys where a model's shapes alone are wanted: nothing is drawn.

    Half of what tracing a full-size UNet costs would be random numbers that nobody sees.
    """

    def params(self) -> jax.Array:
        """Returns the one key."""
        return self._key


Rngs = nnx.Rngs | Keys


def _kernel(rngs: Rngs) -> Any:
    return nnx.initializers.zeros if isinstance(rngs, Shapes) else default_kernel_init


def conv(
    channels_in: int,
    channels_out: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    padding: int | None = None,
    rngs: Rngs,
) -> nnx.Conv:
    """Builds a square convolution with symmetric zero padding (`kernel // 2` when not given)."""
    pad = kernel // 2 if padding is None else padding
    return nnx.Conv(
        channels_in,
        channels_out,
        (kernel, kernel),
        strides=stride,
        padding=((pad, pad), (pad, pad)),
        kernel_init=_kernel(rngs),
        conv_general_dilated=convolve,
        rngs=cast(nnx.Rngs, rngs),
    )


def zero_conv(channels: int, *, rngs: Rngs) -> nnx.Conv:
    """Builds a 1x1 convolution whose weight and bias start at zero."""
    return nnx.Conv(
        channels,
        channels,
        (1, 1),
        padding=((0, 0), (0, 0)),
        kernel_init=nnx.initializers.zeros,
        conv_general_dilated=convolve,
        rngs=cast(nnx.Rngs, rngs),
    )


def linear(width_in: int, width_out: int, *, bias: bool = True, rngs: Rngs) -> nnx.Linear:
    """Builds a linear layer."""
    return nnx.Linear(
        width_in,
        width_out,
        use_bias=bias,
        kernel_init=_kernel(rngs),
        rngs=cast(nnx.Rngs, rngs),
    )


class GroupNorm(nnx.Module):
    """Normalises groups of neighbouring channels, with statistics in at least float32.

    The variance is the mean of squared differences: E[x^2] - E[x]^2 loses digits parity needs. Half
    precision has none to lose, and takes the latter: both sums in one pass over the input, where
    the differences would be another array of twice its size.
    Differs from nnx.GroupNorm in the order of its sums: over pixels first, whole rows of channels
    at a time, which CPUs do several times faster than runs of a group's few channels.
    """

    def __init__(self, channels: int, groups: int, epsilon: float):
        if channels % groups:
            raise ValueError(f"expected channels that {groups} groups divide, got {channels}")
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if precise.dtype != x.dtype:
            return self._in_one_pass(precise).astype(x.dtype)
        centred = precise - self._means(precise)
        spread = jax.lax.rsqrt(self._means(jnp.square(centred)) + self.epsilon)
        return centred * (spread * self.scale[...]) + self.bias[...]

    def _in_one_pass(self, x: Array) -> Array:
        mean, square = self._rows_first(x), self._rows_first(jnp.square(x))
        spread = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + self.epsilon)
        scale = spread * self.scale[...].astype(x.dtype)  # [B, 1, 1, C]
        return x * scale + (self.bias[...].astype(x.dtype) - mean * scale)

    def _rows_first(self, x: Array) -> Array:
        """As `_means`, but rows of pixels on their own at first: a GPU then has as many sums to
        work on at once as there are rows and channels."""
        rows = x.mean(axis=2)  # [B, h, C]
        groups = rows.reshape(*rows.shape[:-1], self.groups, -1).mean(axis=(1, 3))  # [B, G]
        return jnp.repeat(groups, x.shape[-1] // self.groups, axis=-1)[:, None, None]

    def _means(self, x: Array) -> Array:
        """Returns the mean of each channel's group, [B, 1, 1, C]."""
        channels = x.mean(axis=(1, 2), keepdims=True)
        groups = channels.reshape(*channels.shape[:-1], self.groups, -1).mean(axis=-1)
        return jnp.repeat(groups, x.shape[-1] // self.groups, axis=-1)


def layer_norm(width: int, epsilon: float = 1e-5, *, rngs: Rngs) -> nnx.LayerNorm:
    """Builds a layer norm with statistics in at least float32."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=cast(nnx.Rngs, rngs))


class RMSNorm(nnx.Module):
    """Scales features to a root mean square of 1, computed in at least float32.

    Source: Zhang and Sennrich (arXiv 1910.07467), eq. 4.
    """

    def __init__(self, width: int, epsilon: float):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        precise = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        square = jnp.mean(jnp.square(precise), axis=-1, keepdims=True)
        return (precise * jax.lax.rsqrt(square + self.epsilon) * self.scale[...]).astype(x.dtype)
