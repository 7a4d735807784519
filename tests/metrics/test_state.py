import numpy as np
import pytest

from brushjax.metrics.state import Mean, Moments


def test_mean_ignores_and_counts_undefined_values():
    state = Mean.of([1.0, np.nan, 4.0])
    assert (state.compute(), state.count, state.undefined) == (2.5, 2, 1)


def test_mean_of_nothing_is_nan_and_merges_as_identity():
    assert np.isnan(Mean.empty().compute())
    assert Mean.empty().merge(Mean.of([3.0])) == Mean.of([3.0])


def test_mean_of_infinities_of_both_signs_is_undefined():
    assert np.isnan(Mean.of([1.0, np.inf, -np.inf]).compute())
    assert Mean.of([1.0, -np.inf]).compute() == -np.inf


def test_moments_merge_like_one_batch():
    rows = np.random.default_rng(0).normal(1e4, 1e-2, (50, 3))  # a large offset shows cancellation
    merged = Moments.empty(3)
    for part in np.split(rows, [7, 7, 30]):
        merged = merged.merge(Moments.of(part))
    mean, spread = merged.compute()
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(spread, rows.std(axis=0), rtol=1e-8)


def test_moments_of_nothing_are_undefined_and_one_row_has_no_spread():
    assert np.isnan(Moments.empty(2).merge(Moments.empty(2)).compute()[0]).all()
    mean, spread = Moments.of([[2.0, 5.0]]).compute()
    assert mean.tolist() == [2.0, 5.0]
    assert spread.tolist() == [0.0, 0.0]


def test_moments_refuse_a_vector():
    with pytest.raises(ValueError, match="expected rows"):
        Moments.of([1.0, 2.0])
