"""How a program that is being traced will run: what layers must know but no caller passes down."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

import jax
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from brushjax.sharding import BATCH

Attention = Literal["auto", "plain", "chunked", "cudnn", "splash"]
Convolution = Literal["auto", "direct"]
Rematerialise = Literal["nothing", "elementwise", "layers"]
F = TypeVar("F", bound=Callable[..., Any])

ACTIVATIONS = {
    "batch": BATCH[0],
    "samples": (*BATCH[0], "tensor"),
    "heads": ("tensor",),
    "features": ("tensor",),
}
"""Over which axes of the mesh the named axes of activations are cut: over as many, from the left,
as divide them. "samples" is the batch of parts that have no use for the tensor axis."""

PRODUCTS = frozenset({"conv_general_dilated", "dot_general", "pallas_call", "custom_vjp_call"})


@dataclasses.dataclass(frozen=True)
class Execution:
    """The platform and the trade of memory for work that a program is traced for."""

    mesh: Mesh | None = None
    """Over which the batch is cut: kernels written by hand must be told, as the compiler cannot
    divide them. Its devices also decide the platform."""
    attention: Attention = "auto"
    """See `brushjax.nn.attention`."""
    convolution: Convolution = "auto"
    """"direct" multiplies every pixel under a kernel, "auto" fewer where that is quicker: see
    `brushjax.nn.convolution`."""
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


def constrain(x: jax.Array, *axes: Any) -> jax.Array:
    """Returns an activation pinned to its place on the mesh of `Execution`.

    Left to itself the compiler may follow a cut matrix instead of the batch, and exchange
    activations where it should gather the matrix, or the other way round. Without a mesh, and where
    a caller cut the batch by hand, nothing is done.

    Args:
      axes: a name of ACTIVATIONS for each of the first axes; None, and the axes behind, are the
        compiler's to choose. With ... at the end the axes behind are whole.
    Raises: KeyError for an unknown name.
    """
    free = PartitionSpec.UNCONSTRAINED
    behind = None if axes and axes[-1] is ... else free
    named = [name for name in axes if name is not ...]
    cuts = [() if name is None else cut_over(name, size) for size, name in zip(x.shape, named)]
    mesh = _divided()
    if mesh is None:
        return x
    spec = PartitionSpec(*(cut or free for cut in cuts), *[behind] * (x.ndim - len(cuts)))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def cut_over(name: str, size: int) -> tuple[str, ...]:
    """Returns over which axes of the mesh a named axis of so many entries is cut.

    Raises: KeyError for an unknown name.
    """
    wanted, mesh = ACTIVATIONS[name], _divided()
    if mesh is None:
        return ()
    shorter = (wanted[:n] for n in range(len(wanted), 0, -1))
    return next((axes for axes in shorter if size % _devices(mesh, axes) == 0), ())


def own_samples(function: Callable[..., Array], *arrays: Any) -> Array:
    """Returns function(*arrays) of trees of arrays [B, ...], of which every device works on its own
    samples alone.

    For what loops over the batch: the compiler would bring all samples to every device, and have
    each go through all of them.
    """
    count = len(jax.tree.leaves(arrays)[0])
    mesh, cut = _divided(), cut_over("samples", count)
    if mesh is None or not cut:
        return function(*arrays)

    def by_device(x: Array) -> Array:
        return constrain(x.reshape(_devices(mesh, cut), -1, *x.shape[1:]), "samples", ...)

    results = jax.vmap(function)(*jax.tree.map(by_device, arrays))  # [devices, B/devices, ...]
    return constrain(results.reshape(count, *results.shape[2:]), "samples", ...)


def _divided() -> Mesh | None:
    """The mesh of `Execution`, where the compiler has activations to divide over it."""
    mesh, by_hand = execution().mesh, jax.sharding.get_abstract_mesh().manual_axes
    return None if mesh is None or mesh.size == 1 or by_hand else mesh


def _devices(mesh: Mesh, axes: tuple[str, ...]) -> int:
    return math.prod(mesh.shape[axis] for axis in axes)


def rematerialised(layer: F) -> F:
    """Returns the layer with the part of its insides that `Execution.rematerialise` says computed
    again in the backward pass. The values do not change."""
    kind = execution().rematerialise
    if kind == "nothing":
        return layer
    return jax.checkpoint(layer, policy=_keeps_products if kind == "elementwise" else None)  # type: ignore[return-value]


def _keeps_products(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in PRODUCTS
