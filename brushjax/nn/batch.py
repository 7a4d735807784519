"""One rule for batches of different size: what two samples share is computed once and repeated
where it meets what they don't."""

import jax.numpy as jnp
from jaxtyping import Array


def repeated(x: Array, batch: int) -> Array:
    """Repeats every sample of `x` until the batch has `batch` of them.

    The copies of a sample lie next to each other, so that a batch that is cut over devices grows
    where it is.

    Raises:
      ValueError: if `batch` is no multiple of the batch of `x`.
    """
    if batch % len(x):
        raise ValueError(f"expected a batch that {len(x)} divides, got {batch}")
    return x if len(x) == batch else jnp.repeat(x, batch // len(x), axis=0)


def broadcast_batch(*arrays: Array) -> tuple[Array, ...]:
    """Repeats the samples of the smaller arrays until all have one batch size."""
    batch = max(len(x) for x in arrays)
    return tuple(repeated(x, batch) for x in arrays)


def plus(x: Array, y: Array) -> Array:
    """Returns the sum of two arrays, either of which may hold what several samples share."""
    x, y = broadcast_batch(x, y)
    return x + y
