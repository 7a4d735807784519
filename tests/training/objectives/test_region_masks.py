"""How CLIP's supervision reaches the mask: each gradient against what it stands for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

from brushjax.models import Placement
from brushjax.training.objectives.region import RegionLosses
from brushjax.training.objectives.region_masks import (
    Composition,
    MaskPath,
    Sampler,
    bernoulli,
    mixed,
    sampled,
    through_mask,
)

PLACE = Placement(8, 2)  # 4 x 4 patches
REFUSED = (ValueError, TypeCheckError)  # annotations are checked first while tests run


def drawn(*shape, seed=0):
    """Normal values, in float64 where it is enabled."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def pictures():
    return drawn(2, 8, 8, 3, seed=1), drawn(2, 8, 8, 3, seed=2)


def judged(compose, source, donor, path):
    """A loss that is curved in every pixel, as a stand-in for CLIP."""
    weights = drawn(8, 8, 3, seed=3)

    def losses_of(mask):
        result = compose(mask, source, donor, path)
        return {"total": jnp.tanh(result * weights).sum(axis=(1, 2, 3))}

    return losses_of


def total(logits, compose, source, donor, path):
    keys = jax.random.split(jax.random.key(7), len(logits))
    return through_mask(judged(compose, source, donor, path), logits, keys, path)["total"].sum()


def differences(function, x, step=1e-5):
    """The gradient by central differences."""
    flat = np.asarray(x).reshape(-1)
    grads = []
    for i in range(flat.size):
        moved = [flat.copy(), flat.copy()]
        moved[0][i] += step
        moved[1][i] -= step
        high, low = (float(function(jnp.asarray(m.reshape(x.shape)))) for m in moved)
        grads.append((high - low) / (2 * step))
    return np.array(grads).reshape(x.shape)


def linear_sampler(steps):
    """A sampler whose model reads latents and mask, and which mixes them nonlinearly."""
    source = drawn(2, 4, 4, 3, seed=4)
    return Sampler(
        start=drawn(2, 4, 4, 3, seed=5),
        steps=steps,
        step=lambda number, z, mask: jnp.sin(z + 0.3 * mask + 0.1 * number),
        kept=lambda number: source * (1 + 0.1 * number),
    )


def decode(latents):
    return jnp.repeat(jnp.repeat(latents, 2, axis=1), 2, axis=2)


CASES = {
    "soft": MaskPath(temperature=0.7),
    "concrete": MaskPath(gradient="concrete", temperature=0.5),
    "latent": MaskPath(space="latent"),
    "online": MaskPath(space="latent", donor="online", backprop_steps=3),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient_equals_finite_differences(name):
    path = CASES[name]
    with jax.enable_x64(True):
        source, donor = pictures()
        compose = Composition(PLACE)
        if path.space == "latent":
            compose = Composition(PLACE, decode)
            source, donor = source[:, :4, :4], donor[:, :4, :4]
        if path.donor == "online":
            donor = linear_sampler(3)
        function = jax.jit(lambda logits: total(logits, compose, source, donor, path))
        logits = drawn(2, 16)
        grad = jax.jit(jax.grad(function))(logits)
        np.testing.assert_allclose(grad, differences(function, logits), rtol=1e-6, atol=1e-8)


def test_straight_through_has_the_hard_mask_and_the_slope_of_the_soft_one():
    path = MaskPath(gradient="straight-through", tau=0.3)
    with jax.enable_x64(True):
        source, donor = pictures()
        compose, logits = Composition(PLACE), drawn(2, 16)
        losses_of = judged(compose, source, donor, path)
        keys = jax.random.split(jax.random.key(0), 2)
        grad = jax.jit(jax.grad(lambda x: through_mask(losses_of, x, keys, path)["total"].sum()))(
            logits
        )
        hard = (jax.nn.sigmoid(logits) > 0.3).astype(float)
        by_mask = jax.jit(jax.grad(lambda mask: losses_of(mask)["total"].sum()))
        probability = jax.nn.sigmoid(logits)
        expected = by_mask(hard) * probability * (1 - probability)
        np.testing.assert_allclose(grad, expected, rtol=1e-12)
        assert 0 < hard.sum() < hard.size


def test_leave_one_out_estimates_the_exact_gradient_of_the_expected_loss():
    """Over all 2^4 masks of four patches the expectation is a sum."""
    table = np.random.default_rng(0).standard_normal(16)
    logits = jnp.asarray([[0.3, -0.5, 0.1, 1.0]], jnp.float32)
    bits = jnp.asarray(np.array([[i >> b & 1 for b in range(4)] for i in range(16)]), jnp.float32)
    powers = jnp.asarray([1, 2, 4, 8])

    def expected(logits):
        probability = jax.nn.sigmoid(logits[0])
        chance = jnp.prod(jnp.where(bits > 0, probability, 1 - probability), axis=1)
        return (chance * table).sum()

    def losses_of(mask):  # no gradient flows through a look-up
        return {"total": jnp.asarray(table, jnp.float32)[(mask @ powers).astype(int)]}

    path = MaskPath(gradient="rloo", samples=8)

    def estimate(key):
        keys = jax.random.split(key, 1)
        return jax.value_and_grad(
            lambda logits: through_mask(losses_of, logits, keys, path)["total"].sum()
        )(logits)

    values, grads = jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(1), 4000))
    exact, error = jax.grad(expected)(logits), grads.std(axis=0) / 4000**0.5
    assert (np.abs(grads.mean(axis=0) - exact) <= 4 * error).all()
    assert np.abs(exact / error).max() > 10  # there is something to find
    assert abs(values.mean() - expected(logits)) <= 4 * values.std() / 4000**0.5


