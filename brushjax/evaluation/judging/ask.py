"""The command `python -m brushjax judge`: the questions that `evaluate.py --judge-requests` wrote,
put to a model behind an endpoint of OpenAI's protocol; what it says goes to `--judge-answers`.

Every reply is a file of its own, written before the list is: ended at any moment and started again,
the command asks only for what has none.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from brushjax import config as configs
from brushjax.agents.endpoint import URL, Endpoint, EndpointError
from brushjax.agents.plan import NotUnderstood
from brushjax.evaluation.benchmarks.files import read_lines
from brushjax.evaluation.records import BenchmarkError
from brushjax.files import inside, try_places, write_json, write_text
from brushjax.identity import digest
from brushjax.lock import locked
from brushjax.progress import progress_bar

FIELDS = ("id", "prompt", "pictures")
HOW = "expected the file that evaluate.py --judge-requests wrote"


@dataclasses.dataclass(frozen=True)
class JudgeArguments:
    """Asks a judge what `evaluate.py --judge-requests` wrote; goes on where it was stopped.

    Attributes:
        requests: that file; its pictures lie beside it.
        answers: file to write, for `evaluate.py --judge-answers`; replies are kept beside it.
        model: the one that answers; part of every score's name.
        url: of an endpoint of OpenAI's protocol; its key is read from OPENAI_API_KEY.
        workers: questions at once.
        per_minute: questions that may be begun in a minute; 0 is no limit. A server that asks to
            wait is waited for in any case.
        max_tokens: of a reply; a longer one is cut, and counts as none.
    """

    requests: Path
    answers: Path
    model: str
    url: str = URL
    workers: int = 4
    per_minute: int = 0
    max_tokens: int = 1000


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax judge ...`, with the process's own arguments by default."""
    options = configs.parsed(JudgeArguments, arguments, "brushjax judge")
    try:
        try_places([options.answers])
        with locked(_replies(options)):
            counts = judge(options, Endpoint(options.model, options.url))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{options.answers}: {said}")


def judge(
    options: JudgeArguments, endpoint: Endpoint, sleep: Callable[[float], None] = time.sleep
) -> Counter[str]:
    """Asks what has no reply yet and writes the answers; returns how many there are.

    Raises:
        BenchmarkError: requests that can't be read.
        EndpointError: requests without a reply; what was answered is kept and written.
    """
    rows = read_lines(options.requests, HOW)
    wrong = [str(n) for n, row in enumerate(rows, 1) if any(name not in row for name in FIELDS)]
    if wrong:
        raise BenchmarkError(
            f"{options.requests}: expected {', '.join(FIELDS)}; line {wrong[0]} lacks one"
        )
    places = {row["id"]: _place(options, row["id"]) for row in rows}
    missing = [row for row in rows if not places[row["id"]].is_file()]
    pace, failed = Pace(options.per_minute, sleep), []

    def ask(row: Mapping[str, Any]) -> None:
        pace.wait()
        try:
            said = endpoint.say(_messages(options.requests.parent, row), options.max_tokens)
            reply = {"answer": said}
        except NotUnderstood as error:
            reply = {"refused": str(error)}
        except EndpointError as error:
            failed.append(str(error))
            return
        write_json(places[row["id"]], reply)

    with ThreadPoolExecutor(options.workers) as pool:
        list(progress_bar(pool.map(ask, missing), total=len(missing), unit="answer"))
    counts = _collect(options, places)
    if failed:
        raise EndpointError(
            f"{len(failed)} of {len(missing)} requests have no reply, the first because of: "
            f"{failed[0]}. Start the command again: it asks for these alone"
        )
    return counts


class Pace:
    """Lets no more than so many begin in a minute, evenly.

    Args:
        per_minute: 0 is no limit.
        sleep, clock: in seconds.
    """

    def __init__(
        self,
        per_minute: int,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._gap = 60 / per_minute if per_minute else 0.0
        self._sleep, self._clock = sleep, clock
        self._next = clock()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next one may begin."""
        with self._lock:
            now = self._clock()
            mine = max(self._next, now)
            self._next = mine + self._gap
        if mine > now:
            self._sleep(mine - now)


def _messages(folder: Path, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompt and its pictures, without loss, in the order in which they are to be shown."""
    content: list[dict[str, Any]] = [{"type": "text", "text": row["prompt"]}]
    for shown in row["pictures"]:
        data = base64.b64encode(inside(folder, shown["file"]).read_bytes()).decode()
        url = f"data:image/png;base64,{data}"
        content.append({"type": "image_url", "image_url": {"url": url}})
    return [{"role": "user", "content": content}]


def _replies(options: JudgeArguments) -> Path:
    return options.answers.with_name(f"{options.answers.name}.replies")


def _place(options: JudgeArguments, request: str) -> Path:
    """Where the reply to a request lies: another model's is another reply."""
    return _replies(options) / f"{digest(options.model, options.url, request)}.json"


def _collect(options: JudgeArguments, places: Mapping[str, Path]) -> Counter[str]:
    """Writes the answers that there are, in the requests' order; a refusal is none."""
    lines, counts = [], Counter(answered=0, refused=0, missing=0)
    for request, place in places.items():
        reply = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}
        kind = "answered" if "answer" in reply else "refused" if reply else "missing"
        counts[kind] += 1
        if kind == "answered":
            row = {"id": request, "model": options.model, "answer": reply["answer"]}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(options.answers, "".join(lines))
    return counts
