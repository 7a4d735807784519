"""Sinusoidal embeddings of scalars and the small MLP behind them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Num

from brushjax.nn.layers import Rngs, linear


def sinusoid(
    values: Num[Array, " N"],
    width: int,
    *,
    cosine_first: bool = True,
    shift: int | float = 0.0,
    dtype: jnp.dtype | type = jnp.float32,
) -> Float[Array, "N D"]:
    """Returns the sines and cosines of `values` at `width // 2` frequencies from 1 down to 1/10000.

    Args:
      values: timesteps or sizes, any scale.
      cosine_first: cosines in the first half (`flip_sin_to_cos` of the published configs).
      shift: subtracted from the number of frequencies in the exponent's denominator (`freq_shift`).
      dtype: computed in at least float32, returned in this.

    Source: Attention Is All You Need, section 3.5; diffusers `get_timestep_embedding`.
    """
    precise = jnp.promote_types(dtype, jnp.float32)
    half = width // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / (half - shift))
    angles = values.astype(precise)[:, None] * jnp.asarray(frequencies, precise)  # [N, D/2]
    parts = (jnp.cos(angles), jnp.sin(angles))
    return jnp.concatenate(parts if cosine_first else parts[::-1], axis=-1).astype(dtype)


class TimestepEmbedding(nnx.Module):
    """Two linear layers with a SiLU between them."""

    def __init__(self, width_in: int, width: int, *, rngs: Rngs):
        self.linear_1 = linear(width_in, width, rngs=rngs)
        self.linear_2 = linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "B C"]) -> Float[Array, "B D"]:
        return self.linear_2(jax.nn.silu(self.linear_1(x)))
