"""Low-rank updates of linear layers: added beside frozen matrices, or merged into them."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from brushjax.nn.layers import Rngs
from brushjax.nn.projection import Factor, Projection, change_layers, linear_layers

PATHS = r".*\.lora_[AB]\.kernel"
"""What `trains` of an objective names to train the updates alone."""


@dataclasses.dataclass(frozen=True)
class LoRA:
    """Which layers get an update, and of which size.

    Attributes:
      rank: inner width of the two factors.
      alpha: alpha / rank scales their product.
      targets: regex of the dotted paths of linear layers.
    """

    rank: int = 8
    alpha: float | int = 16
    targets: str = r".*\.(q_proj|v_proj)"

    @property
    def scale(self) -> float:
        """Factor of the product."""
        return self.alpha / self.rank


def add(model: nnx.Module, settings: LoRA, *, rngs: Rngs) -> int:
    """Adds updates to a model's linear layers, in place; its outputs stay as they are at first.

    Returns:
      How many layers were given one; a stack of layers counts as one.

    Raises:
      ValueError: if no layer is named, or one has an update already.

    Source: Hu et al. (arXiv 2106.09685), section 4.1; started as peft's.
    """

    def change(layer: Projection) -> None:
        if layer.lora_A is not None:
            raise ValueError("expected layers without a low-rank update; merge the present one")
        *stack, width, _ = layer.kernel.shape
        bound = width**-0.5  # Kaiming's bound with a = sqrt(5)
        shape = (*stack, width, settings.rank)
        down = jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound)
        layer.lora_A = Factor(down)
        layer.lora_B = Factor(jnp.zeros((*stack, settings.rank, layer.kernel.shape[-1])))
        layer.lora_scale = settings.scale

    return change_layers(model, settings.targets, change)


def merge(model: nnx.Module) -> int:
    """Adds the updates to the matrices, in place, and takes the factors away.

    Returns:
      How many layers had one.

    Raises:
      ValueError: for an int8 matrix, which would lose the update's digits.
    """
    with_update = [layer for layer in _projections(model) if layer.lora_A is not None]
    if any(layer.kernel_scale is not None for layer in with_update):
        raise ValueError("expected float matrices to merge into, got int8; merge, then quantize")
    for layer in with_update:
        kernel, down, up = layer.kernel[...], layer.lora_A.kernel[...], layer.lora_B.kernel[...]
        layer.kernel.set_value(_merged(kernel, down, up, layer.lora_scale))
        layer.lora_A = layer.lora_B = None
    return len(with_update)


@jax.jit
def _merged(kernel: Any, down: Any, up: Any, scale: Any) -> Any:
    precise = jnp.promote_types(kernel.dtype, jnp.float32)
    update = jnp.matmul(down.astype(precise), up.astype(precise), precision="highest")
    return (kernel.astype(precise) + scale * update).astype(kernel.dtype)


def _projections(model: nnx.Module) -> list[Projection]:
    return [layer for _, layer in linear_layers(model, ".*") if isinstance(layer, Projection)]
