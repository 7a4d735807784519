"""SD1.5 at full size against PyTorch: `pytest -m slow tests/models`, minutes and 8 GB."""

import pytest

from benchmarks.full_size import compare


@pytest.mark.slow
@pytest.mark.torch
def test_full_size_forward_equals_torch():
    result = compare(size=32, repeats=1)
    assert len(result["maps"]) == 28
    assert result["output"] <= 1e-4
    assert max(result["maps"]) <= 1e-4
