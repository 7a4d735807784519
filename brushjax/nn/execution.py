"""How a program that is being traced will run: what layers must know but no caller passes down."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import jax
from jax.sharding import Mesh

Attention = Literal["auto", "plain", "chunked", "cudnn", "splash"]
Rematerialise = Literal["nothing", "elementwise", "layers"]
F = TypeVar("F", bound=Callable[..., Any])

PRODUCTS = frozenset({"conv_general_dilated", "dot_general", "pallas_call", "custom_vjp_call"})


@dataclasses.dataclass(frozen=True)
class Execution:
    """The platform and the trade of memory for work that a program is traced for."""

    mesh: Mesh | None = None
    """Over which the batch is cut: kernels written by hand must be told, as the compiler cannot
    divide them. Its devices also decide the platform."""
    attention: Attention = "auto"
    """See `brushjax.nn.attention`."""
    rematerialise: Rematerialise = "nothing"
    """What the backward pass computes again instead of keeping it: "nothing"; "elementwise" norms
    and activations, which costs no matrix product; "layers" everything inside a layer, which costs
    another forward pass and keeps only what passes between layers."""

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform


_current: contextvars.ContextVar[Execution | None] = contextvars.ContextVar(
    "execution", default=None
)


def execution() -> Execution:
    """Returns what the enclosing `executing` block says, or the defaults."""
    return _current.get() or Execution()


@contextlib.contextmanager
def executing(how: Execution) -> Iterator[None]:
    """Traces what is called inside the block for `how`.

    To be entered inside the function that jax.jit traces: outside, a program that was traced
    before would be used again whatever the block says.
    """
    token = _current.set(how)
    try:
        yield
    finally:
        _current.reset(token)


def rematerialised(layer: F) -> F:
    """Returns the layer with the part of its insides that `Execution.rematerialise` says computed
    again in the backward pass. The values do not change."""
    kind = execution().rematerialise
    if kind == "nothing":
        return layer
    return jax.checkpoint(layer, policy=_keeps_products if kind == "elementwise" else None)  # type: ignore[return-value]


def _keeps_products(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in PRODUCTS
