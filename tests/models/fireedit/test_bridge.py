"""Groma's adapter between vision transformer and language model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.fireedit.golden import (
    PRECISE,
    TOLERANCE,
    Golden,
    count,
    deviation,
    doubled,
    full_size,
    published_names,
)


@pytest.fixture(scope="module")
def golden():
    return Golden("bridge")


def test_bridge_equals_groma(golden):
    tokens = golden["dino_last_hidden"][:, 1:]
    model = golden.model()
    np.testing.assert_array_equal(model.merged(tokens), golden.io["merged"])
    assert deviation(model(tokens), golden.io["image_tokens"]) <= TOLERANCE
    golden.gradients(model, lambda model: jnp.sum(model(tokens) * golden["cotangent"]))


def test_bridge_equals_groma_in_float64(golden):
    with jax.enable_x64(True):
        tokens = jnp.asarray(golden.io["dino_last_hidden"], jnp.float64)[:, 1:]
        ours = doubled(golden.model())(tokens)
        assert deviation(ours, golden.io["image_tokens_float64"]) <= PRECISE


def test_bridge_puts_every_patch_in_its_place(golden):
    """Patch (r, c) lands in token (r // 2) * half + c // 2, slot (c % 2) * 2 + r % 2."""
    channels, side = golden.config["vision_dim"], 6
    numbers = jnp.arange(side**2, dtype=jnp.float32)
    tokens = jnp.broadcast_to(numbers[None, :, None], (1, side**2, channels))
    merged = golden.model().merged(tokens)[0, :, ::channels]  # [M, 4]
    for number in range(side**2):
        r, c = divmod(number, side)
        assert merged[(r // 2) * (side // 2) + c // 2, (c % 2) * 2 + r % 2] == number


def test_bridge_of_equal_patches_gives_equal_tokens(golden):
    model, channels = golden.model(), golden.config["vision_dim"]
    tokens = model(jnp.broadcast_to(jnp.linspace(-1, 1, channels), (1, 36, channels)))[0]
    assert tokens.shape[0] == 9
    np.testing.assert_allclose(tokens, jnp.broadcast_to(tokens[0], tokens.shape), atol=1e-6)


def test_bridge_refuses_patches_that_make_no_square_or_keep_the_class_token(golden):
    for patches in (64 + 1, 9):
        with pytest.raises(ValueError, match=f"square of patches.*got {patches} patches"):
            golden.model()(jnp.zeros((1, patches, golden.config["vision_dim"])))


def test_full_size_bridge_has_the_published_tensors():
    ours = full_size("bridge", {})
    assert ours == published_names("bridge")
    assert count(ours) == 33_562_624
