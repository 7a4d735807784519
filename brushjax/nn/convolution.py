"""Convolution as matrix products, where a CPU then has less to do."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from brushjax.nn.execution import execution

WIDE = 256  # channels from which fewer products outweigh the additions before and behind them
AT_ONCE = 2**25  # values of a picture: four times as many are held, before and behind the products


def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "k l _ O"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "B h w O"]:
    """Convolves like `jax.lax.conv_general_dilated`, whose arguments it takes.

    XLA on a CPU lays a kernel out anew before it convolves, and for the input's gradient turns it
    round as well. Where the output has fewer pixels than channels, that costs more than the sums
    do: there each pixel's neighbours are laid side by side, for one product with the kernel as it
    stands. So it is for kernels of one pixel. Wide kernels of 3 x 3 over many pixels are taken by
    Winograd's algorithm, through which no forward-mode derivative goes (`Execution.convolution`
    turns it off). Values differ by rounding. Groups and dilation are left to XLA.
    """
    size = kernel.shape[:2]
    padded = [n + sum(pad) for n, pad in zip(x.shape[1:3], padding)]
    height, width = ((n - k) // step + 1 for n, k, step in zip(padded, size, strides))
    pixels = len(x) * height * width
    how = execution()
    if how.platform != "cpu" or not _plain(**options):
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    if size != (1, 1) and pixels > kernel.shape[-1]:
        around = [tuple(pad) for pad in padding] == [(1, 1)] * 2
        same = size == (3, 3) and around and tuple(strides) == (1, 1)
        if how.convolution == "auto" and same and _whole(how.mesh) and _worth_it(x, kernel):
            return _winograd(x, kernel)
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    neighbours = [
        x[
            :,
            i : padded[0] - size[0] + i + 1 : strides[0],
            j : padded[1] - size[1] + j + 1 : strides[1],
        ]
        for i in range(size[0])
        for j in range(size[1])
    ]
    patches = jnp.concatenate(neighbours, axis=-1).reshape(pixels, -1)
    product = jnp.matmul(
        patches, kernel.reshape(patches.shape[1], -1), precision=options["precision"]
    )
    return product.reshape(len(x), height, width, -1)


def _plain(
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    **_: Any,
) -> bool:
    """Whether every output sees all channels of neighbouring pixels, as products take them."""
    apart = {*(lhs_dilation or ()), *(rhs_dilation or ()), feature_group_count, batch_group_count}
    return apart <= {1}


def _whole(mesh: Mesh | None) -> bool:
    """Whether kernels are not cut over devices: 16 matrices of each, or four times the picture,
    would be exchanged in place of nine, or of the picture."""
    return mesh is None or mesh.size == mesh.shape["data"]


def _worth_it(x: Array, kernel: Array) -> bool:
    """Whether `_winograd` is quicker, exact enough (not in half precision) and holds not too
    much."""
    even = x.shape[1] % 2 == x.shape[2] % 2 == 0
    fits = max(x.size, x.size // kernel.shape[2] * kernel.shape[3]) <= AT_ONCE
    return even and fits and x.dtype == jnp.float32 and min(kernel.shape[2:]) >= WIDE


@jax.custom_vjp
def _winograd(x: Float[Array, "B H W I"], kernel: Float[Array, "3 3 I O"]) -> Array:
    """Convolves to the same size, by 16 products for 2 x 2 pixels instead of 36.

    Source: F(2x2, 3x3) of Lavin and Gray 2016 (arXiv 1509.09308), equation 8, a matrix product over
    all tiles for each of the 16.
    """
    return _from_products(_tiles(x), _of_kernel(kernel), "bhwi,io->bhwo")


def _from_products(tiles: list[Array], weights: list[Array], letters: str) -> Array:
    """Multiplies 16 tiles with 16 weights, and returns the pixels [B, H, W, C] they are made of."""
    m = [jnp.einsum(letters, *pair) for pair in zip(tiles, weights, strict=True)]
    columns = [_pair(m[i : i + 4]) for i in range(0, 16, 4)]  # of tiles: left and right
    left, right = (_pair(four) for four in zip(*columns))  # upper and lower, [B, H/2, W/2, C] each
    rows = [jnp.stack(pair, axis=3) for pair in zip(left, right)]
    batch, height, width, channels = m[0].shape
    return jnp.stack(rows, axis=2).reshape(batch, 2 * height, 2 * width, channels)


def _tiles(x: Float[Array, "B H W C"]) -> list[Float[Array, "B H/2 W/2 C"]]:
    """Returns what the products take of each square of 4 x 4 pixels, whose middles meet."""
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = _four([x[:, i : height + i - 1 : 2] for i in range(4)])
    return [
        tile for row in rows for tile in _four([row[:, :, j : width + j - 1 : 2] for j in range(4)])
    ]


def _of_kernel(kernel: Float[Array, "3 3 I O"]) -> list[Float[Array, "I O"]]:
    def stretched(g: Array) -> list[Array]:
        ends, middle = (g[0] + g[2]) / 2, g[1] / 2
        return [g[0], ends + middle, ends - middle, g[2]]

    return [weights for row in stretched(kernel) for weights in stretched(row)]


def _four(d: Sequence[Array]) -> list[Array]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _pair(m: Sequence[Array]) -> list[Array]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _winograd(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = kept
    turned, tiles = _of_kernel(kernel[::-1, ::-1]), _tiles(x)

    def to_pixels(kernel: Array) -> Array:
        return _from_products(tiles, _of_kernel(kernel), "bhwi,io->bhwo")

    (of_kernel,) = jax.linear_transpose(to_pixels, kernel)(gradient)
    return _from_products(_tiles(gradient), turned, "bhwo,io->bhwi"), of_kernel


_winograd.defvjp(_forward, _backward)
