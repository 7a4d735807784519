"""The fused attention kernel of TPUs, cut over a mesh."""

from __future__ import annotations

import functools
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from brushjax.nn.execution import cut_over, execution

TILE = 128  # lanes of a TPU's registers: the kernel's blocks are multiples of it
LONG = 1024  # from here on all scores at once cost more memory than the kernel's blocks
WIDE = 256  # features of a head: beyond it (an autoencoder's single head) blocks outgrow the cache
BLOCKS = (512, 256, 128)  # rows or columns of scores held at once, largest first


def fits_splash(q: Array, k: Array) -> bool:
    """Returns whether the kernel takes queries and keys [B, L, K, D] of these shapes and is worth
    it: both long, no padding needed, heads not too wide."""
    lengths = (q.shape[1], k.shape[1])
    fits = all(length % TILE == 0 for length in lengths) and q.shape[-1] <= WIDE
    return fits and min(lengths) >= LONG


def splash(
    q: Float[Array, "B L K D"],
    k: Float[Array, "B N J D"],
    v: Float[Array, "B N J D"],
    *,
    causal: bool = False,
    scale: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B L K D"]:
    """Returns softmax(scale q k^T) v for every head without ever holding all scores.

    The compiler can't divide a hand-written kernel, so that on the mesh of `brushjax.nn.execution`
    every device runs it on its own samples and, where there are too few of them for a tensor axis,
    on its own heads.

    Args:
      causal: a query sees no key behind its own place.
      scale: D^-0.5 when not given.
      interpret: runs the kernel step by step on any platform, for tests.
    Raises:
      ValueError: for lengths that are no multiples of 128.
    """
    if q.shape[1] % TILE or k.shape[1] % TILE:
        raise ValueError(
            f"expected lengths that are multiples of {TILE} for the splash kernel, got "
            f"{q.shape[1]} queries and {k.shape[1]} keys; use the chunked implementation"
        )

    factor = q.shape[-1] ** -0.5 if scale is None else scale

    def attend(q: Array, k: Array, v: Array) -> Array:
        kernel = _kernel(q.shape[2], q.shape[1], k.shape[1], causal, interpret)
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q * factor, k, v))
        return jax.vmap(kernel)(q, k, v).transpose(0, 2, 1, 3)

    mesh = execution().mesh
    by_hand = jax.sharding.get_abstract_mesh().manual_axes  # of a caller that cut the batch already
    if mesh is None or mesh.size == 1 or by_hand:
        return attend(q, k, v)
    cut = cut_over("samples", len(q))
    # Heads of keys divide those of queries, so that what divides them divides both.
    by_heads = "tensor" not in cut and k.shape[2] % mesh.shape["tensor"] == 0
    layout = PartitionSpec(cut or None, None, "tensor" if by_heads else None, None)
    return jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(layout,) * 3,
        out_specs=layout,
        check_vma=False,  # Pallas results carry no record of the axes they vary over
    )(q, k, v)


def _kernel(heads: int, queries: int, keys: int, causal: bool, interpret: bool) -> Any:
    """Builds the kernel of one sample, forward and backward."""
    # Imported late: it belongs to Pallas, which takes a second to load and only TPUs run it.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    rows, columns = _block(queries), _block(keys)
    blocks = kernels.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    mask = (masks.CausalMask if causal else masks.FullMask)((queries, keys))
    return kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=blocks,
        interpret=interpret,
    )


@functools.cache
def _block(length: int) -> int:
    return next(block for block in BLOCKS if length % block == 0)
