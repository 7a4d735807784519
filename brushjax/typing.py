"""Array aliases, the table of axis letters, and the values that models hand to each other.

Axis letters used in shape comments and jaxtyping annotations:

    B  batch                H W  pixels            h w  latent cells
    C  channels             L    text tokens       N    visual or region tokens
    Q  query tokens         D    feature width     K    attention heads
    T  diffusion steps
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

Params = Mapping[Any, Any]
"""A pure nested dict of arrays, as `nnx.to_pure_dict` gives it."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AddedCondition:
    """SDXL's micro-conditioning.

    Attributes:
      text_embeds: pooled and projected text of the second encoder. [B, D]
      time_ids: original height, width, crop top, left, target height, width, in pixels. [B, 6]
    """

    text_embeds: Float[Array | np.ndarray, "B D"]
    time_ids: Float[Array | np.ndarray, "B 6"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Residuals:
    """Feature maps that a branch adds to a frozen UNet; all NHWC, scaled already.

    Attributes:
      down: added after `conv_in` and each layer of the down blocks (SD1.5: 12 maps, SDXL: 9).
      mid: added after the mid block.
      up: added after each layer of the up blocks (15 maps for SD1.5, 11 for SDXL).
      skip: added to the stored skips instead of the running features (as a ControlNet does).

    An empty tuple adds nothing at those places. A map may have a smaller batch that divides the
    features': it then serves several samples.
    """

    down: tuple[Float[Array, "_B _h _w _C"], ...] = ()
    mid: Float[Array, "_B _h _w _C"] | None = None
    up: tuple[Float[Array, "_B _h _w _C"], ...] = ()
    skip: tuple[Float[Array, "_B _h _w _C"], ...] = ()
