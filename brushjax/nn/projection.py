"""A linear layer whose matrix may be stored in few bits and may carry a low-rank update."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from brushjax.nn.layers import Rngs


class Factor(nnx.Module):
    """One of the two matrices of a low-rank update."""

    def __init__(self, kernel: Float[Array, "*stack I O"]):
        self.kernel = nnx.Param(kernel)


class Projection(nnx.Module):
    """A linear layer that computes in the dtype of its input.

    Attributes:
      kernel: [I, O], of any float dtype, or int8 with a scale for each output.
      kernel_scale: [O], None for a float kernel.
      lora_A, lora_B: factors [I, r] and [r, O] of an update, or None; see `brushjax.nn.lora`.
      lora_scale: of the factors' product.
    """

    def __init__(
        self,
        kernel: Float[Array, "*stack I O"],
        bias: Float[Array, "*stack O"] | None = None,
    ):
        self.kernel = nnx.Param(kernel)
        self.kernel_scale: Any = nnx.data(None)
        self.bias = nnx.data(None if bias is None else nnx.Param(bias))
        self.lora_A: Any = nnx.data(None)
        self.lora_B: Any = nnx.data(None)
        self.lora_scale = 1.0

    def __call__(self, x: Float[Array, "*batch I"]) -> Float[Array, "*batch O"]:
        y = jnp.matmul(x, self.kernel[...].astype(x.dtype))
        if self.kernel_scale is not None:
            y = y * self.kernel_scale[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        if self.lora_A is None or self.lora_B is None:
            return y
        low = jnp.matmul(x, self.lora_A.kernel[...].astype(x.dtype))  # [..., r]
        return y + self.lora_scale * jnp.matmul(low, self.lora_B.kernel[...].astype(x.dtype))


def projection(width_in: int, width_out: int, *, bias: bool = False, rngs: Rngs) -> Projection:
    """Builds a projection with weights of deviation width_in^-0.5."""
    kernel = nnx.initializers.lecun_normal()(rngs.params(), (width_in, width_out))
    return Projection(kernel, jnp.zeros(width_out) if bias else None)


def linear_layers(model: nnx.Module, targets: str) -> list[tuple[tuple[Any, ...], Any]]:
    """Returns (path, layer) of the linear layers whose dotted path matches `targets` as a whole.

    Raises:
      ValueError: if none does.
    """
    layers: list[tuple[tuple[Any, ...], Any]] = [
        (path, module)
        for path, module in nnx.iter_modules(model)
        if isinstance(module, Projection | nnx.Linear)
    ]
    found = [one for one in layers if re.fullmatch(targets, ".".join(map(str, one[0])))]
    if not found:
        some = ", ".join(".".join(map(str, path)) for path, _ in layers[:4])
        raise ValueError(
            f"expected targets that match linear layers, got {targets!r}; the model has "
            f"{len(layers)} such layers: {some}, ..."
        )
    return found


def change_layers(model: nnx.Module, targets: str, change: Callable[[Projection], None]) -> int:
    """Applies `change` to the linear layers that `targets` names, made projections first.

    Returns:
      How many layers these are; a stack of layers counts as one.
    """
    found = linear_layers(model, targets)
    for path, layer in found:
        if isinstance(layer, nnx.Linear):
            bias = None if layer.bias is None else layer.bias[...]
            layer = Projection(layer.kernel[...], bias)
            _replace(model, path, layer)
        change(layer)
    return len(found)


def _replace(model: Any, path: tuple[Any, ...], part: nnx.Module) -> None:
    parent: Any = model
    for key in path[:-1]:
        parent = parent[key] if isinstance(parent, nnx.List | nnx.Dict) else getattr(parent, key)
    if isinstance(parent, nnx.List | nnx.Dict):
        parent[path[-1]] = part
    else:
        setattr(parent, path[-1], part)


def quantize(model: nnx.Module, targets: str = ".*") -> int:
    """Stores the kernels of linear layers in int8, in place: 127 steps to each output's largest
    weight. Returns how many layers (or stacks of them) were changed.

    Args:
      targets: regex of dotted paths.
    """

    def change(layer: Projection) -> None:
        if layer.kernel_scale is not None:
            return
        whole, scale = _quantized(layer.kernel[...])
        layer.kernel = nnx.Param(whole)
        layer.kernel_scale = nnx.Param(scale)

    return change_layers(model, targets, change)


@jax.jit
def _quantized(kernel: Array) -> tuple[Array, Array]:
    precise = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    scale = jnp.max(jnp.abs(precise), axis=-2) / 127  # [..., O]
    steps = jnp.where(scale == 0, 1, scale)[..., None, :]
    return jnp.round(precise / steps).astype(jnp.int8), scale
