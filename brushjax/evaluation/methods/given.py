"""Pictures that somebody else made: found by the benchmarks' own names, and scored as they are."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from brushjax.evaluation.benchmarks.files import with_ending
from brushjax.evaluation.models import Models
from brushjax.evaluation.records import BenchmarkError, Record, digest, shortened
from brushjax.files import as_name, inside


@dataclasses.dataclass(frozen=True)
class Given:
    """Results in a folder, named as the benchmark's published script names them.

    Attributes:
        folder: with the pictures; a folder of the benchmark's name inside it is looked into first.
        label: its name in the report.
    """

    folder: str
    label: str = "given"
    seeded = False
    sees_truth = False

    def explain(self, models: Models) -> str:
        """What it is, for the legend."""
        del models
        return f"pictures in {self.folder}"

    def settings(self, models: Models) -> dict[str, Any]:
        """Nothing but the files themselves matters; they are part of every unit's key."""
        del models
        return {"kind": "given"}

    def find(self, record: Record) -> Path | None:
        """The file of a record's result, or None."""
        for root in (Path(self.folder) / as_name(record.benchmark), Path(self.folder)):
            for name in record.results or (record.id,):
                found = with_ending(inside(root, name))
                if found is not None:
                    return found
        return None

    def fingerprint(self, record: Record) -> str:
        """Digest of a record's result; empty where there is none (`check` reports those)."""
        path = self.find(record)
        return digest(path.read_bytes()) if path else ""

    def check(self, records: list[Record]) -> None:
        """Raises BenchmarkError naming the records without a result."""
        missing = [record for record in records if self.find(record) is None]
        if missing:
            names = [str(Path(self.folder) / (one.results or (one.id,))[0]) for one in missing]
            raise BenchmarkError(
                f"expected a result for each of {len(records)} records; {len(missing)} are missing:"
                f" {shortened(names)} (with .png or .jpg)"
            )