def test_random_masks_depend_on_a_samples_own_key_alone():
    keys, logits = jax.random.split(jax.random.key(0), 3), drawn(3, 16)
    whole = bernoulli(logits, keys, 4)
    assert np.array_equal(bernoulli(logits[1:2], keys[1:2], 4)[:, 0], whole[:, 1])
    assert set(np.unique(whole)) == {0, 1}
    means = bernoulli(jnp.tile(logits[:1], (3, 1)), keys, 2000).mean(axis=(0, 1))
    np.testing.assert_allclose(means, jax.nn.sigmoid(logits[0]), atol=0.04)


def test_empty_and_full_masks_give_source_and_donor_to_the_bit():
    source, donor = pictures()
    compose, path = Composition(PLACE), MaskPath()
    assert np.array_equal(compose(jnp.zeros((2, 16)), source, donor, path), source)
    assert np.array_equal(compose(jnp.ones((2, 16)), source, donor, path), donor)


def test_outside_a_hard_mask_the_source_stays_to_the_bit():
    source, donor = pictures()
    path, logits = MaskPath(gradient="straight-through"), drawn(2, 16)
    seen = {}

    def losses_of(mask):
        seen["result"] = Composition(PLACE)(mask, source, donor, path)
        return {"total": seen["result"].sum(axis=(1, 2, 3))}

    through_mask(losses_of, logits, jax.random.split(jax.random.key(0), 2), path)
    mask = PLACE.spread((logits > 0).astype(jnp.float32), 8, 8, smooth=False)[..., 0] > 0
    assert 0 < mask.sum() < mask.size
    assert np.array_equal(seen["result"][~mask], source[~mask])
    assert np.array_equal(seen["result"][mask], donor[mask])


def test_sampler_keeps_the_source_outside_the_mask():
    with jax.enable_x64(True):
        sampler = linear_sampler(4)
        mask = (drawn(2, 4, 4, 1) > 0).astype(float)
        latents = sampled(sampler, mask, 1)
        outside = np.broadcast_to(mask == 0, latents.shape)
        np.testing.assert_allclose(latents[outside], sampler.kept(3)[outside], atol=1e-12)


def test_gradient_of_one_last_step_is_models_latents_less_the_sources():
    with jax.enable_x64(True):
        sampler = linear_sampler(4)
        blind = dataclasses.replace(sampler, step=lambda number, z, mask: jnp.sin(z + number))
        mask, weights = jax.nn.sigmoid(drawn(2, 4, 4, 1)), drawn(2, 4, 4, 3, seed=6)
        grad = jax.grad(lambda mask: (weights * sampled(blind, mask, 1)).sum())(mask)
        latents = blind.start
        for number in range(4):
            model = blind.step(number, latents, mask)
            latents = mixed(mask, model, blind.kept(number))
        expected = (weights * (model - blind.kept(3))).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(grad, expected, rtol=1e-10)


