"""How a program that is being traced will run: what layers must know but no caller passes down."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brushjax.sharding import BATCH

Attention = Literal["auto", "plain", "chunked", "cudnn", "splash"]
Rematerialise = Literal["nothing", "elementwise", "layers"]
F = TypeVar("F", bound=Callable[..., Any])

ACTIVATIONS = {"batch": BATCH[0], "heads": "tensor", "features": "tensor"}
"""Over which axes of the mesh the named axes of activations are cut, where these divide them."""

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


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Returns an activation pinned to its place on the mesh of `Execution`.

    Left to itself the compiler may follow a cut matrix instead of the batch, and exchange
    activations where it should gather the matrix, or the other way round. Without a mesh, and where
    a caller cut the batch by hand, nothing is done.

    Args:
      axes: a name of ACTIVATIONS for each of the first axes; None, and the axes behind, are the
        compiler's to choose.
    Raises: KeyError for an unknown name.
    """
    mesh, by_hand = execution().mesh, jax.sharding.get_abstract_mesh().manual_axes
    wanted = [None if name is None else ACTIVATIONS[name] for name in axes]
    if mesh is None or mesh.size == 1 or by_hand:
        return x
    free = PartitionSpec.UNCONSTRAINED
    parts = [
        free if cut is None or size % _devices(mesh, cut) else cut
        for size, cut in zip(x.shape, wanted)
    ]
    spec = PartitionSpec(*parts, *[free] * (x.ndim - len(parts)))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def _devices(mesh: Mesh, axes: str | tuple[str, ...]) -> int:
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def rematerialised(layer: F) -> F:
    """Returns the layer with the part of its insides that `Execution.rematerialise` says computed
    again in the backward pass. The values do not change."""
    kind = execution().rematerialise
    if kind == "nothing":
        return layer
    return jax.checkpoint(layer, policy=_keeps_products if kind == "elementwise" else None)  # type: ignore[return-value]


def _keeps_products(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in PRODUCTS
