"""Constructors of the stock nnx layers with the conventions of Stable Diffusion checkpoints."""

from typing import cast

import jax
from flax import nnx


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


Rngs = nnx.Rngs | Keys


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
        rngs=cast(nnx.Rngs, rngs),
    )


def zero_conv(channels: int, *, rngs: Rngs) -> nnx.Conv:
    """Builds a 1x1 convolution whose weight and bias start at zero."""
    return nnx.Conv(
        channels,
        channels,
        (1, 1),
        kernel_init=nnx.initializers.zeros,
        rngs=cast(nnx.Rngs, rngs),
    )


def linear(width_in: int, width_out: int, *, bias: bool = True, rngs: Rngs) -> nnx.Linear:
    """Builds a linear layer."""
    return nnx.Linear(width_in, width_out, use_bias=bias, rngs=cast(nnx.Rngs, rngs))


def group_norm(channels: int, groups: int, epsilon: float, *, rngs: Rngs) -> nnx.GroupNorm:
    """Builds a group norm with statistics in at least float32.

    The variance is the mean of squared differences: E[x^2] - E[x]^2 loses digits parity needs.
    """
    return nnx.GroupNorm(
        channels,
        num_groups=groups,
        epsilon=epsilon,
        use_fast_variance=False,
        rngs=cast(nnx.Rngs, rngs),
    )


def layer_norm(width: int, epsilon: float = 1e-5, *, rngs: Rngs) -> nnx.LayerNorm:
    """Builds a layer norm with statistics in at least float32."""
    return nnx.LayerNorm(width, epsilon=epsilon, use_fast_variance=False, rngs=cast(nnx.Rngs, rngs))
