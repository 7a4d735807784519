"""Several training sets as one, in fixed shares."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from brushjax.config import ConfigError
from brushjax.data.faults import FAULTS, to_row
from brushjax.data.feed import Feed, stacked
from brushjax.data.schema import Encode

BLOCK = 1000  # positions within which the shares hold exactly, but for rounding


@dataclasses.dataclass(frozen=True)
class Part:
    """One training set of a mixture.

    Attributes:
      data: of any kind that has `source`.
      share: of the samples, relative to the other parts'.
    """

    data: Any
    share: float | int = 1.0


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Samples of several sets, each set in its own order, in an order drawn from the seed.

    Which set a position takes its sample from, and which of the set's samples, depends on the
    position alone: a run goes on where it was from one number, whatever the hosts and workers. An
    objective's `encode` has to give the same arrays for the records of every part.

    Attributes:
      parts: at least one.
      seed: of the order of the sets.
      workers: processes that prepare batches, a host; 0 leaves it to threads.
      threads: that prepare batches, in each process.
      ahead: batches that each process prepares early.
    """

    parts: tuple[Part, ...]
    seed: int = 0
    workers: int = 0
    threads: int = 2
    ahead: int = 4
    pool: ClassVar[int] = 0
    FREE: ClassVar[tuple[str, ...]] = ("workers", "threads", "ahead")

    def __post_init__(self) -> None:
        if not self.parts or any(not part.share > 0 for part in self.parts):
            raise ConfigError(f"expected parts with shares above 0, got {self.parts}")

    @property
    def shapes(self) -> Any:
        """The first part's `shapes`: what a sample is made of, for data that are not here.

        Raises: AttributeError if it has none.
        """
        return self.parts[0].data.shapes

    def source(self, encode: Encode) -> Mixed:
        """Returns the samples by position."""
        return Mixed(self, encode)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of this host's parts of the batches."""
        samples = self.source(encode)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)


class Mixed:
    """The samples of a Mixture by position; a sample's "id" tells its set and its id there."""

    def __init__(self, config: Mixture, encode: Encode):
        self._config = config
        self._sources = [part.data.source(encode) for part in config.parts]
        self._counts = counts(tuple(part.share for part in config.parts))

    def __len__(self) -> int:
        return min(len(source) for source in self._sources)

    def __getitem__(self, position: int) -> dict[str, Any]:
        batch = self.batch([int(position)])
        return {name: array[0] for name, array in batch.items() if name != FAULTS}

    @property
    def faults(self) -> dict[str, int]:
        """{cause: count} of all sets together."""
        total: dict[str, int] = {}
        for source in self._sources:
            for cause, count in getattr(source, "faults", {}).items():
                total[cause] = total.get(cause, 0) + count
        return total

    def place(self, position: int) -> tuple[int, int]:
        """Returns (set, position within it) of a position."""
        block, within = divmod(position, BLOCK)
        order = _order(self._counts, self._config.seed, block)
        which = int(order[within])
        return which, block * self._counts[which] + int((order[:within] == which).sum())

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples at these positions, and the faults that were met."""
        rows = []
        for position in numbers:
            which, number = self.place(position)
            source = self._sources[which]
            if hasattr(source, "batch"):
                sample = {name: array[0] for name, array in source.batch([number]).items()}
            else:
                sample = dict(source[number])
            sample["id"] = np.int64(int(sample["id"]) * len(self._sources) + which)
            rows.append({FAULTS: to_row(()), **sample})
        return stacked(rows)

    def received(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Counts the faults that a batch brought, each in its own set.

        Raises: TooManyFaults if a set's share of them has grown too large.
        """
        which = batch["id"] % len(self._sources)
        for n, source in enumerate(self._sources):
            own = {name: array[which == n] for name, array in batch.items()}
            if len(own["id"]) and hasattr(source, "received"):
                source.received(own)
        return {name: array for name, array in batch.items() if name != FAULTS}


def counts(shares: Sequence[float | int]) -> tuple[int, ...]:
    """Returns how many positions of a block each set gets: at least one, and as near to its share
    as whole numbers allow."""
    exact = np.array(shares, np.float64) / np.sum(shares) * BLOCK
    whole = np.maximum(np.floor(exact), 1).astype(int)
    for n in np.argsort(whole - exact)[: max(BLOCK - int(whole.sum()), 0)]:
        whole[n] += 1
    whole[np.argmax(whole)] -= whole.sum() - BLOCK
    return tuple(whole.tolist())


@functools.lru_cache(maxsize=64)
def _order(counts: tuple[int, ...], seed: int, block: int) -> np.ndarray:
    """Which set each position of a block takes its sample from."""
    sets = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng((seed, block)).permutation(sets)
