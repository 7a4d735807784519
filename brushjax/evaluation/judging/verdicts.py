"""What a judge is asked about a picture, and how its words become numbers."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from brushjax.identity import digest
from brushjax.metrics.views import Views

Numbers = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Question:
    """One request to a judge.

    Attributes:
        name: what it is about.
        prompt: its words.
        pictures: shown with it, in this order: "source", "result", "reference".
        expected: the right answer, where there is one; the judge is not told.
    """

    name: str
    prompt: str
    pictures: tuple[str, ...] = ("source", "result")
    expected: str = ""


Read = Callable[[Question, str], Numbers | None]
"""The numbers of an answer; None where it can't be read."""


@dataclasses.dataclass(frozen=True)
class Score:
    """A number that is made of a judge's answers.

    Attributes:
        combine: from what was read, by the questions' names; None for an answer that is missing or
            can't be read. NaN is "not defined".
    """

    profile: str
    name: str
    read: Read
    combine: Callable[[Mapping[str, Numbers | None]], float]
    scale: Literal["ratio", "share"] = "ratio"

    def of(self, views: Views) -> float:
        """Of one picture."""
        answers = (views.answers or {}).items()
        read = {one.name: self.read(one, text) if text else None for one, text in answers}
        return float(self.combine(read))


@dataclasses.dataclass(frozen=True)
class Judging:
    """How a benchmark's judge is prompted, and how its replies are read.

    Attributes:
        prompts: templates by name; their digest stands in every score's id.
        questions: of a record.
        scores: made of the answers; the first one's reader says which answers can't be read.
    """

    prompts: Mapping[str, str]
    questions: Callable[[Any], tuple[Question, ...]]
    scores: tuple[Score, ...]

    @functools.cached_property
    def digest(self) -> str:
        """Of the templates, short."""
        return digest(json.dumps(dict(self.prompts), sort_keys=True))[:8]

    def unparsed(self, views: Views) -> float:
        """Share of a picture's answers that can't be read; NaN where there is no answer."""
        given = [(one, text) for one, text in (views.answers or {}).items() if text]
        read = self.scores[0].read
        return float(np.mean([read(*one) is None for one in given])) if given else math.nan


def every(combine: Callable[[Mapping[str, Numbers]], float]):
    """NaN unless every question's answer was read."""

    def value(read: Mapping[str, Numbers | None]) -> float:
        there = {name: numbers for name, numbers in read.items() if numbers is not None}
        return combine(there) if there and len(there) == len(read) else math.nan

    return value


def json_object(answer: str) -> dict[str, Any] | None:
    """The first JSON object in an answer, whatever stands around it."""
    for start in (found.start() for found in re.finditer(r"\{", answer)):
        try:
            found, _ = json.JSONDecoder().raw_decode(answer[start:])
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    return None


def within(values: Any, low: int, high: int, count: int) -> Numbers | None:
    """These numbers, if they are as many and in range."""
    values = values if isinstance(values, list) else [values]
    right = [type(v) in (int, float) and low <= v <= high for v in values]
    return tuple(map(float, values)) if len(values) == count and all(right) else None
