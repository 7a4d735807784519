"""RISEBench: edits that need reasoning, judged by consistency, reasoning and quality, 1 to 5."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brushjax.evaluation.benchmarks.files import chosen, each, file_bytes, picture, read_json
from brushjax.evaluation.judging.verdicts import Judging, Numbers, Question, Score, every, within
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

HOW = "docs/evaluating.md says where RISEBench is to be had and how its folder looks"
CATEGORIES = ("temporal_reasoning", "causal_reasoning", "spatial_reasoning", "logical_reasoning")
END = 'a whole number from 1 (bad) to 5 (perfect). End with the line "Final Score: N".'
PROMPTS = {
    "consistency": (
        "The first picture was to be edited; the second is the result. Instruction: {instruction}\n"
        f"Score how well all that need not change was kept, as {END}"
    ),
    "reasoning": (
        "The last picture is the result of an edit. Instruction: {instruction}\nWhat is right:"
        f" {{reference}}\nScore how well the result agrees with what is right, as {END}"
    ),
    "quality": f"Score how plausible and free of artefacts the picture is, as {END}",
}
SHOWN = "what the first picture shows"  # in the place of a reference that is a picture


def _questions(record: Record) -> tuple[Question, ...]:
    pictured = record.told["reference"] == SHOWN
    before = "reference" if pictured else "source"

    def words(name: str) -> str:
        filled = PROMPTS[name].replace("{instruction}", record.instruction)
        return filled.replace("{reference}", record.told["reference"])

    asked = []
    if not record.told["consistency_free"]:
        asked.append(Question("consistency", words("consistency"), (before, "result")))
    shown = (before, "result") if pictured else ("result",)
    asked.append(Question("reasoning", words("reasoning"), shown))
    if record.group != "logical_reasoning":
        asked.append(Question("quality", words("quality"), ("result",)))
    return tuple(asked)


def read_final(question: Question, answer: str) -> Numbers | None:
    """The number behind the last "Final Score"."""
    del question
    found = re.findall(r"Final Scores?\W*?(\d+)", answer, re.IGNORECASE)
    return within(int(found[-1]), 1, 5, 1) if found else None


def weighted(got: Mapping[str, Numbers]) -> float:
    """The published weights: .3, .5 and .2; .3 and .7 without quality; .8 and .2 without
    consistency."""
    parts = {name: numbers[0] for name, numbers in got.items()}
    weights = {
        ("consistency", "quality", "reasoning"): (0.3, 0.2, 0.5),
        ("consistency", "reasoning"): (0.3, 0.7),
        ("quality", "reasoning"): (0.2, 0.8),
        ("reasoning",): (1.0,),
    }[tuple(sorted(parts))]
    return sum(weight * parts[name] for weight, name in zip(weights, sorted(parts)))


def halved(got: Mapping[str, Numbers]) -> float:
    """The script's: half, but not less than 1, where the reasoning is worth 1."""
    score = weighted(got)
    return max(1.0, score / 2) if got["reasoning"][0] == 1 else score


def complete(got: Mapping[str, Numbers]) -> float:
    """Whether every score is the best."""
    return float(all(numbers[0] == 5 for numbers in got.values()))


def complete_as_script(got: Mapping[str, Numbers]) -> float:
    """The same, and never where consistency is not asked for."""
    return complete(got) if "consistency" in got else 0.0


PROFILE = "paper:risebench"
JUDGING = Judging(
    PROMPTS,
    _questions,
    (
        Score("clean", "judge_weighted", read_final, every(weighted)),
        Score("clean", "judge_complete", read_final, every(complete), "share"),
        Score(PROFILE, "score", read_final, every(halved)),
        Score(PROFILE, "accuracy", read_final, every(complete_as_script), "share"),
    ),
)


@dataclasses.dataclass(frozen=True)
class RiseBench(Benchmark):
    """RISEBench, 360 edits in four kinds of reasoning.

    Attributes:
        folder: holds `table` and the pictures that it names.
        table: the list of edits.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: PhoenixZ810/RISEBench at 21d18716, gpt_eval.py.
    """

    folder: str = "data/RISEBench/data"
    table: str = "datav2_total_w_subtask.json"
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = (PROFILE,)
    judging = JUDGING

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "risebench"

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        return 360

    def records(self) -> list[Record]:
        """The records, in the order of the list."""
        rows = read_json(Path(self.folder) / self.table, list, HOW)
        entries = chosen(rows, _id, self.skip, self.limit)
        return check_ids(each(entries, self._record, _id))

    def _record(self, row: dict[str, Any]) -> Record:
        if row["category"] not in CATEGORIES:
            raise BenchmarkError(f"expected a category of {CATEGORIES}, got {row['category']!r}")
        folder, shown = Path(self.folder), row.get("reference_img")
        files = [inside(folder, row["image"]), *([inside(folder, shown)] if shown else [])]
        content = [file_bytes(path) for path in files]
        for data, path in zip(content, files):
            picture(data, str(path))
        reference = SHOWN if shown else row.get("reference_txt") or row.get("reference")
        if not reference:
            raise BenchmarkError("there is no reference to judge by")

        def read() -> Pixels:
            source, *others = (picture(path.read_bytes(), str(path)) for path in files)
            return Pixels(source, reference=others[0] if others else None)

        return Record(
            self.name,
            _id(row),
            row["instruction"],
            read,
            digest(*content),
            group=row["category"],
            instruction=row["instruction"],
            told={
                "reference": reference,
                "consistency_free": "yes" if row.get("consistency_free") else "",
            },
            results=(f"images/{row['category']}/{row['index']}", str(row["index"])),
        )


def _id(row: dict[str, Any]) -> str:
    return str(row.get("index"))
