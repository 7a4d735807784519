"""Batches of samples that are addressed by number, for one host of many.

Batch k of a run holds samples k B to (k + 1) B - 1 whatever the number of hosts and workers; each
host makes the part that its devices need. So where a run stands is one number.
"""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import resource_tracker
from typing import Any, Protocol, runtime_checkable

import numpy as np

ENDLESS = 1 << 40  # batches: no run gets there
UNLIMITED = 1 << 40  # samples of a source without a pool


@runtime_checkable
class Numbered(Protocol):
    """Samples by number, without end."""

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples of these numbers, stacked."""
        ...

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Takes note, in the training process, of what travels beside a batch; returns the rest."""
        ...


@dataclasses.dataclass(frozen=True)
class Feed:
    """An endless series of this host's parts of the batches.

    Attributes:
      samples: that are batched.
      batch_size: of this host's part.
      shard: (index, count) of the hosts.
      workers: processes that prepare batches; 0 leaves it to threads of this process.
      threads: that prepare batches, in each process.
      ahead: batches that each process prepares early.
    Raises: ValueError if a number is out of its range.
    """

    samples: Numbered
    batch_size: int
    shard: tuple[int, int] = (0, 1)
    workers: int = 0
    threads: int = 2
    ahead: int = 4

    def __post_init__(self) -> None:
        index, count = self.shard
        if self.batch_size < 1 or not 0 <= index < count:
            raise ValueError(
                "expected batch_size >= 1 and 0 <= shard[0] < shard[1], got "
                f"{self.batch_size}, {self.shard}"
            )
        if self.workers < 0 or self.threads < 1 or self.ahead < 1:
            raise ValueError(
                "expected workers >= 0, threads >= 1 and ahead >= 1, got "
                f"{self.workers}, {self.threads}, {self.ahead}"
            )

    def __iter__(self) -> FeedIterator:
        return FeedIterator(self)


class FeedIterator(Iterator[dict[str, np.ndarray]]):
    """Iterates over a Feed. Its state says how many samples all hosts together have taken, and so
    holds for any other number of hosts, workers, or samples a batch."""

    def __init__(self, feed: Feed):
        self._feed = feed
        self._taken = 0
        self._batches: Any = None

    def __next__(self) -> dict[str, np.ndarray]:
        if self._batches is None:
            self._batches = _open(self._feed, self._taken)
        batch = next(self._batches)
        self._taken += self._feed.batch_size * self._feed.shard[1]
        return self._feed.samples.received(dict(batch))

    def get_state(self) -> dict[str, int]:
        """Returns where the run stands: the same on every host."""
        return {"samples": self._taken}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on where `get_state` was called.

        Raises: ValueError if that is no state of this kind.
        """
        taken = state.get("samples")
        if not isinstance(taken, int) or taken < 0 or len(state) != 1:
            raise ValueError(f"expected a state of {{'samples': number}}, got {dict(state)}")
        self.close()
        self._taken = taken

    def close(self) -> None:
        """Ends the threads and processes."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None


class _Parts:
    """This host's part of batch k, counted from where the run stands: a source for grain."""

    def __init__(self, feed: Feed, first: int):
        index, count = feed.shard
        self._samples, self._size = feed.samples, feed.batch_size
        self._first = first + index * feed.batch_size
        self._stride = count * feed.batch_size

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = self._first + int(index) * self._stride
        return self._samples.batch(range(start, start + self._size))


def _open(feed: Feed, first: int) -> Any:
    """Starts grain's iterator at sample `first`."""
    import grain  # a second of start-up that only a training run pays

    options = grain.ReadOptions(num_threads=feed.threads, prefetch_buffer_size=feed.ahead)
    batches = grain.MapDataset.source(_Parts(feed, first)).to_iter_dataset(options)
    if feed.workers:
        _parse_no_flags()
        _start_tracker()
        batches = batches.mp_prefetch(
            grain.multiprocessing.MultiprocessingOptions(
                num_workers=feed.workers, per_worker_buffer_size=feed.ahead
            ),
            worker_init_fn=_leave_ctrl_c,
        )
    return iter(batches)


def _leave_ctrl_c(index: int, count: int) -> None:
    """Leaves Ctrl-C, which reaches all processes of a terminal, to the one that trains."""
    del index, count
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start_tracker() -> None:
    """Starts Python's process that removes semaphores and shared memory which others left.

    It should do so without a word: a run that is stopped ends at once, and leaves it the workers'.
    """
    before = os.environ.get("PYTHONWARNINGS")
    quiet = "ignore:resource_tracker"
    os.environ["PYTHONWARNINGS"] = f"{before},{quiet}" if before else quiet
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def _parse_no_flags() -> None:
    """grain reads absl's flags when it starts processes; outside absl's own main nobody has parsed
    them."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def stacked(samples: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns samples as one batch."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}
