"""SmartEdit's Q-Former."""

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

run = jax.jit(lambda model, *inputs: model(*inputs))


@pytest.fixture(scope="module")
def golden():
    return Golden("qformer")


def test_qformer_equals_smartedit_an_empty_mask_included(golden):
    model, states, mask = golden.model(), golden["hidden_states"], golden["mask"]
    assert not np.asarray(mask[3]).any()
    assert deviation(run(model, states, mask), golden.io["output"]) <= TOLERANCE
    assert deviation(run(model, states), golden.io["output_no_mask"]) <= TOLERANCE


def test_qformer_of_gathered_states_equals_that_of_the_sequence(golden):
    ours = run(golden.model(), golden["gathered"])
    assert deviation(ours, golden.io["output_gathered"]) <= TOLERANCE
    assert deviation(ours, golden.io["output"][:3]) <= TOLERANCE


@pytest.mark.heavy
def test_qformer_gradients_equal_smartedit(golden):
    states, mask = golden["hidden_states"], golden["mask"]
    loss = lambda model: jnp.sum(model(states, mask) * golden["cotangent"])  # noqa: E731
    golden.gradients(golden.model(), loss)


def test_qformer_equals_smartedit_in_float64(golden):
    with jax.enable_x64(True):
        states = jnp.asarray(golden.io["hidden_states"], jnp.float64)
        ours = run(doubled(golden.model()), states, golden["mask"])
        assert deviation(ours, golden.io["output_float64"]) <= PRECISE


def test_full_size_qformer_has_the_published_tensors(golden):
    ours, published = full_size("qformer", {}), published_names("qformer")
    left_out = set(golden.config["ignore_keys"])
    assert len(published) == 133
    assert ours == {name: shape for name, shape in published.items() if name not in left_out}
    assert count(ours) == 65_015_040
