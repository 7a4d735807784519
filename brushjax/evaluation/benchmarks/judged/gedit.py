"""GEdit-Bench: real users' edits in eleven tasks and two languages, judged by VIEScore."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from brushjax.evaluation.benchmarks.files import chosen, each, picture
from brushjax.evaluation.benchmarks.tables import RowAt, cell_bytes, table_rows
from brushjax.evaluation.judging.verdicts import (
    Judging,
    Numbers,
    Question,
    Score,
    every,
    json_object,
    within,
)
from brushjax.evaluation.records import Benchmark, Pixels, Record, check_ids
from brushjax.identity import digest

COLUMNS = (
    "task_type",
    "key",
    "instruction",
    "instruction_language",
    "input_image",
    "input_image_raw",
    "Intersection_exist",
)
FORM = 'Answer with JSON alone: {"score": [first, second], "reasoning": "..."}, whole numbers.'
PROMPTS = {
    "semantics": (
        "The first picture was to be edited; the second is the result. Instruction: {instruction}\n"
        "Give two scores from 0 to 10. First: how fully the instruction was carried out (0 not at"
        " all, 10 entirely). Second: how little was changed beyond it (0 another picture, 10 the"
        f" least change that does it). {FORM}"
    ),
    "quality": (
        "Judge the picture alone, not what it was made for. Give two scores from 0 to 10. First:"
        " how natural it looks (light, shadow, sizes, distances). Second: how free it is of"
        f" artefacts (distortion, blur, seams, odd bodies or faces). {FORM}"
    ),
}


def _questions(record: Record) -> tuple[Question, ...]:
    words = PROMPTS["semantics"].replace("{instruction}", record.instruction)
    return (
        Question("semantics", words),
        Question("quality", PROMPTS["quality"], ("result",)),
    )


def read_pair(question: Question, answer: str) -> Numbers | None:
    """VIEScore's two numbers, 0 to 10."""
    del question
    return within((json_object(answer) or {}).get("score"), 0, 10, 2)


PROFILE = "paper:gedit"
JUDGING = Judging(
    PROMPTS,
    _questions,
    (
        Score(PROFILE, "semantics", read_pair, every(lambda got: min(got["semantics"]))),
        Score(PROFILE, "quality", read_pair, every(lambda got: min(got["quality"]))),
        Score(
            PROFILE,
            "overall",
            read_pair,
            every(lambda got: math.sqrt(min(got["semantics"]) * min(got["quality"]))),
        ),
    ),
)


@dataclasses.dataclass(frozen=True)
class GEditBench(Benchmark):
    """GEdit-Bench in one language.

    Attributes:
        folder: of the Parquet files, train-*.parquet.
        language: of the instructions.
        intersection: only the edits that all compared models answered.
        limit: how many records at most; 0 is all.
        skip: ids to leave out.

    Source: stepfun-ai/GEdit-Bench on the Hugging Face hub; Step1X-Edit at e78b8113, GEdit-Bench/.
        O = sqrt(min(SC) min(PQ)) of every picture.
    """

    folder: str = "data/GEdit-Bench/data"
    language: Literal["en", "cn"] = "en"
    intersection: bool = False
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = (PROFILE,)
    judging = JUDGING

    @property
    def name(self) -> str:
        """Name with its language, and the subset where it is one."""
        return f"gedit-{self.language}" + ("-intersection" if self.intersection else "")

    def records(self) -> list[Record]:
        """The records, in the order of the files."""
        entries = [
            (at, row)
            for at, row in table_rows(self.folder, "train", COLUMNS)
            if row["instruction_language"] == self.language
            and (row["Intersection_exist"] or not self.intersection)
        ]
        entries = chosen(entries, _id, self.skip, self.limit)
        return check_ids(each(entries, self._record, _id))

    def _record(self, entry: tuple[RowAt, dict[str, Any]]) -> Record:
        at, row = entry

        def read() -> Pixels:
            return Pixels(picture(at.cell("input_image"), _id(entry)))

        data = cell_bytes(row["input_image"])
        picture(data, _id(entry))  # an error now, not in an hour
        return Record(
            self.name,
            _id(entry),
            _told(row["instruction"]),
            read,
            digest(data),
            group=_told(row["task_type"]),
            instruction=row["instruction"],
            results=(f"fullset/{row['task_type']}/{self.language}/{row['key']}",),
        )


def _told(text: Any) -> str:
    if not (isinstance(text, str) and text.strip()):
        raise ValueError(f"expected a text, got {text!r}")
    return text


def _id(entry: tuple[RowAt, dict[str, Any]]) -> str:
    return str(entry[1]["key"])
