"""Which marks may not stand together."""

import pytest


def refuse_both(items):
    """Refuses a test that is heavy and slow: CI runs the ones, and leaves out the others."""
    names = ((item.nodeid, {mark.name for mark in item.iter_markers()}) for item in items)
    both = [name for name, marks in names if {"heavy", "slow"} <= marks]
    if both:
        raise pytest.UsageError(f"expected heavy or slow, got both: {', '.join(both)}")
