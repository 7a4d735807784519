"""I2EBench: sixteen kinds of edits, judged by one question each, by a truth, or by a mask."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

from brushjax.evaluation.benchmarks.files import (
    chosen,
    each,
    file_bytes,
    picture,
    read_json,
    white,
)
from brushjax.evaluation.judging.verdicts import Judging, Numbers, Question, Score, every
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

HOW = "docs/evaluating.md says where I2EBench is to be had and how its folder looks"
ASKED = (
    "BGReplacement",
    "ColorAlteration",
    "Counting",
    "DirectionPerception",
    "ObjectRemoval",
    "Replacement",
    "StyleAlteration",
)
WITH_TRUTH = (
    "Deblurring",
    "HazeRemoval",
    "Lowlight",
    "NoiseRemoval",
    "RainRemoval",
    "ShadowRemoval",
    "SnowRemoval",
    "WatermarkRemoval",
)
TASKS = (*ASKED, *WITH_TRUTH, "RegionAccuracy")
PROMPTS = {"answer": "{question} Begin with the answer itself."}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


def _questions(record: Record) -> tuple[Question, ...]:
    if "question" not in record.told:
        return ()
    words = PROMPTS["answer"].replace("{question}", record.told["question"])
    return (Question("answer", words, ("result",), record.told["answer"]),)


def read_match(question: Question, answer: str) -> Numbers | None:
    """1 where the answer is the expected one, 0 where it is another of its kind.

    Of yes and no and of numbers the first one counts; of other answers, whether the expected words
    are said.
    """
    expected = _words(question.expected)
    said = _words(answer)
    for kind in ({"yes", "no"}, {*map(str, range(1000))}):
        if len(expected) == 1 and expected[0] in kind:
            found = [word for word in said if word in kind]
            return (float(found[0] == expected[0]),) if found else None
    return (float(f" {' '.join(expected)} " in f" {' '.join(said)} "),) if said else None


def _words(text: str) -> list[str]:
    found = re.findall(r"[a-z]+|\d+", text.lower())
    return [str(NUMBERS.index(word)) if word in NUMBERS else word for word in found]


JUDGING = Judging(
    PROMPTS,
    _questions,
    (Score("clean", "judge_right", read_match, every(lambda got: got["answer"][0]), "share"),),
)


@dataclasses.dataclass(frozen=True)
class I2EBench(Benchmark):
    """I2EBench.

    Attributes:
        folder: `EditData` as published: TASK/TASK.json, TASK/input/ and, of some, gt/ or mask/.
        tasks: of `TASKS`; empty is all.
        instruction: the original expressions or the diverse ones.
        model: whose results are looked for, TASK/MODEL/PICTURE; empty: TASK/PICTURE.
        limit: how many records of each task at most; 0 is all.
        skip: ids to leave out.

    Source: cocoshe/I2EBench at 1b0e80db, and its EditData at be06989e.
    """

    folder: str = "data/I2EBench/EditData"
    tasks: tuple[str, ...] = ()
    instruction: Literal["ori_exp", "div_exp"] = "ori_exp"
    model: str = ""
    limit: int = 0
    skip: tuple[str, ...] = ()

    judging = JUDGING
    choosing = ("folder", "model", "limit", "skip")

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.tasks) - set(TASKS)):
            raise BenchmarkError(f"expected tasks of {', '.join(TASKS)}, got {unknown}")

    @property
    def name(self) -> str:
        """Name with the instructions' kind."""
        return f"i2ebench-{self.instruction.partition('_')[0]}"

    def records(self) -> list[Record]:
        """The records, task by task."""
        entries = []
        for task in self.tasks or TASKS:
            path = Path(self.folder) / task / f"{task}.json"
            rows = list(read_json(path, dict, HOW).items())
            entries += [(task, *row) for row in (rows[: self.limit] if self.limit else rows)]
        entries = chosen(entries, _id, self.skip, 0)
        return check_ids(each(entries, self._record, _id))

    def _record(self, entry: tuple[str, str, dict[str, Any]]) -> Record:
        task, _, row = entry
        place = Path(self.folder) / task
        files = {"input": inside(place / "input", row["image"])}
        if task in WITH_TRUTH:
            files["gt"] = inside(place / "gt", row["image"])
        if task == "RegionAccuracy":
            files["mask"] = inside(place / "mask", row["mask"])
        content = {name: file_bytes(path) for name, path in files.items()}
        picture(content["input"], str(files["input"]))

        def read() -> Pixels:
            shown = {name: path.read_bytes() for name, path in files.items()}
            source = picture(shown["input"], str(files["input"]))
            hole = truth = None
            if "gt" in shown:
                truth = picture(shown["gt"], str(files["gt"]))
            if "mask" in shown:
                hole = white(shown["mask"], str(files["mask"]), source.shape[:2])
            return Pixels(source, hole, truth)

        told = {}
        if task in ASKED:
            told = {"question": row["Evaluation"], "answer": str(row["Answer"])}
        stem = Path(row["image"]).stem
        middle = f"{self.model}/" if self.model else ""
        return Record(
            self.name,
            _id(entry),
            row[self.instruction],
            read,
            digest(*content.values()),
            group=task,
            instruction=row[self.instruction],
            told=told,
            results=(f"{task}/{middle}{stem}",),
        )


def _id(entry: tuple[str, str, dict[str, Any]]) -> str:
    return f"{entry[0]}/{entry[1]}"
