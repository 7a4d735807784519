"""Generators behind one interface: whatever they are, what lies outside a region stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from brushjax.pipelines.generators import Callback, Capabilities, TokenGenerator, generate, widened

CELL, LEVELS = 4, 8


def pictures():
    return np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)


def region():
    mask = np.zeros((2, 16, 24), bool)
    mask[0, 3:9, 5:14] = True
    mask[1, :, 20:] = True
    return mask


def keys():
    return jax.random.split(jax.random.key(0), 2)


def inverted(images, mask, prompts, keys, settings):
    return 255 - images


def tokens():
    """Grey levels of cells as tokens; a prompt names the level that it wants."""

    def encode(images):
        cells = images.reshape(-1, 16 // CELL, CELL, 24 // CELL, CELL * 3).mean(axis=(2, 4))
        return jnp.asarray((cells * LEVELS // 256).astype(np.int32).reshape(len(images), -1))

    def predict(tokens, prompts):
        wanted = jnp.asarray([int(prompt) for prompt in prompts])
        score = 50.0 * (jnp.arange(LEVELS) == wanted[:, None, None])
        return jnp.broadcast_to(score, (*tokens.shape, LEVELS))

    def decode(tokens):
        assert int(tokens.max()) < LEVELS  # none is left masked
        grey = np.asarray(tokens).reshape(-1, 16 // CELL, 24 // CELL, 1) * (256 // LEVELS)
        return grey.repeat(CELL, 1).repeat(CELL, 2).repeat(3, 3).astype(np.uint8)

    return TokenGenerator(encode, predict, decode, LEVELS, CELL, steps=3)


@pytest.mark.parametrize("make", [lambda: Callback(inverted), tokens])
def test_pixels_outside_the_region_are_the_sources_to_the_bit(make):
    images, mask = pictures(), region()
    result = generate(make(), images, mask, ["5", "2"], keys())
    assert result.dtype == np.uint8
    assert np.array_equal(result[~mask], images[~mask])
    assert (result[mask] != images[mask]).mean() > 0.9


def test_tokens_of_the_region_become_what_the_prompt_asks_for():
    images, mask = pictures(), region()
    result = generate(tokens(), images, mask, ["5", "2"], keys())
    assert (result[0][mask[0]] == 5 * 32).all()
    assert (result[1][mask[1]] == 2 * 32).all()


def test_tokens_outside_the_region_are_kept_before_the_blend():
    images = pictures()
    made = tokens()(images, widened(region(), CELL), ["5", "2"], keys(), None)
    plain = tokens().decode(tokens().encode(images))
    outside = ~widened(region(), CELL)
    assert np.array_equal(made[outside], plain[outside])


def test_mask_is_widened_to_whole_cells_for_the_generator_alone():
    seen = {}

    def record(images, mask, prompts, keys, settings):
        seen["mask"] = mask
        return inverted(images, mask, prompts, keys, settings)

    images, mask = pictures(), region()
    generate(Callback(record, Capabilities(granularity=5)), images, mask, ["", ""], keys())
    assert seen["mask"][0, 0:10, 5:15].all()
    assert seen["mask"][0].sum() == 100
    assert np.array_equal(widened(mask, 1), mask)


def test_generate_says_what_does_not_fit():
    images, mask = pictures(), region()
    with pytest.raises(ValueError, match="2 prompts"):
        generate(Callback(inverted), images, mask, ["one"], keys())
    smaller = Callback(lambda images, *rest: images[:, :8])
    with pytest.raises((ValueError, TypeCheckError), match=r"of the generator|violates type hint"):
        generate(smaller, images, mask, ["", ""], keys())
