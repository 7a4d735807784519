"""KRIS-Bench: edits that need knowledge, judged by up to four scores of 1 to 5."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.evaluation.benchmarks.files import chosen, each, file_bytes, picture, read_json
from brushjax.evaluation.judging.verdicts import (
    Judging,
    Numbers,
    Question,
    Score,
    every,
    json_object,
    within,
)
from brushjax.evaluation.records import Benchmark, BenchmarkError, Pixels, Record, check_ids
from brushjax.files import inside
from brushjax.identity import digest

HOW = "docs/evaluating.md says where KRIS-Bench is to be had and how its folder looks"
# Edits of what is seen: these are not asked for their knowledge.
PLAIN = (
    "object_count",
    "color_change",
    "anomaly_correction",
    "position_movement",
    "size_adjustment",
    "part_completion",
    "multi-instruction_execution",
)
SCALE = 'from 1 (bad) to 5 (perfect). Answer with JSON alone: {"%s_score": N, "reasoning": "..."}'
PAIR = "The first picture was to be edited; the second is the result. Instruction: {instruction}\n"
PROMPTS = {
    "consistency": PAIR
    + "Score how well all that the instruction does not touch was kept, "
    + SCALE % "consistency",
    "instruction": PAIR
    + "Score how well the instruction was carried out, "
    + SCALE % "instruction",
    "quality": "Score how real and free of artefacts the picture is, " + SCALE % "quality",
    "knowledge": PAIR
    + "What should be seen: {explanation}\nScore how well the result agrees with that, "
    + SCALE % "knowledge",
}


def _questions(record: Record) -> tuple[Question, ...]:
    def asked(name: str, *pictures: str) -> Question:
        words = PROMPTS[name].replace("{instruction}", record.instruction)
        words = words.replace("{explanation}", record.told.get("explanation", ""))
        return Question(name, words, pictures or ("source", "result"))

    found = asked("consistency"), asked("instruction"), asked("quality", "result")
    return found if record.group in PLAIN else (*found, asked("knowledge"))


def read_strictly(question: Question, answer: str) -> Numbers | None:
    """The score in the answer's JSON, if it is one of 1 to 5."""
    return within((json_object(answer) or {}).get(f"{question.name}_score"), 1, 5, 1)


def read_as_script(question: Question, answer: str) -> Numbers | None:
    """The same, else the first thing that looks like a score: a lone digit will do."""
    found = (json_object(answer) or {}).get(f"{question.name}_score")
    if found is not None:
        return (float(int(found)),) if str(found).strip().isdigit() else None
    named = rf"{question.name}[_\s]*score\s*[:：]?\s*([1-5])"
    for pattern in (named, r"([1-5])\s*/\s*5", r"([1-5])\s+out\s+of\s+5", r"\b([1-5])\b"):
        if match := re.search(pattern, answer, re.IGNORECASE):
            return (float(match[1]),)
    return None


def _one(name: str):
    def value(read: Mapping[str, Numbers | None]) -> float:
        numbers = read.get(name)
        return np.nan if numbers is None else numbers[0]

    return value


def _scores(profile: str, read) -> tuple[Score, ...]:
    prefix = "judge_" if profile == "clean" else ""
    return (
        *(Score(profile, f"{prefix}{name}", read, _one(name)) for name in PROMPTS),
        Score(profile, f"{prefix}mean", read, every(lambda got: float(np.mean([*got.values()])))),
    )


PROFILE = "paper:kris"
JUDGING = Judging(
    PROMPTS, _questions, (*_scores("clean", read_strictly), *_scores(PROFILE, read_as_script))
)


@dataclasses.dataclass(frozen=True)
class KrisBench(Benchmark):
    """KRIS-Bench's edits of one picture; those of several pictures are left out.

    Attributes:
        folder: holds CATEGORY/annotation.json and the pictures beside it.
        categories: names of folders; empty is all.
        limit: how many records of each category at most; 0 is all.
        skip: ids to leave out.

    Source: mercurystraw/Kris_Bench at 800662d1 and 2114fec9. Its annotations hold the instruction
        as `ins_en`, its scorer reads `instruction`, and asks with an empty one.
    """

    folder: str = "data/KRIS_Bench"
    categories: tuple[str, ...] = ()
    limit: int = 0
    skip: tuple[str, ...] = ()

    profiles = (PROFILE,)
    judging = JUDGING

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return "kris"

    def records(self) -> list[Record]:
        """The records, category by category."""
        folder = Path(self.folder)
        found = sorted(path.parent.name for path in folder.glob("*/annotation.json"))
        if unknown := sorted(set(self.categories) - set(found)):
            raise BenchmarkError(f"expected categories of {', '.join(found)}, got {unknown}; {HOW}")
        if not found:
            raise BenchmarkError(f"expected CATEGORY/annotation.json in {folder}; {HOW}")
        entries = []
        for category in self.categories or found:
            rows = read_json(folder / category / "annotation.json", dict, HOW)
            single = [(key, row) for key, row in rows.items() if not _several(row)]
            kept = single[: self.limit] if self.limit else single
            entries += [(category, key, row) for key, row in kept]
        entries = chosen(entries, _id, self.skip, 0)
        return check_ids(each(entries, self._record, _id))

    def _record(self, entry: tuple[str, str, dict[str, Any]]) -> Record:
        category, _, row = entry
        path = inside(Path(self.folder) / category, row["ori_img"])
        data = file_bytes(path)
        picture(data, str(path))
        words = row["ins_en"]
        if not words.strip():
            raise ValueError("the instruction is empty")
        return Record(
            self.name,
            _id(entry),
            words,
            lambda: Pixels(picture(path.read_bytes(), str(path))),
            digest(data),
            group=category,
            instruction=words,
            told={"explanation": row.get("explain_en", "")},
            results=(_id(entry),),
        )


def _several(row: dict[str, Any]) -> bool:
    return isinstance(row.get("ori_img"), list)


def _id(entry: tuple[str, str, dict[str, Any]]) -> str:
    return f"{entry[0]}/{entry[1]}"
