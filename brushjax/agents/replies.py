"""From what a language model says to a plan: the question, and strict reading of the answer."""

from __future__ import annotations

import json
import re
from typing import Any

from brushjax.agents.plan import CATEGORIES, EditPlan, NotUnderstood

SYNONYMS = {
    **dict.fromkeys(("add", "addition", "insert", "insertion"), "addition"),
    **dict.fromkeys(("remove", "removal", "delete", "deletion", "erase"), "removal"),
    **dict.fromkeys(("local", "replace", "replacement", "modify", "change"), "local"),
    **dict.fromkeys(("global", "style"), "global"),
    "background": "background",
}
TEXTS = ("object", "source_caption", "target_caption")
SCHEMA = {
    "type": "object",
    "properties": {
        "category": {"type": "string", "enum": list(CATEGORIES)},
        **{name: {"type": "string"} for name in TEXTS},
        "box": {"type": ["array", "null"], "items": {"type": "number"}},
    },
    "required": ["category", *TEXTS, "box"],
    "additionalProperties": False,
}
QUESTION = """\
You plan the edit of a picture. Reply with one JSON object and nothing else:
{"category": ..., "object": ..., "source_caption": ..., "target_caption": ..., "box": ...}
category: "addition" (something new appears), "removal" (something goes), "local" (a thing is \
changed or replaced), "global" (the whole picture: style, season, light) or "background".
object: the noun phrase that is edited, in English, without article, at most five words; for an \
addition the new thing; "" for global and background.
source_caption: one sentence on what the picture shows now.
target_caption: one sentence on what it shows afterwards; of a removed thing it says nothing.
box: for an addition [x, y, width, height] in pixels of where the new thing goes; else null."""
MOST = 300  # characters of a reply that an error shows


def question(
    instruction: str, source_caption: str, size: tuple[int, int] | None
) -> tuple[str, str]:
    """The system's and the user's message; size is the shown picture's width and height."""
    told = [f"Instruction: {instruction}"]
    if source_caption:
        told.append(f"The picture shows: {source_caption}")
    if size:
        told.append(f"The picture is {size[0]} pixels wide and {size[1]} high.")
    return QUESTION, "\n".join(told)


def read_plan(
    text: str,
    instruction: str,
    image: Any = None,
    source_caption: str = "",
    scale: tuple[float, float] = (1.0, 1.0),
) -> EditPlan:
    """Makes a plan of a reply.

    Args:
        text: with the JSON object anywhere in it; of several with a category the last.
        scale: pixels of the picture for a pixel of the one that was shown, along x and y.

    Raises:
        NotUnderstood: no JSON, a value of another type, or a category that is none; one line.
    """
    row = object_in(text)
    if row is None:
        raise NotUnderstood(f"expected a JSON object with a category, got {shown(text)!r}")
    given = row.get("category")
    category = SYNONYMS.get(given.strip().lower()) if isinstance(given, str) else None
    if category is None:
        raise NotUnderstood(f"expected a category of {', '.join(CATEGORIES)}, got {shown(given)!r}")
    texts = {}
    for name in TEXTS:
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            raise NotUnderstood(f"expected {name} as a text, got {shown(value)!r}")
        texts[name] = " ".join((value or "").split())
    thing = re.sub(r"^(?:a|an|the) ", "", texts["object"].strip(" ."), flags=re.IGNORECASE)
    if category in ("global", "background"):
        thing = ""
    elif not thing:
        raise NotUnderstood(f"expected the object of a {category}, got none in {shown(text)!r}")
    boxes = _boxes(row.get("box"), scale) if category == "addition" else ()
    source = source_caption or texts["source_caption"]
    return EditPlan(
        image, instruction, category, thing, source, texts["target_caption"], boxes=boxes
    )


def object_in(text: str) -> dict[str, Any] | None:
    """Returns the last JSON object with a category in a reply, None where there is none."""
    decoder, found = json.JSONDecoder(), None
    at = text.find("{")
    while at >= 0:
        try:
            row, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):  # RecursionError: thousands of brackets
            end = at + 1
        else:
            if isinstance(row, dict) and "category" in row:
                found = row
        at = text.find("{", end)
    return found


def _boxes(box: Any, scale: tuple[float, float]) -> tuple[tuple[float, ...], ...]:
    if box is None:
        return ()
    numbers = isinstance(box, list) and all(type(side) in (int, float) for side in box)
    if not numbers or len(box) != 4 or not all(abs(side) < 1e6 for side in box):
        raise NotUnderstood(f"expected box as [x, y, width, height] or null, got {shown(box)!r}")
    x, y, width, height = box
    if width <= 0 or height <= 0:
        raise NotUnderstood(f"expected a box of positive width and height, got {shown(box)!r}")
    (across, down) = scale
    return ((x * across, y * down, (x + width) * across, (y + height) * down),)


def shown(value: Any) -> str:
    """A value as an error shows it: one line, not too long."""
    text = " ".join(str(value).split())
    return text if len(text) <= MOST else f"{text[:MOST]}..."
