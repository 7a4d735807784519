"""Autoencoders compute in float32 where half precision would not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from brushjax.inference.inpaint import Inpainter
from brushjax.models.vae import VAEConfig, in_working_dtype, working_dtype
from tests.inference.conftest import SD15_SCHEDULER


@pytest.mark.parametrize(
    ("dtype", "force_upcast", "expected"),
    [
        ("float16", False, "float32"),
        ("float16", True, "float32"),
        ("bfloat16", True, "float32"),
        ("bfloat16", False, "bfloat16"),
        ("float32", True, "float32"),
        ("float64", True, "float64"),
    ],
)
def test_an_autoencoder_computes_in_float32_where_half_would_not_do(dtype, force_upcast, expected):
    assert working_dtype(dtype, force_upcast) == jnp.dtype(expected)
    cast = in_working_dtype({"a": jnp.ones(2, "bfloat16")}, VAEConfig(force_upcast=force_upcast))
    assert cast["a"].dtype == working_dtype("bfloat16", force_upcast)


def test_force_upcast_is_read_from_a_config_and_written_again():
    config = VAEConfig.from_dict({**VAEConfig().to_dict(), "force_upcast": True})
    assert config.force_upcast
    assert config.to_dict()["force_upcast"] is True


def test_activations_beyond_float16_leave_no_black_hole(parts):
    graph, state = nnx.split(parts["vae"])
    vae = nnx.to_pure_dict(state)
    first = jax.tree.map(lambda x: x * 3e5, vae["decoder"]["conv_in"])  # the next norm cancels it
    vae = {**vae, "decoder": {**vae["decoder"], "conv_in": first}}
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    mask = np.zeros((24, 32), np.uint8)
    mask[8:16, 8:24] = 255
    found = {}
    for dtype in (jnp.float32, jnp.float16):
        networks = {name: parts[name] for name in ("unet", "brushnet")}
        cast = {name: _cast(network, dtype) for name, network in networks.items()}
        painter = Inpainter.from_parts(**cast, vae=nnx.merge(graph, vae), scheduler=SD15_SCHEDULER)
        context = np.zeros((1, 77, 16), np.float32)
        result = painter(image, mask, steps=2, guidance=1, context=context, blend="paste")
        found[dtype] = result.images[0][mask > 0].astype(int)
    assert found[jnp.float16].max() > 3
    assert np.abs(found[jnp.float16] - found[jnp.float32]).mean() < 8


def _cast(network, dtype):
    graph, state = nnx.split(network)
    return nnx.merge(graph, jax.tree.map(lambda x: x.astype(dtype), nnx.to_pure_dict(state)))