def test_mask_path_refuses_what_can_not_be_done():
    for settings in (
        {"gradient": "hard"},
        {"donor": "online"},
        {"gradient": "rloo", "samples": 1},
        {"temperature": 0.0},
    ):
        with pytest.raises(REFUSED, match=r"expected|violates type hint"):
            MaskPath(**settings)
    source, donor = pictures()
    with pytest.raises(ValueError, match="expected a decoder in latent space"):
        Composition(PLACE)(jnp.ones((2, 16)), source, donor, MaskPath(space="latent"))
    online = MaskPath(space="latent", donor="online")
    with pytest.raises(ValueError, match="expected a Sampler as the online donor"):
        Composition(PLACE, decode)(jnp.ones((2, 16)), source, donor, online)
    with pytest.raises(ValueError, match="expected 1 to 3 steps"):
        sampled(linear_sampler(3), jnp.ones((2, 4, 4, 1)), 4)


# --- a planted region


def planted(seed=0):
    """Two things A and B on one picture, C everywhere as the donor, and a random frozen encoder.

    The picture is a grid of 8 x 8 cells of 48 numbers, a patch each. Asked are both "replace B with
    C" and "replace A with C", so that finding what stands out is not enough. The texts are what
    the encoder makes of the things without noise.
    """
    rng = np.random.default_rng(seed)
    shapes = ((48, 32), (32, 24), (24, 32), (32, 24))
    weights = [jnp.asarray(rng.standard_normal(s) / s[0] ** 0.5, jnp.float32) for s in shapes]

    def see(pictures):
        patches = jnp.tanh(2 * pictures.reshape(-1, 64, 48) @ weights[0]) @ weights[1]
        return jnp.tanh(patches @ weights[2]).mean(axis=1) @ weights[3], patches

    one, two, three = rng.uniform(-1, 1, (3, 48))
    region = np.zeros((8, 8, 1), bool)
    region[2:6, 3:6] = True

    def scene(inside, outside, noise=0.0):
        cells = np.where(region, inside, outside) + noise * rng.uniform(-1, 1, (8, 8, 48))
        return jnp.asarray(cells[None], jnp.float32)

    source, donor = scene(two, one, 0.1), scene(three, three, 0.1)
    targets = jnp.concatenate([see(scene(three, one))[0], see(scene(two, three))[0]])
    return see, source, donor, see(scene(two, one))[0], targets, region.reshape(64)


def found(path, steps=400):
    """Optimises both masks' logits under eq. 10; returns the overlap of each with its region."""
    see, source, donor, source_text, targets, region = planted()
    source, donor = (jnp.tile(x, (2, 1, 1, 1)) for x in (source, donor))
    place, losses = Placement(64, 8), RegionLosses(alpha=0.0, structure=0.3)
    image, patches = see(source)
    optimizer = optax.adam(0.1)

    def losses_of(mask):
        cells = place.spread(mask, 8, 8, smooth=path.smooth)
        result = see(mixed(cells, donor, source))
        return losses(
            semantic_edited=targets,
            semantic_original=targets,
            source_text=jnp.tile(source_text, (2, 1)),
            target_text=targets,
            source_image=image,
            result_image=result[0],
            source_patches=patches,
            result_patches=result[1],
        )

    def advance(carry, key):
        logits, state = carry
        keys = jax.random.split(key, 2)
        grads = jax.grad(lambda x: through_mask(losses_of, x, keys, path)["total"].sum())(logits)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(logits, updates), state), None

    start = jnp.zeros((2, 64))
    keys = jax.random.split(jax.random.key(0), steps)
    (logits, _), _ = jax.jit(jax.lax.scan, static_argnums=0)(
        advance, (start, optimizer.init(start)), keys
    )
    masks, regions = np.asarray(logits) > 0, np.stack([region, ~region])
    return (masks & regions).sum(axis=1) / (masks | regions).sum(axis=1)


def test_planted_region_is_found_for_both_instructions_on_one_picture():
    assert (found(MaskPath()) >= 0.95).all()


@pytest.mark.slow
@pytest.mark.parametrize("gradient", ["concrete", "rloo"])
def test_planted_region_is_found_by_random_masks_too(gradient):
    """Not by straight-through, which ends with a mask of everything: 0.19 and 0.81."""
    overlaps = found(MaskPath(gradient=gradient, temperature=0.5, samples=8), steps=1200)
    assert (overlaps >= 0.95).all()
