"""The order of samples: a new permutation every epoch, known without keeping one."""

from __future__ import annotations

import functools
from typing import Any


@functools.lru_cache(maxsize=8)
def shuffled(length: int, seed: int) -> Any:
    """Returns the numbers 0 to length - 1 in a random order, then in another, without end.

    By position: element p belongs to epoch p // length, and depends on p, length and seed alone.
    """
    import grain  # a second of start-up that only a training run pays

    return grain.MapDataset.range(length).seed(seed).shuffle().repeat()
