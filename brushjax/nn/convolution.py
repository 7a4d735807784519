"""Convolution as a matrix product, where a CPU would work on the kernel more than on the pixels."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brushjax.nn.execution import execution


def convolve(
    x: Float[Array, "B H W I"],
    kernel: Float[Array, "k l I O"],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    **options: Any,
) -> Float[Array, "B h w O"]:
    """Convolves like `jax.lax.conv_general_dilated`, whose arguments it takes, without dilation.

    XLA on a CPU lays a kernel out anew before it convolves, and for the input's gradient turns it
    round as well. Where the output has fewer pixels than channels, that costs more than the sums
    do: there each pixel's neighbours are laid side by side, for one product with the kernel as it
    stands. So it is for kernels of one pixel. Values differ by rounding.
    """
    size = kernel.shape[:2]
    padded = [n + sum(pad) for n, pad in zip(x.shape[1:3], padding)]
    height, width = ((n - k) // step + 1 for n, k, step in zip(padded, size, strides))
    pixels = len(x) * height * width
    if execution().platform != "cpu" or (size != (1, 1) and pixels > kernel.shape[-1]):
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
