"""The order of samples: a new permutation every epoch, the same wherever it is computed."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

SHORT = 1 << 16  # up to this length a permutation is kept; longer ones are computed by element
LONGEST = 1 << 31  # that grain's index_shuffle is made for


@dataclass(frozen=True)
class Order:
    """The numbers 0 to length - 1 in a random order, then in another, without end.

    Element p belongs to epoch p // length, and depends on p, length and seed alone.

    Raises: ValueError if there are no numbers, or more than the permutation is made for.
    """

    length: int
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.length < LONGEST:
            raise ValueError(f"expected 1 to {LONGEST} samples, got {self.length}")

    def __getitem__(self, position: int) -> int:
        epoch, within = divmod(position, self.length)
        if self.length <= SHORT:
            return int(_permutation(self.length, self.seed, epoch)[within])
        from grain.experimental import index_shuffle  # start-up that only a training run pays

        # Below SHORT it would be slow: it permutes 2^16 numbers and skips those that are too large.
        seed = (_spread(self.seed) + epoch) % (1 << 32)
        return index_shuffle(within, max_index=self.length - 1, seed=seed, rounds=4)


@functools.lru_cache(maxsize=8)
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(length)


@functools.cache
def _spread(seed: int) -> int:
    """A seed far from its neighbours': else one run's second epoch were another's first."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])
