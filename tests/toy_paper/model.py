"""The toy paper's network: three convolutions that predict the noise in a hole of a picture."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from brushjax.models.published import PublishedConfig
from brushjax.nn import Rngs, conv, linear, sinusoid

STEPS = 1000  # of the noise


@dataclasses.dataclass(frozen=True)
class ToyConfig(PublishedConfig):
    """How wide it is."""

    width: int = 16

    CLASS_NAME: ClassVar[str] = "ToyPainter"


class ToyPainter(nnx.Module):
    """Sees the noisy picture, the picture without its hole, and what is kept."""

    def __init__(self, config: ToyConfig, *, rngs: Rngs):
        self.config, width = config, config.width
        self.conv_in = conv(3 + 3 + 1, width, rngs=rngs)
        self.time = linear(width, width, rngs=rngs)
        self.conv_mid = conv(width, width, rngs=rngs)
        self.conv_out = conv(width, 3, rngs=rngs)

    def __call__(
        self,
        noisy: Float[Array, "B H W 3"],
        timestep: Float[Array, " B"],
        masked: Float[Array, "B H W 3"],
        keep: Float[Array, "B H W 1"],
    ) -> Float[Array, "B H W 3"]:
        moment = self.time(sinusoid(timestep, self.config.width))  # [B, D]
        x = self.conv_in(jnp.concatenate([noisy, masked, keep], axis=-1))  # [B, H, W, D]
        x = self.conv_mid(jax.nn.silu(x + moment[:, None, None]))
        return self.conv_out(jax.nn.silu(x))
