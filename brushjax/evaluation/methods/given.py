"""Pictures that somebody else made: found by the benchmarks' own names, and scored as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brushjax.evaluation.benchmarks.files import with_ending
from brushjax.evaluation.methods.contract import Made, Method, Recipe, Resources, Task
from brushjax.evaluation.models import Models
from brushjax.evaluation.records import BenchmarkError, Record, shortened
from brushjax.files import as_name, inside


@dataclasses.dataclass(frozen=True)
class Given(Recipe):
    """Results in a folder, named as the benchmark's published script names them.

    Attributes:
        folder: with the pictures; a folder of the benchmark's name inside it is looked into first.
        label: its name in the report.
    """

    folder: str
    label: str = "given"
    makes = False

    def explain(self, models: Models) -> str:
        """What it is, for the legend."""
        del models
        return f"pictures in {self.folder}"

    def method(self, resources: Resources) -> Method:
        """Nothing but the files themselves matters; they are part of every unit's key."""
        del resources
        return _Files()

    def find(self, record: Record) -> Path | None:
        """The file of a record's result, or None."""
        for root in (Path(self.folder) / as_name(record.benchmark), Path(self.folder)):
            for name in record.results or (record.id,):
                found = with_ending(inside(root, name))
                if found is not None:
                    return found
        return None

    def check(self, records: Sequence[Record]) -> None:
        """Raises BenchmarkError naming the records without a result."""
        missing = [record for record in records if self.find(record) is None]
        if missing:
            names = [str(Path(self.folder) / (one.results or (one.id,))[0]) for one in missing]
            raise BenchmarkError(
                f"expected a result for each of {len(records)} records; {len(missing)} are missing:"
                f" {shortened(names)} (with .png or .jpg)"
            )


class _Files:
    """Pictures that are there: no code of ours has a part in them."""

    settings: Mapping[str, Any] = {"kind": "given"}

    def fill(self, tasks: Sequence[Task]) -> Made:
        """Nothing is made."""
        raise BenchmarkError(f"expected the files of {len(tasks)} pictures, not to make them")
