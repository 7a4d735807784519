"""ImgEdit's basic benchmark: edits in nine types, judged by three scores of 1 to 5."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.evaluation.benchmarks.files import chosen, each, file_bytes, picture, read_json
from brushjax.evaluation.judging.verdicts import Judging, Numbers, Question, Score, every, within
from brushjax.evaluation.records import Benchmark, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

HOW = "docs/evaluating.md says where ImgEdit is to be had and how its folder looks"
PROMPTS = {
    "rubric": (
        "The first picture was to be edited; the second is the result. Kind of edit: {type}."
        " Instruction: {instruction}\nGive three whole scores from 1 (bad) to 5 (perfect): whether"
        " the instruction was carried out, whether the edit looks real, and whether all else stayed"
        " as it was; the two last ones not above the first. Answer in a short sentence and three"
        " lines:\nCompliance: N\nNaturalness: N\nIntegrity: N"
    )
}


def _questions(record: Record) -> tuple[Question, ...]:
    words = PROMPTS["rubric"].replace("{type}", record.group)
    return (Question("rubric", words.replace("{instruction}", record.instruction)),)


def read_lines_of(question: Question, answer: str) -> Numbers | None:
    """The script's way: every line that ends in ": " and a whole number, however many."""
    del question
    found = [line.strip().split(": ") for line in answer.splitlines()]
    numbers = [int(parts[1]) for parts in found if len(parts) == 2 and parts[1].isdigit()]
    return tuple(map(float, numbers)) or None


def read_three(question: Question, answer: str) -> Numbers | None:
    """Three such lines, in range."""
    del question
    found = re.findall(r"^[^:\n]+:\s*(\d+)\s*$", answer, re.MULTILINE)
    return within([int(number) for number in found], 1, 5, 3)


def _rounded(got: Any) -> float:
    return round(float(np.mean(got["rubric"])), 2)


JUDGING = Judging(
    PROMPTS,
    _questions,
    (
        Score("clean", "judge_mean", read_three, every(lambda got: float(np.mean(got["rubric"])))),
        Score("paper:imgedit", "overall", read_lines_of, every(_rounded)),
    ),
)


@dataclasses.dataclass(frozen=True)
class ImgEdit(Benchmark):
    """ImgEdit's basic benchmark, 737 edits.

    Attributes:
        folder: holds basic_edit.json and the pictures that its ids name.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: PKU-YuanGroup/ImgEdit at c14480ac, Benchmark/Basic. The paper names GPT-4.1 as judge,
        the script gpt-4o.
    """

    folder: str = "data/ImgEdit/Benchmark/singleturn"
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = ("paper:imgedit",)
    judging = JUDGING

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "imgedit"

    @property
    def published_count(self) -> int:
        """Number of records as published."""
        return 737

    def records(self) -> list[Record]:
        """The records, in the order of the file."""
        rows = read_json(Path(self.folder) / "basic_edit.json", dict, HOW)
        entries = chosen(list(rows.items()), lambda entry: entry[0], self.skip, self.limit)
        return check_ids(each(entries, self._record, lambda entry: entry[0]))

    def _record(self, entry: tuple[str, dict[str, Any]]) -> Record:
        key, row = entry
        path = inside(Path(self.folder), row["id"])
        data = file_bytes(path)
        picture(data, str(path))
        words = row["prompt"]
        if not words.strip():
            raise ValueError("the prompt is empty")
        return Record(
            self.name,
            key,
            words,
            lambda: Pixels(picture(path.read_bytes(), str(path))),
            digest(data),
            group=row["edit_type"],
            instruction=words,
            results=(key,),
        )
