"""Records of any set as training samples: in random order, faulty ones counted and replaced."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from brushjax.data.boxes import Boxes
from brushjax.data.faults import (
    ATTEMPTS,
    FAULTS,
    Fault,
    FaultCounts,
    FaultLog,
    TooManyFaults,
    as_fault,
    from_rows,
    to_row,
)
from brushjax.data.feed import UNLIMITED, Feed, stacked
from brushjax.data.order import Order
from brushjax.data.schema import Encode
from brushjax.data.sources.pictures import Picture

DRAWN, SUBSTITUTE = 0, 1  # streams of random numbers


@runtime_checkable
class Stored(Protocol):
    """Records by number."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> str:
        """Returns a description of a record, for messages."""
        ...

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> Any:
        """Returns a record with what is random about it drawn; `met` gets notes on conversions.

        Raises: Fault if it can't be used.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShuffledData:
    """Settings of training data that come as `Shuffled`; a set of its own gives `stored`.

    Attributes:
      seed: of the order and of what is drawn for a sample.
      faulty_share: largest share of unusable samples that a run tolerates.
      workers, threads, ahead: as `BrushData`'s.
    """

    FREE: ClassVar = ("faulty_share", "workers", "threads", "ahead")
    pool: ClassVar[int] = 0

    seed: int = 0
    faulty_share: float | int = 0.05
    workers: int = 0
    threads: int = 2
    ahead: int = 4

    def stored(self) -> Stored:
        """Returns the records by number; with an attribute `order`, in that one.

        Raises: FileNotFoundError if there are no data; ValueError if they have another layout.
        """
        raise NotImplementedError

    def source(self, encode: Encode) -> Shuffled:
        """Returns the samples by position; the same object for the same config.

        Raises: what `stored` raises.
        """
        return _opened(self, encode)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of this host's parts of the batches."""
        samples = self.source(encode)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)


class Pictured(Stored, Protocol):
    """Records about pictures, whose regions may have been found beforehand."""

    found: Boxes | None

    def picture(self, number: int) -> Picture:
        """Returns the picture that a record is about, as it is stored.

        Raises: Fault if it can't be used.
        """
        ...

    def regions(self, number: int) -> np.ndarray | None:
        """Returns the regions of the stored picture, float32 [n, 4]; None where none were found
        beforehand."""
        return None if self.found is None else self.found.of(number, self.name(number))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PicturedData(ShuffledData):
    """Settings of training data about pictures.

    Attributes:
      boxes: folder of the pictures' regions, as `python -m brushjax propose` writes it; empty gives
        records without.
    """

    boxes: str = ""

    def stored(self) -> Pictured:
        raise NotImplementedError

    def found(self, records: int) -> Boxes | None:
        """Returns the regions of so many records, if they were found beforehand.

        Raises: ValueError if they are not complete.
        """
        return Boxes.complete(self.boxes, records) if self.boxes else None


@functools.lru_cache(maxsize=32)
def _opened(config: ShuffledData, encode: Encode) -> Shuffled:
    stored = config.stored()
    order = getattr(stored, "order", None)
    return Shuffled(stored, encode, config.seed, config.faulty_share, order)


class Shuffled:
    """The records of a set by position, without end; each epoch in another order.

    What is drawn for a sample depends on seed, number and epoch alone. A faulty one is counted, and
    another, drawn by seed and position, takes its place.

    Args:
      order: of the numbers; None is a permutation of all of them.
      faulty_share: largest share of unusable records that a run tolerates.
    """

    def __init__(
        self,
        stored: Stored,
        encode: Encode,
        seed: int,
        faulty_share: float | int,
        order: Any = None,
    ):
        self._stored, self._encode, self._seed = stored, encode, seed
        self._order = Order(len(stored), seed) if order is None else order
        self._counts, self._log = FaultCounts(float(faulty_share)), FaultLog()

    def __len__(self) -> int:
        return UNLIMITED

    def __getitem__(self, position: int) -> dict[str, Any]:
        batch = self.batch([int(position)])
        return {name: array[0] for name, array in batch.items() if name != FAULTS}

    @property
    def faults(self) -> dict[str, int]:
        """{cause: count} of what was met."""
        return self._counts.as_dict()

    def batch(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        """Returns the samples at these positions, and the faults that were met.

        Raises: TooManyFaults if one after the other turns out faulty.
        """
        samples, rows = [], []
        for position in numbers:
            met: list[str] = []
            samples.append(dict(self._encode(self._whole(int(position), met))))
            rows.append(to_row(met))
        return {**stacked(samples), FAULTS: np.stack(rows)}

    def received(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Counts the faults that a batch brought.

        Raises: TooManyFaults if their share has grown too large.
        """
        counts = from_rows(batch.pop(FAULTS))
        self._counts.add(len(batch["id"]), counts)
        return batch

    def _whole(self, position: int, met: list[str]) -> Any:
        for number, epoch in self._candidates(position):
            rng = np.random.default_rng((self._seed, number, epoch, DRAWN))
            notes: list[str] = []
            try:
                with as_fault("failed sample"):
                    record = self._stored.record(number, rng, notes)
            except Fault as fault:
                met.append(fault.cause)
                self._log(fault.cause, self._stored.name(number), fault.found)
                continue
            met.extend(notes)
            return record
        first = "; ".join(f"{cause} in {found}" for cause, found in self._log.first.items())
        raise TooManyFaults(f"{ATTEMPTS} samples in turn can't be used, the first of each: {first}")

    def _candidates(self, position: int) -> Iterator[tuple[int, int]]:
        count = len(self._stored)
        epoch = position // count
        yield self._order[position], epoch
        rng = np.random.default_rng((self._seed, position, epoch, SUBSTITUTE))
        for _ in range(ATTEMPTS - 1):
            yield int(rng.integers(count)), epoch


def stretched(pixels: np.ndarray, size: int) -> np.ndarray:
    """Returns a picture as a square, whatever its shape: bicubic."""
    if pixels.shape[:2] == (size, size):
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def words(value: Any, what: str) -> str:
    """Returns a text.

    Raises: Fault if it is none, or empty.
    """
    if not isinstance(value, str) or not value.strip():
        raise Fault("bad caption", f"expected {what} in words, got {value!r}"[:120])
    return value.strip()


def member(row: Any, name: str) -> Any:
    """Returns an entry of a JSON object.

    Raises: Fault if there is none.
    """
    if not isinstance(row, dict) or row.get(name) is None:
        raise Fault("missing member", f"no {name}")
    return row[name]
