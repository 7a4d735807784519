"""The adapter between vision transformer and language model: FireEdit's W."""

import dataclasses
import math
from typing import ClassVar

import jax
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

from brushjax.models.fireedit.part import PartConfig
from brushjax.nn import Rngs, linear


@dataclasses.dataclass(frozen=True)
class BridgeConfig(PartConfig):
    """Settings of the adapter; the defaults are Groma's.

    Attributes:
      merge: side of the square of patches that becomes one token.
    """

    vision_dim: int = 1024
    llm_dim: int = 4096
    merge: int = 2

    CLASS_NAME: ClassVar[str] = "Bridge"


class Bridge(nnx.Module):
    """Merges squares of patches and brings them to the language model's width.

    Source: FireEdit, section 5.1, "a two-layer linear layer"; Groma's `img_txt_bridge`.
    """

    def __init__(self, config: BridgeConfig, *, rngs: Rngs):
        self.config = config
        inner = config.vision_dim * config.merge**2
        self.img_txt_bridge = nnx.Dict(  # "1" is the activation between them
            {
                "0": linear(inner, config.llm_dim, rngs=rngs),
                "2": linear(config.llm_dim, config.llm_dim, rngs=rngs),
            }
        )

    def __call__(self, tokens: Float[Array, "B N C"]) -> Float[Array, "B M E"]:
        """Args:
          tokens: of a square of patches, row by row, without the class token; hidden states of
            the last layer before its final norm.

        Raises:
          ValueError: where patches make no square, or one that can't be merged.
        """
        first, second = self.img_txt_bridge["0"], self.img_txt_bridge["2"]
        return second(jax.nn.gelu(first(self.merged(tokens)), approximate=False))

    def merged(self, tokens: Float[Array, "B N C"]) -> Float[Array, "B M D"]:
        """Puts the channels of neighbouring patches side by side, column by column."""
        side, merge = math.isqrt(tokens.shape[1]), self.config.merge
        if side**2 != tokens.shape[1] or side % merge:
            raise ValueError(
                f"expected a square of patches whose side {merge} divides, without the class "
                f"token, got {tokens.shape[1]} patches"
            )
        pattern = "B (h row w column) C -> B (h w) (column row C)"
        return rearrange(tokens, pattern, h=side // merge, row=merge, column=merge)
