"""Every epoch is a permutation, unlike the one before and unlike other seeds'."""

import numpy as np
import pytest

from brushjax.data import order
from brushjax.data.order import Order


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
@pytest.mark.parametrize("computed", [False, True])
def test_every_epoch_has_each_number_once(length, computed, monkeypatch):
    if computed:
        monkeypatch.setattr(order, "SHORT", 0)
        length = min(length, 12)  # slow for short ones
    numbers = Order(length, 5)
    epochs = [[numbers[e * length + p] for p in range(length)] for e in range(3)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 2:
        assert len({tuple(epoch) for epoch in epochs}) == 3
        other = Order(length, 6)
        assert [other[p] for p in range(3 * length)] != [n for epoch in epochs for n in epoch]


def test_neighbouring_seeds_do_not_share_their_epochs():
    long = order.SHORT + 1
    first, second = Order(long, 0), Order(long, 1)
    assert [first[long + p] for p in range(20)] != [second[p] for p in range(20)]


def test_long_orders_are_spread_evenly():
    long = 3_000_000
    numbers = np.array([Order(long, 1)[p] for p in range(2000)])
    assert len(set(numbers)) == 2000
    assert numbers.mean() == pytest.approx(long / 2, rel=0.05)


def test_nothing_has_no_order():
    with pytest.raises(ValueError, match="got 0"):
        Order(0, 0)
