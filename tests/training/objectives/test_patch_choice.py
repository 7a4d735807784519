"""What patches choose among texts: restated in float64, and its one way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.training.objectives.contrastive import LEAST, SURENESS, patch_choice

# Of three things; the third is named by no text alone, and the last text names two.
NAMED = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]], np.uint8)
SHOWN = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]], np.uint8)


def restated(scores, shown):
    """The loss of one picture, patch by patch and thing by thing."""
    shares = np.zeros((len(scores), 3))
    for n, row in enumerate(scores):
        weights = np.exp(row[:3] - row[:3].max())  # the fourth names two things
        weights /= weights.sum()
        shares[n] = weights[0] + weights[2], weights[1], 0
    things = np.flatnonzero(shown)
    allowed = [np.log(sum(row[thing] for thing in things) + LEAST) for row in shares]
    found = [
        np.log(np.mean([(row[thing] + LEAST) ** SURENESS for row in shares])) / SURENESS
        for thing in things
    ]
    return -np.mean(allowed) - np.mean(found)


def test_patch_choice_is_as_restated_in_float64():
    scores = np.random.default_rng(0).normal(0, 3, (3, 5, 4))
    with jax.enable_x64(True):
        found = np.asarray(patch_choice(*(jnp.asarray(x) for x in (scores, SHOWN, NAMED))))
    assert found.dtype == np.float64
    expected = [restated(scores[k], SHOWN[k]) for k in (0, 1)]
    np.testing.assert_allclose(found[:2], expected, rtol=1e-9)
    assert found[2] == 0  # a thing of this picture has no text of its own: it says nothing


def test_patch_choice_wants_each_thing_somewhere_and_nothing_else_anywhere():
    shown, strength = SHOWN[1:2], 20.0
    sure = strength * np.eye(4)[[0, 0, 1, 1]]  # two patches a thing
    torn = strength * np.eye(4)[[0, 0, 0, 0]] + strength * np.eye(4)[[1, 1, 1, 1]]
    one = strength * np.eye(4)[[0, 0, 0, 0]]

    def loss(scores, shown):
        return float(patch_choice(*(jnp.asarray(x) for x in (scores[None], shown, NAMED)))[0])

    assert loss(sure, shown) < loss(torn, shown) < loss(one, shown)
    assert loss(one, SHOWN[:1]) == pytest.approx(0, abs=1e-4)
    assert loss(sure, SHOWN[:1]) > 5  # half the patches name what the caption doesn't
