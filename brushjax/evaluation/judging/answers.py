"""Judges without a client: their requests are written to a file, and their answers read from one.

Whoever runs the judge is not our business; what it was asked is. A request is known by a digest of
the picture, the question and the prompt, so that no answer is taken for another's.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.evaluation.benchmarks.files import read_lines
from brushjax.evaluation.generate import Gallery, encoded
from brushjax.evaluation.judging.verdicts import Judging, Question
from brushjax.evaluation.records import Benchmark, BenchmarkError, Unit, shortened
from brushjax.files import write_bytes, write_text
from brushjax.identity import digest
from brushjax.metrics.metric import Metric
from brushjax.metrics.views import Views

HOW = "expected the file of a judge's answers, a line {'id': ..., 'model': ..., 'answer': ...} each"


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """What one judge answered.

    Attributes:
        model: that answered.
        texts: its words, by the request's id.
    """

    model: str
    texts: Mapping[str, str]

    @classmethod
    def load(cls, path: str | Path) -> Answers:
        """Reads a file of answers.

        Raises:
            BenchmarkError: lines without id, model or answer; several models; two answers to one
                request.
        """
        rows = read_lines(Path(path), HOW)
        fields = ("id", "model", "answer")
        wrong = [n for n, row in enumerate(rows, 1) if {type(row.get(f)) for f in fields} != {str}]
        if wrong or not rows:
            where = shortened([str(n) for n in wrong]) or "no line at all"
            raise BenchmarkError(f"{path}: expected texts {', '.join(fields)}, not in line {where}")
        models = sorted({row["model"] for row in rows})
        if len(models) > 1:
            raise BenchmarkError(f"expected the answers of one model in {path}, got {models}")
        texts: dict[str, str] = {}
        for row in rows:
            if texts.setdefault(row["id"], row["answer"]) != row["answer"]:
                raise BenchmarkError(f"{path} has two answers to the request {row['id']}")
        return cls(models[0], texts)

    @functools.cached_property
    def digest(self) -> str:
        """Of all answers: other answers are other scores."""
        return digest(self.model, json.dumps(dict(self.texts), sort_keys=True))

    def of(self, unit: Unit, judging: Judging, sha256: str) -> dict[Question, str]:
        """What was answered about a picture, "" where nothing was."""
        asked = judging.questions(unit.record)
        return {one: self.texts.get(request_id(unit, one, sha256), "") for one in asked}

    def metrics(self, benchmark: Benchmark, profiles: Sequence[str]) -> tuple[Metric, ...]:
        """The scores of a benchmark's judge; their ids name the model and its prompts.

        Args:
            profiles: "paper" stands for those of the benchmark.
        """
        judging = benchmark.judging
        if judging is None:
            return ()
        wanted = {*profiles, *(benchmark.profiles if "paper" in profiles else ())}
        who = f"{self.model},prompts {judging.digest}"

        def metric(profile: str, name: str, value: Callable[[Views], float], **facts) -> Metric:
            return Metric(
                profile, name, ("answers",), value, judge=who, settings=self.digest, **facts
            )

        shares: dict[str, Any] = {"higher_is_better": False, "scale": "share"}
        return (
            *(
                metric(one.profile, one.name, one.of, scale=one.scale)
                for one in judging.scores
                if one.profile in wanted
            ),
            metric("clean", "judge_unanswered", _unanswered, **shares),
            metric("clean", "judge_unparsed", judging.unparsed, **shares),
        )


def _unanswered(views: Views) -> float:
    """Share of a picture's questions without an answer."""
    answers = views.answers or {}
    return float(np.mean([not text for text in answers.values()])) if answers else math.nan


def request_id(unit: Unit, question: Question, sha256: str) -> str:
    """Names a request: the picture with all that it depends on, and the words."""
    return digest(unit.key, sha256, question.name, question.prompt, *question.pictures)


def write_requests(
    path: Path, units: Iterable[Unit], gallery: Gallery, judgings: Mapping[str, Judging | None]
) -> int:
    """Write every request about these units' pictures, a JSON object a line; returns how many.

    Pictures lie as PNG beside the file, in PATH.pictures/, each once, named by its digest.

    Args:
        judgings: by benchmark.
    """
    lines = []
    folder = path.with_name(f"{path.name}.pictures")
    for unit in units:
        judging, row = judgings[unit.record.benchmark], gallery.rows[unit.key]
        asked = judging.questions(unit.record) if judging and not row["fault"] else ()
        if not asked or judging is None:
            continue
        pixels = unit.record.read()
        shown = {"source": pixels.source, "result": gallery.picture(unit.key)}
        shown |= {} if pixels.reference is None else {"reference": pixels.reference}
        saved = {name: _saved(folder, shown[name]) for q in asked for name in q.pictures}
        lines += [
            {
                "id": request_id(unit, one, row["sha256"]),
                "benchmark": unit.record.benchmark,
                "sample": unit.record.id,
                "method": unit.method,
                "seed": unit.seed,
                "question": one.name,
                "prompts": judging.digest,
                "prompt": one.prompt,
                "pictures": [{"shows": name, "file": saved[name]} for name in one.pictures],
            }
            for one in asked
        ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return len(lines)


def _saved(folder: Path, pixels: np.ndarray) -> str:
    data = encoded(pixels)
    place = folder / f"{digest(data)}.png"
    if not place.exists():
        write_bytes(place, data)
    return f"{folder.name}/{place.name}"
