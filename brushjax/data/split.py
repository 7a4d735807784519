"""Samples that are held out of training, chosen by a hash of their names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from brushjax.config import ConfigError
from brushjax.identity import digest

Split = Literal["all", "train", "held_out"]


def part(numbers: np.ndarray, name: Callable[[int], str], split: Split, share: float) -> np.ndarray:
    """Returns the samples of a split, in their order.

    Those with the smallest hashes are held out, whatever the order of the files: one at least, and
    never all.

    Args:
      numbers: of the samples.
      name: of a sample, the same wherever the data lie.
      share: of the samples that are held out.
    Raises: ConfigError if there are too few to hold one out.
    """
    if split == "all":
        return numbers
    if len(numbers) < 2:
        raise ConfigError(
            f"expected two samples or more, to hold one out; got {len(numbers)}. Give more, or "
            'train on all: split "all" and no validation'
        )
    count = min(max(1, round(share * len(numbers))), len(numbers) - 1)
    ranks = np.argsort([digest(name(int(n))) for n in numbers], kind="stable")
    held_out = np.zeros(len(numbers), bool)
    held_out[ranks[:count]] = True
    return numbers[held_out if split == "held_out" else ~held_out]


def told(split: Split, mine: int, of: int) -> str:
    """Says how many of the samples that can be used are in a split, and what for."""
    if split == "held_out":
        return f"{mine} held out, which no step trains on"
    others = f", {of - mine} held out for validation and samples" if split == "train" else ""
    return f"{mine} to train on{others}"
