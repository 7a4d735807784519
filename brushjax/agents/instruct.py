"""The command `python -m brushjax instruct`: captioned pictures in, instructions out, each with the
caption after the edit, by a language model.

Every reply is a file of its own, written before anything is made of it: ended at any moment and
started again, the command asks only for what has none. `edits.jsonl` is made of all replies.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from brushjax import config as configs
from brushjax.agents.endpoint import MODEL, URL, Endpoint, EndpointError
from brushjax.agents.plan import CATEGORIES, NotUnderstood
from brushjax.agents.replies import object_in
from brushjax.files import write_json, write_text
from brushjax.identity import digest
from brushjax.lock import locked
from brushjax.progress import progress_bar

PROMPT_VERSION = "1"
FIELDS = ("category", "instruction", "target_caption")
LONGEST = 60  # words of an instruction or caption
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": list(CATEGORIES)},
        "instruction": {"type": "string"},
        "target_caption": {"type": "string"},
    },
    "required": list(FIELDS),
    "additionalProperties": False,
}
QUESTION = """\
You get the caption of a picture and invent one edit of it. Reply with one JSON object and nothing \
else: {"category": ..., "instruction": ..., "target_caption": ...}
category: "addition", "removal", "local" (a thing is changed or replaced), "global" (style, \
season, light) or "background".
instruction: a short command in English that names what is to change, such as "replace the cookies \
with candles".
target_caption: the caption with that change and no other."""


@dataclasses.dataclass(frozen=True)
class InstructArguments:
    """Makes an instruction and a caption after the edit for each captioned picture.

    Attributes:
        captions: file with a JSON object a line: "image", a picture's place, and "caption".
        out: folder to write: edits.jsonl, rejected.jsonl and replies/.
        model: the one that answers.
        url: of an endpoint of OpenAI's protocol; its key is read from OPENAI_API_KEY.
        workers: questions at once.
        tries: questions for one picture, where a reply can't be used.
    """

    captions: Path
    out: Path
    model: str = MODEL
    url: str = URL
    workers: int = 8
    tries: int = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs `python -m brushjax instruct ...`, with the process's own arguments by default."""
    options = configs.parsed(InstructArguments, arguments, "brushjax instruct")
    try:
        with locked(options.out):
            counts = instruct(options, Endpoint(options.model, options.url))
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    said = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{options.out / 'edits.jsonl'}: {said}")


def instruct(options: InstructArguments, endpoint: Endpoint) -> Counter[str]:
    """Asks for what has no reply yet and writes the lists; returns how many of which kind.

    Raises:
        ValueError: a line of the captions that can't be read.
        EndpointError: pictures that could not be asked for; what was answered is kept.
    """
    rows = list(captioned(options.captions))
    places = [place_of(options, row) for row in rows]
    missing = {place: row for place, row in zip(places, rows) if not place.is_file()}
    failed: list[str] = []

    def answer(item: tuple[Path, dict[str, str]]) -> None:
        place, row = item
        try:
            write_json(place, answered(row, options, endpoint))
        except EndpointError as error:
            failed.append(str(error))

    with ThreadPoolExecutor(options.workers) as pool:
        list(progress_bar(pool.map(answer, missing.items()), total=len(missing), unit="edit"))
    counts = _collect(options, rows, places)
    if failed:
        raise EndpointError(
            f"{len(failed)} of {len(missing)} pictures have no reply, the first because of: "
            f"{failed[0]}. Start the command again: it asks for these alone"
        )
    return counts


def answered(row: dict[str, str], options: InstructArguments, endpoint: Endpoint) -> Any:
    """Returns the first reply that can be used, or why none can."""
    reason, user = "", f"Caption: {row['caption']}"
    for _ in range(options.tries):
        told = f"{user}\nYour last reply could not be used: {reason}" if reason else user
        try:
            reply = object_in(endpoint.ask(QUESTION, told, schema=SCHEMA)) or {}
            reason = _wrong(reply, row["caption"])
        except NotUnderstood as error:
            reason = str(error)
            continue
        if not reason:
            return {name: " ".join(reply[name].split()) for name in FIELDS}
    return {"rejected": reason}


def edit_of(row: dict[str, str], reply: dict[str, str], model: str) -> dict[str, str]:
    """Returns the line of edits.jsonl that a captioned picture and its reply make."""
    known = {"image": row["image"], "source_caption": row["caption"]}
    return {**known, **reply, "model": model, "prompt_version": PROMPT_VERSION}


def _wrong(reply: dict[str, Any], caption: str) -> str:
    """Says what is wrong with a reply; nothing if it can be used."""
    if any(not isinstance(reply.get(name), str) or not reply[name].strip() for name in FIELDS):
        return f"expected texts for {', '.join(FIELDS)}"
    if reply["category"] not in CATEGORIES:
        return f"expected a category of {', '.join(CATEGORIES)}"
    if max(len(reply[name].split()) for name in FIELDS) > LONGEST:
        return f"expected at most {LONGEST} words"
    if _plain(reply["target_caption"]) == _plain(caption):
        return "the target caption is the caption: nothing is edited"
    return ""


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(" .").split())


def captioned(path: Path) -> Iterator[dict[str, str]]:
    """The lines of the captions; of equal ones the first.

    Raises: ValueError for one that is no picture with a caption.
    """
    seen = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            row = {name: row[name] for name in ("image", "caption")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}:{number}: expected a JSON object with "image" and "caption", got {error}'
            ) from error
        if not all(isinstance(value, str) and value.strip() for value in row.values()):
            raise ValueError(f"{path}:{number}: expected texts as image and caption")
        if tuple(row.values()) not in seen:
            seen.add(tuple(row.values()))
            yield row


def place_of(options: InstructArguments, row: dict[str, str]) -> Path:
    """Where the reply to a picture lies: another model or question is another reply."""
    name = digest(PROMPT_VERSION, QUESTION, options.model, row["image"], row["caption"])
    return options.out / "replies" / f"{name}.json"


def _collect(
    options: InstructArguments, rows: Sequence[dict[str, str]], places: Sequence[Path]
) -> Counter[str]:
    """Writes edits.jsonl and rejected.jsonl of all replies, in the captions' order."""
    lines: dict[str, list[str]] = {"edits": [], "rejected": []}
    for row, place in zip(rows, places, strict=True):
        if not place.is_file():
            continue
        reply = json.loads(place.read_text(encoding="utf-8"))
        kind = "rejected" if "rejected" in reply else "edits"
        lines[kind].append(json.dumps(edit_of(row, reply, options.model), ensure_ascii=False))
    for kind, found in lines.items():
        write_text(options.out / f"{kind}.jsonl", "".join(line + "\n" for line in found))
    return Counter({kind: len(found) for kind, found in lines.items()})
