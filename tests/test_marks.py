"""A test is heavy or slow, never both."""

from types import SimpleNamespace

import pytest

from tests.marks import refuse_both


def item(name, *marks):
    return SimpleNamespace(
        nodeid=name, iter_markers=lambda: [getattr(pytest.mark, m) for m in marks]
    )


def test_marks_heavy_and_slow_exclude_each_other():
    alone = [item("a", "heavy", "torch"), item("b", "slow"), item("c")]
    refuse_both(alone)
    with pytest.raises(pytest.UsageError, match="expected heavy or slow, got both: d"):
        refuse_both([*alone, item("d", "slow", "heavy")])
