"""What is evaluated: records of benchmarks, and units (one picture of one method and one seed)."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from brushjax.evaluation.judging.verdicts import Judging
from brushjax.identity import digest
from brushjax.metrics.metric import Metric

TEXTS = (
    "prompt",
    "instruction",
    "source_caption",
    "target_caption",
    "local_caption",
    "second_caption",
    "group",
)


class BenchmarkError(ValueError):
    """A benchmark, results or rows that can't be used; the message says what to change."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pixels:
    """The pictures of a record.

    Attributes:
        source: what is edited.
        hole: 1 = edit, 0 = keep; None where the benchmark has no masks.
        truth: what the result is compared with; None where there is no right answer.
        grey: the mask as its file has it, 0 to 255, for scripts that don't round it.
        reference: a picture that a judge is shown beside the result; no method sees it.
    """

    source: UInt8[np.ndarray, "H W 3"]
    hole: UInt8[np.ndarray, "H W"] | None = None
    truth: UInt8[np.ndarray, "H2 W2 3"] | None = None
    grey: UInt8[np.ndarray, "H3 W3"] | None = None
    reference: UInt8[np.ndarray, "H4 W4 3"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One thing to edit, the same whatever benchmark it is from.

    Attributes:
        benchmark: name of the benchmark with its split, such as "brushbench-inside".
        id: unique within the benchmark; with the seed and the turn it determines the noise.
        prompt: what the result shall show, for a generator that reads captions.
        read: gives the pictures; called when they are needed, more than once.
        fingerprint: digest of all that `read` depends on.
        turn: of a session, from 1.
        session: records of one session or picture depend on each other; intervals draw them
            as a whole.
        group: kind of edit, or class.
        instruction: what to do, for a generator that reads instructions.
        source_caption, target_caption: of the picture before, and as it should be after.
        local_caption: of the edited part, as it should be after.
        second_caption: of a second edited part, where there are two.
        asked: category of `brushjax.agents.CATEGORIES` and object that the instruction asks for,
            the object "" where it is not known; None where neither is. No method sees it.
        told: what a judge is told besides, by name; no method sees it.
        after: id of the record whose own result is the source of this one; empty: `read`'s source.
        scored: False for a step on the way whose result no metric looks at.
        results: file names under which others' results are looked for, without their ending.
    """

    benchmark: str
    id: str
    prompt: str
    read: Callable[[], Pixels]
    fingerprint: str
    turn: int = 1
    session: str = ""
    group: str = ""
    instruction: str = ""
    source_caption: str = ""
    target_caption: str = ""
    local_caption: str = ""
    second_caption: str = ""
    asked: tuple[str, str] | None = None
    told: Mapping[str, str] = dataclasses.field(default_factory=dict)
    after: str = ""
    scored: bool = True
    results: tuple[str, ...] = ()

    @property
    def cluster(self) -> str:
        """What an interval draws as a whole."""
        return self.session or self.id

    def noise_seed(self, seed: int) -> int:
        """The seed of the noise, from 32 bits of hash: neighbouring seeds share no noise."""
        turn = f"/{self.turn}" if self.turn > 1 else ""
        return zlib.crc32(f"{seed}/{self.id}{turn}".encode())


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One picture: a record under a method with a seed."""

    record: Record
    method: str
    seed: int
    key: str

    def __str__(self) -> str:
        record = self.record
        return f"{record.benchmark}/{record.id} turn {record.turn} {self.method} seed {self.seed}"


class Benchmark:
    """Settings of a benchmark; the classes of `brushjax.evaluation.benchmarks` fill this in."""

    profiles: tuple[str, ...] = ()  # of the metrics with which the papers' tables were made
    judging: Judging | None = None  # how its judge is prompted and read
    choosing: tuple[str, ...] = ("folder", "title", "limit", "skip", "count")
    """Fields that say which records there are, and nothing of how they are scored."""

    @property
    def name(self) -> str:
        """Name with its split."""
        raise NotImplementedError(f"{type(self).__name__} has no name")

    @property
    def published_count(self) -> int:
        """Number of scored records as published; 0 where there is no such number."""
        return 0

    def records(self) -> list[Record]:
        """The records in the benchmark's own order.

        Raises:
            BenchmarkError: files that are missing or not what they should be, all in one message.
        """
        raise NotImplementedError(f"{type(self).__name__} has no records")

    def metrics(self) -> tuple[Metric, ...]:
        """Metrics that only this benchmark has."""
        return ()

    def note(self) -> str:
        """What a reader of its numbers should know; empty for nothing."""
        return ""

    def relabelled(self, labels: Mapping[str, Sequence[str]]) -> Benchmark:
        """The same where methods were replaced by others: by the label before, the labels now."""
        del labels
        return self

    def for_run(self, config: Any) -> Benchmark:
        """The same as part of a training run's evaluator."""
        del config
        return self

    def wants(self, label: str, repeat: int) -> bool:
        """Whether the method with this label is run on it, with the repeat-th seed."""
        del label, repeat
        return True


def unit_key(
    record: Record,
    seed: int,
    settings: Mapping[str, Any],
    before: str = "",
    texts: Sequence[str] = TEXTS,
) -> str:
    """A digest of everything a picture depends on.

    Whatever changes - a pixel, a prompt, a setting, a weight - gives another key, so that a restart
    never takes up rows of something else.

    Args:
        settings: JSON-able settings of the method and digests of its weights.
        before: key of the unit whose result is the source.
        texts: fields of the record that the method reads.
    """
    described = {
        "benchmark": record.benchmark,
        "record": record.id,
        "turn": record.turn,
        "pixels": record.fingerprint,
        "texts": {name: getattr(record, name) for name in texts},
        "seed": seed,
        "settings": dict(settings),
        "before": before,
    }
    return digest(json.dumps(described, sort_keys=True))


def pixel_digest(pixels: Pixels) -> str:
    """Digest of pictures that no file stands for."""
    parts: list[str | bytes] = []
    for array in (pixels.source, pixels.hole, pixels.truth):
        parts.append("none" if array is None else f"{array.dtype} {array.shape}")
        parts.append(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest(*parts)


def check_ids(records: Sequence[Record]) -> list[Record]:
    """The records, once no two of them are the same (benchmark, id, turn).

    Raises:
        BenchmarkError: naming the doubles.
    """
    seen: set[tuple[str, str, int]] = set()
    doubles = []
    for record in records:
        name = (record.benchmark, record.id, record.turn)
        if name in seen:
            doubles.append(record.id)
        seen.add(name)
    if doubles:
        raise BenchmarkError(
            f"expected every id of {records[0].benchmark} once, got again: {shortened(doubles)}"
        )
    return list(records)


def check_instructions(label: str, records: Sequence[Record]) -> None:
    """Raises BenchmarkError if a record has no instruction, for the method of this label."""
    without = [record.id for record in records if not record.instruction]
    if without:
        raise BenchmarkError(
            f"expected an instruction with every record for {label!r}; {len(without)} have none, "
            f"such as {without[0]}"
        )


def shortened(names: Sequence[str], shown: int = 5) -> str:
    """The first names, and how many there are."""
    text = ", ".join(names[:shown])
    return text if len(names) <= shown else f"{text} ... ({len(names)} in all)"
