"""What can be wrong with a stored sample, counted by cause, so that it need not stop a run."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

log = logging.getLogger(__name__)

ATTEMPTS = 32  # substitutes for a faulty sample before all of the data must be called faulty

SKIPPED = (
    "unreadable tar",  # compressed, or no tar at all
    "truncated tar",
    "missing member",
    "unreadable member",
    "empty image",
    "broken image",
    "oversized image",
    "bad caption",
    "bad size",
    "wrong size",  # height and width are not the picture's
    "bad segmentation",
    "bad run lengths",
    "failed sample",  # what nobody foresaw; the message names the exception
)
"""Causes for which a sample is left out."""

MENDED = (
    "16-bit image",
    "greyscale image",
    "CMYK image",
    "alpha image",
    "colour profile",
    "broken profile",
    "broken EXIF",
    "empty caption",
    "caption not in UTF-8",
    "no segmentation",
    "unknown member",  # of a tar, not read
)
"""Causes for which a sample is used after a conversion, or as it is."""

CAUSES = (*SKIPPED, *MENDED)
ENOUGH = 200  # samples before the share of faulty ones means anything
SPOKEN = 5  # messages a cause; after these every tenfold count


class Fault(ValueError):
    """A sample that can't be used: `cause` is one of SKIPPED, the text tells what was found."""

    def __init__(self, cause: str, found: str):
        assert cause in SKIPPED, cause
        super().__init__(cause, found)
        self.cause, self.found = cause, found

    def __str__(self) -> str:
        return f"{self.cause}: {self.found}"


@contextlib.contextmanager
def as_fault(cause: str) -> Iterator[None]:
    """Turns whatever goes wrong inside into a Fault of this cause; a Fault passes unchanged.

    The one broad catch: decoders raise what nobody can list (struct.error, KeyError, cv2.error,
    ZeroDivisionError, MemoryError), and one sample of a million must not end a run.
    """
    try:
        yield
    except Fault:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise Fault(cause, f"{type(error).__name__}: {text}" if text else repr(error)) from error


class TooManyFaults(RuntimeError):
    """More of the data is faulty than the config allows."""


class FaultCounts:
    """Counts faults by cause.

    Args:
      allowed: largest share of samples that may be left out.
    """

    def __init__(self, allowed: float):
        self.allowed = allowed
        self.seen = 0
        self.counts: Counter[str] = Counter()
        self._skipped = 0  # of those that were read

    def absent(self, counts: Mapping[str, int], left_out: int, total: int) -> None:
        """Takes the counts of what an index shows to be faulty.

        Args:
          left_out: samples that this costs: an unreadable tar is one fault, but many samples.
          total: samples, with these.
        Raises: TooManyFaults if that is more than the allowed share of all.
        """
        self.counts.update(counts)
        self._check(left_out, total)

    def add(self, seen: int, counts: Mapping[str, int]) -> None:
        """Takes the counts of `seen` more samples that were read.

        Raises: TooManyFaults if, out of at least 200, more than the allowed share was left out.
        """
        self.seen += seen
        self.counts.update(counts)
        self._skipped += sum(counts.get(cause, 0) for cause in SKIPPED)
        if self.seen >= ENOUGH:
            self._check(self._skipped, self.seen + self._skipped)

    def _check(self, skipped: int, total: int) -> None:
        if skipped > self.allowed * total:
            raise TooManyFaults(
                f"{skipped} of {total} samples can't be used, more than the allowed share of "
                f"{self.allowed:g}: {self.as_dict()}. Mend the data, or raise faulty_share."
            )

    def as_dict(self) -> dict[str, int]:
        """Returns {cause: count} of what was met."""
        return dict(self.counts)


class FaultLog:
    """Writes what is wrong to the log, less often the more often a cause returns.

    Attributes:
      first: {cause: the first sample's name and what was found in it}.
    """

    def __init__(self):
        self.first: dict[str, str] = {}
        self._met: Counter[str] = Counter()

    def __call__(self, cause: str, name: str, found: str) -> None:
        self._met[cause] += 1
        self.first.setdefault(cause, f"{name}: {found}")
        n = self._met[cause]
        if n <= SPOKEN or (set(str(n)) <= {"1", "0"} and str(n).count("1") == 1):
            log.warning("%s, number %d, in %s: %s", cause, n, name, found)


FAULTS = "faults"
"""Name of the column of a batch that tells the training process what was met on the way."""


def to_row(causes: Iterable[str]) -> np.ndarray:
    """Returns counts in the order of CAUSES, as they travel beside a sample. int32 [causes]"""
    met = Counter(causes)
    return np.array([met[cause] for cause in CAUSES], np.int32)


def from_rows(rows: np.ndarray) -> dict[str, int]:
    """Returns {cause: count} of stacked rows."""
    totals = rows.reshape(-1, len(CAUSES)).sum(0)
    return {cause: int(n) for cause, n in zip(CAUSES, totals) if n}
