"""The rule for batches of different size."""

import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.nn import broadcast_batch, plus, repeated


def test_copies_of_a_sample_lie_next_to_each_other():
    x = jnp.arange(4.0).reshape(2, 2)
    np.testing.assert_array_equal(repeated(x, 4), [[0, 1], [0, 1], [2, 3], [2, 3]])
    assert repeated(x, 2) is x
    small, large = broadcast_batch(x, jnp.zeros((6, 3)))
    assert (small.shape, large.shape) == ((6, 2), (6, 3))
    np.testing.assert_array_equal(plus(jnp.ones((1, 2)), x), x + 1)
    np.testing.assert_array_equal(plus(jnp.zeros((4, 2)), x), repeated(x, 4))


def test_batches_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="expected a batch that 2 divides, got 3"):
        plus(jnp.zeros((2, 1)), jnp.zeros((3, 1)))
