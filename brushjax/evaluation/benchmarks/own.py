"""Held-out pictures of a training run's own data, with holes and captions as training has them."""

from __future__ import annotations

import dataclasses
from typing import Any

from brushjax.config import ConfigError
from brushjax.data.sets.brushdata import BrushData
from brushjax.data.sets.held_out import HeldOutPart
from brushjax.evaluation.benchmarks.held_out import not_encoded
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, pixel_digest
from brushjax.metrics.metric import Metric
from brushjax.metrics.profiles.seams import SEAM_METRICS


@dataclasses.dataclass(frozen=True)
class OwnHeldOut(Benchmark):
    """Crops of the pictures that the training data hold out, of the size that is trained on.

    Attributes:
        count: how many; fewer where fewer are held out.
        data: where they come from; None takes the training run's.
    """

    count: int = 4
    data: BrushData | None = None

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "own"

    def for_run(self, config: Any) -> OwnHeldOut:
        """The same on the data of a training run.

        Raises: ConfigError if these hold nothing out.
        """
        if self.data is not None:
            return self
        return dataclasses.replace(self, data=HeldOutPart(pool=0).of(config.data))

    def records(self) -> list[Record]:
        """The pictures as records, each picture once.

        Raises: BenchmarkError if there is no data, or none of the pictures can be used.
        """
        if self.data is None:
            raise BenchmarkError(
                "expected data, or a training run whose data this is for; got neither"
            )
        try:
            source = self.data.source(not_encoded)
        except ConfigError as error:
            raise BenchmarkError(str(error)) from error
        records: list[Record] = []
        for position in range(len(source.numbers)):
            number, epoch = source.place(position)
            for sample in source.tried(number, epoch, []):
                pixels = Pixels(sample["image"], sample["mask"][..., 0], sample["image"])
                records.append(_record(self.name, source.name(number), sample["caption"], pixels))
            if len(records) == self.count:
                break
        if not records:
            raise BenchmarkError(f"{self.data.path}: no held-out picture can be used")
        return records

    def metrics(self) -> tuple[Metric, ...]:
        """How visible the hole's edge is."""
        return SEAM_METRICS


def _record(benchmark: str, name: str, caption: str, pixels: Pixels) -> Record:
    return Record(
        benchmark,
        name,
        caption,
        lambda: pixels,
        pixel_digest(pixels),
        target_caption=caption,
        local_caption=caption,
    )
