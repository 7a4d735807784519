"""Losses against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.diffusion import losses


def test_prediction_loss_is_the_float32_mean_square():
    prediction = jnp.full((2, 4, 4, 4), 1.0, jnp.bfloat16)
    target = jnp.full((2, 4, 4, 4), 1.0078125 + 0.0078125, jnp.bfloat16)
    loss = losses.prediction_loss(prediction, target)
    assert loss.dtype == jnp.float32
    assert loss == pytest.approx(0.015625**2)  # squares to 2.4e-4 exactly only above bfloat16


def test_prediction_loss_refuses_a_broadcast():
    with pytest.raises(ValueError, match=r"expected the target's shape \(2, 4\).*got \(1, 4\)"):
        losses.prediction_errors.__wrapped__(jnp.ones((1, 4)), jnp.ones((2, 4)))


@pytest.mark.torch
def test_kl_equals_torch():
    import torch

    random = np.random.default_rng(0)
    mean, logvar = random.standard_normal((2, 3, 2, 2, 4)).astype(np.float32)
    ours = losses.kl_to_standard_normal(jnp.asarray(mean), jnp.asarray(logvar))
    normal = torch.distributions.Normal
    theirs = torch.distributions.kl_divergence(
        normal(torch.from_numpy(mean), torch.from_numpy(np.exp(0.5 * logvar))), normal(0.0, 1.0)
    ).sum((1, 2, 3))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def test_quarters_split_errors_by_timestep_and_add_up_over_batches():
    errors, time = jnp.array([1.0, 2.0, 4.0, 8.0, 16.0]), jnp.array([0, 249, 250, 750, 999])
    sums, counts = losses.timestep_quarters(errors, time, 1000)
    np.testing.assert_array_equal(sums, [3, 4, 0, 24])
    np.testing.assert_array_equal(counts, [2, 1, 0, 2])
    halves = [losses.timestep_quarters(errors[s], time[s], 1000) for s in (slice(2), slice(2, 5))]
    np.testing.assert_array_equal(halves[0][0] + halves[1][0], sums)
