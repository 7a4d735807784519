"""Run lengths: both orders, both first numbers, and runs that can't be."""

import numpy as np
import pytest

from brushjax.data.masks import rle


def test_rle_decodes_both_orders_and_both_first_numbers():
    runs = [2, 2, 6, 1]  # 2 x 3 mask
    row = [[0, 1, 1], [0, 0, 1]]
    column = [[0, 1, 0], [1, 0, 1]]
    for first in (0, 1):
        shifted = [r - 1 + first if i % 2 == 0 else r for i, r in enumerate(runs)]
        decoded = rle.decode(shifted, 2, 3, first=first, order="row")
        np.testing.assert_array_equal(decoded, np.array(row, bool))
        decoded = rle.decode(shifted, 2, 3, first=first, order="column")
        np.testing.assert_array_equal(decoded, np.array(column, bool))


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("first", [0, 1])
def test_rle_round_trips(order, first):
    rng = np.random.default_rng(0)
    for share in (0.0, 0.3, 0.9, 1.0):
        mask = rng.random((13, 7)) < share
        runs = rle.encode(mask, first=first, order=order)
        decoded = rle.decode(runs, 13, 7, first=first, order=order)
        np.testing.assert_array_equal(decoded, mask)
        assert decoded.flags.c_contiguous


def test_rle_runs_may_overlap_and_be_empty():
    decoded = rle.decode([1, 3, 2, 1, 6, 0], 1, 6, first=1, order="row")
    assert decoded.tolist() == [[True, True, True, False, False, False]]


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([1, 2, 5, 3], "run 1 starts at 5 and has length 3"),
        ([0, 2], "run 0 starts at 0"),
        ([3, -1], "length -1"),
        ([2**63 - 1, 5], "run 0"),
        ([1, 2, 3], "even length"),
        ([1.5, 2.0], "whole numbers"),
        ([[1, 2], [3]], "whole numbers"),
        (["1", "2"], "whole numbers"),
        ([2**70, 1], "whole numbers"),
    ],
)
def test_rle_refuses_runs_that_cannot_be(runs, said):
    with pytest.raises(ValueError, match=said):
        rle.decode(runs, 2, 3, first=1, order="row")


def test_rle_refuses_masks_without_pixels():
    with pytest.raises(ValueError, match="0 x 4"):
        rle.decode([], 0, 4, first=1, order="row")
