"""The VAE in overlapping tiles: memory that does not grow with the picture."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

OVERLAP = 0.25  # of a tile's side, on which neighbours fade into each other


def tiled(
    function: Callable[[Array], Array],
    x: Float[Array, "B _h _w _C"],
    side: int,
    ratio: tuple[int, int] = (1, 1),
) -> Float[Array, "B _H _W _E"]:
    """Applies a function of pictures tile by tile and fades the results into each other.

    Not exact: a VAE's norms see one tile instead of the whole picture.

    Args:
        function: [B, t, t', C] -> [B, t * up / down, t' * up / down, E].
        x: larger than a tile or not; sides that fit into one are not cut.
        side: of a tile, in cells of `x`; a multiple of `down`.
        ratio: (up, down), size of the function's output over that of its input.

    Source: diffusers' `AutoencoderKL.tiled_decode`; here every tile has ramps on both sides.
    """
    up, down = ratio
    height, width = (min(side, size) for size in x.shape[1:3])
    if (height, width) == x.shape[1:3]:
        return function(x)
    tops, lefts = (
        _starts(size, tile, down) for size, tile in zip(x.shape[1:3], (height, width), strict=True)
    )
    corners = jnp.asarray([(top, left) for top in tops for left in lefts])
    probe = jax.eval_shape(function, jax.ShapeDtypeStruct((*x[:, :height, :width].shape,), x.dtype))
    weight = jnp.asarray(_ramp(probe.shape[1])[:, None] * _ramp(probe.shape[2]), jnp.float32)
    weight = weight[..., None]
    sizes = (x.shape[1] * up // down, x.shape[2] * up // down)

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, weights = carry
        top, left = corners[i]
        size = (x.shape[0], height, width, x.shape[3])
        tile = function(jax.lax.dynamic_slice(x, (0, top, left, 0), size)).astype(jnp.float32)
        at = (0, top * up // down, left * up // down, 0)
        there = jax.lax.dynamic_slice(total, at, tile.shape)
        total = jax.lax.dynamic_update_slice(total, there + weight * tile, at)
        there = jax.lax.dynamic_slice(weights, at[1:], weight.shape)
        return total, jax.lax.dynamic_update_slice(weights, there + weight, at[1:])

    total = jnp.zeros((x.shape[0], *sizes, probe.shape[3]), jnp.float32)
    start = (total, jnp.zeros((*sizes, 1), jnp.float32))
    total, weights = jax.lax.fori_loop(0, len(corners), add, start)
    return (total / weights).astype(probe.dtype)


def _starts(size: int, tile: int, multiple: int) -> list[int]:
    """Where tiles begin: evenly, overlapping by OVERLAP at least, the last at the far end."""
    if size <= tile:
        return [0]
    count = -(-(size - tile) // max(1, int(tile * (1 - OVERLAP)))) + 1
    places = np.linspace(0, (size - tile) // multiple, count).round().astype(int)
    return [int(place) * multiple for place in places]


def _ramp(side: int) -> np.ndarray:
    """Weights along a tile's side: up over OVERLAP of it, flat, down again; nowhere 0."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 1
    return np.minimum(1.0, distance / max(1.0, OVERLAP * side))
