"""Bringing arguments to one batch, and the branch's range."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brushjax.inference.engine.batch import (
    as_list,
    batch_seeds,
    batch_size,
    by_groups,
    control_scales,
    repeated,
)
from brushjax.sharding import make_mesh

GOLDEN = Path(__file__).parents[2] / "golden/tiny_sd15_pipeline/io.npz"


def test_control_scales_equal_the_reference():
    stored = np.load(GOLDEN)["unipc_mode_partial/cond_scales"]
    np.testing.assert_allclose(control_scales(5, 0.7, 0.2, 0.8), stored, rtol=1e-7)
    np.testing.assert_array_equal(control_scales(3, 1, 0.0, 1.0), [1, 1, 1])


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1.0), (0.0, 1.1), (0.5, 0.5), (0.8, 0.2)])
def test_control_scales_refuse_an_empty_or_outlying_range(start, end):
    with pytest.raises(ValueError, match="expected 0 <= control_start < control_end <= 1"):
        control_scales(5, 1.0, start, end)


def test_batches_grow_from_single_values():
    picture = np.zeros((2, 8, 8, 3), np.uint8)
    assert len(as_list(picture)) == 2
    assert len(as_list(picture[0])) == 1
    assert batch_size({"image": 1, "seed": 3}) == 3
    assert repeated(["a"], 3) == ["a", "a", "a"]
    assert repeated(np.ones((1, 2)), 3).shape == (3, 2)


def test_batches_refuse_lengths_that_do_not_fit():
    for lengths in ({"image": 2, "seed": 3}, {"image": 2, "prompt": 0}):
        with pytest.raises(ValueError, match="expected every argument once or"):
            batch_size(lengths)


def test_one_seed_counts_up_over_the_batch():
    np.testing.assert_array_equal(batch_seeds([5], 3), [5, 6, 7])
    np.testing.assert_array_equal(batch_seeds([9, 9], 2), [9, 9])
    for seeds in ([-1], [2**32]):
        with pytest.raises(ValueError, match=r"expected seeds in 0\.\.4294967295"):
            batch_seeds(seeds, 1)
    with pytest.raises(TypeError):
        batch_seeds([0.5], 1)


@pytest.mark.parametrize("devices", [0, 2, 8])
@pytest.mark.parametrize("size", [1, 2])
def test_groups_run_one_after_the_other_on_every_device(devices, size):
    seen = []

    def run(batch):
        seen.append(batch["x"].shape)
        return batch["x"].sum(axis=1) + offset, batch["x"] * 2

    mesh = make_mesh(devices=jax.devices()[:devices]) if devices else None
    x, offset = np.arange(48, dtype=np.float32).reshape(16, 3), jnp.float32(5)
    sums, doubled = jax.jit(lambda x: by_groups(run, {"x": x}, size, mesh))(x)
    assert set(seen) == {(size, 3)}
    np.testing.assert_array_equal(sums, x.sum(axis=1) + 5)
    np.testing.assert_array_equal(doubled, 2 * x)
