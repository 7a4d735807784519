import numpy as np
import pytest

from brushjax.metrics.bootstrap import Bootstrap


def test_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(0).normal(5, 2, 400)
    interval = Bootstrap().mean(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert interval.value == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert interval.count == 400


def test_reduction_is_paired():
    before = np.random.default_rng(0).uniform(1, 10, 64)
    interval = Bootstrap().reduction(before, 0.6 * before)
    # Every sample falls by exactly 40 %, so however it is drawn there is no doubt about it.
    assert (interval.low, interval.value, interval.high) == pytest.approx((0.4, 0.4, 0.4))
    shuffled = Bootstrap().reduction(before, 0.6 * before[::-1])
    assert shuffled.value == pytest.approx(0.4)
    assert shuffled.high - shuffled.low > 0.1


def test_difference_has_its_sign():
    interval = Bootstrap().difference([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (interval.low, interval.value, interval.high) == pytest.approx((1.0, 1.0, 1.0))


def test_same_seed_same_interval_other_seed_other_interval():
    values = np.arange(20.0) ** 2
    assert Bootstrap(seed=1).mean(values) == Bootstrap(seed=1).mean(values)
    assert Bootstrap(seed=1).mean(values) != Bootstrap(seed=2).mean(values)


def test_clusters_widen_the_interval_of_samples_that_are_alike():
    values = np.repeat(np.arange(8.0), 16)
    names = np.repeat(list("abcdefgh"), 16)
    alone, clustered = Bootstrap().mean(values), Bootstrap().mean(values, names)
    assert clustered.value == alone.value == 3.5
    assert clustered.high - clustered.low > 3 * (alone.high - alone.low)


def test_undefined_pairs_are_left_out():
    interval = Bootstrap().reduction([2.0, np.nan, 4.0, 6.0], [1.0, 1.0, np.nan, 3.0])
    assert (interval.value, interval.count) == (0.5, 2)
    assert np.isnan(Bootstrap().mean([np.nan]).value)


@pytest.mark.parametrize("names", [[0], [0, 0, 0]])
def test_a_single_sample_or_cluster_has_a_value_and_no_interval(names):
    before, after = np.arange(1.0, len(names) + 1), np.arange(2.0, len(names) + 2)
    for interval in (
        Bootstrap().mean(after, names),
        Bootstrap().difference(before, after, names),
    ):
        assert np.isfinite(interval.value)
        assert np.isnan([interval.low, interval.high]).all()
    assert np.isnan(Bootstrap().reduction(before, after, names).value)


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="one length"):
        Bootstrap().difference([1.0, 2.0], [1.0])
