"""What prompts of other programs carry beside words: weights, and the names of learnt words."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence

STEP = 1.1  # what a pair of parentheses multiplies by, and brackets divide by
TOKEN = re.compile(r"\\[()\[\]\\]|[(\[\])]|:\s*[-+]?(?:\d+\.?\d*|\.\d+)\s*\)|[^\\()\[\]:]+|[:\\]")
WEIGHTED = (
    r"\([^()]*:\s*[-+]?[\d.]+\s*\)",  # (word:1.2)
    r"\({2,}[^()]*\){2,}",  # ((word))
    r"\[[^\[\]]*\]",  # [word]
)
CALLED = (
    r"<(?!\|)(?:\w+:[^<>]+|[^<>\s]+)>",
    r"embedding:[^\s,()]+",
)  # <word>, <lora:file:1>, embedding:file


@dataclasses.dataclass(frozen=True)
class Piece:
    """Words of one weight."""

    text: str
    weight: float = 1.0


def parse(prompt: str) -> list[Piece]:
    """Reads weights: (word) 1.1, ((word)) 1.21, [word] 1/1.1, (word:1.3) 1.3; \\( is a parenthesis.

    Nested weights multiply. A bracket that is not closed holds to the prompt's end.

    Source: the grammar of AUTOMATIC1111's prompts; ComfyUI has the same but for [].
    """
    pieces: list[Piece] = []
    open_at: list[tuple[str, int]] = []  # the bracket, and the first piece in it

    def close(bracket: str, factor: float) -> bool:
        if not open_at or open_at[-1][0] != bracket:
            return False
        first = open_at.pop()[1]
        inside = pieces[first:]
        pieces[first:] = [Piece(one.text, one.weight * factor) for one in inside]
        return True

    for token in TOKEN.findall(prompt):
        number = token[1:-1] if token[0] == ":" and token[-1] == ")" else None
        if token in ("(", "["):
            open_at.append((token, len(pieces)))
        elif (token == ")" and close("(", STEP)) or (token == "]" and close("[", 1 / STEP)):
            continue
        elif number is None or not close("(", float(number)):
            escaped = token[0] == "\\" and len(token) > 1
            pieces.append(Piece(token[1:] if escaped else token))
    while open_at:
        bracket = open_at[-1][0]
        close(bracket, STEP if bracket == "(" else 1 / STEP)
    return list(_joined(pieces))


def _joined(pieces: list[Piece]) -> Iterator[Piece]:
    """Puts neighbours of one weight together, so that words are cut up as without brackets."""
    text, weight = "", 1.0
    for piece in pieces:
        if piece.weight != weight and text:
            yield Piece(text, weight)
            text = ""
        text, weight = text + piece.text, piece.weight
    if text:
        yield Piece(text, weight)


def taken_as_words(prompt: str, weights: bool, learnt: Collection[str]) -> list[str]:
    """The marks in a prompt that mean something to other programs and nothing here."""
    patterns = CALLED if weights else (*WEIGHTED, *CALLED)
    found = [mark for pattern in patterns for mark in re.findall(pattern, prompt)]
    known = {*learnt, *(f"embedding:{word}" for word in learnt)}
    return [mark for mark in found if mark not in known]


def warn_of_marks(
    prompts: Sequence[str], weights: bool, learnt: Collection[str], told: set[str]
) -> None:
    """Says what in the prompts means something to other programs, once; `told` keeps what was."""
    marks = [mark for prompt in prompts for mark in taken_as_words(prompt, weights, learnt)]
    new = [mark for mark in dict.fromkeys(marks) if mark not in told]
    told.update(new)
    if new:
        warnings.warn(
            f"{', '.join(new)} in a prompt: taken as words. Weights such as (word:1.2) are read "
            "with weights=True (--weights), learnt words are loaded with embeddings= "
            "(--embedding), LoRA files with lora= (--lora)",
            stacklevel=4,
        )


def at_learnt_words(text: str, learnt: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Cuts a text before and behind every learnt word, which may stand as embedding:word too."""
    if not learnt:
        yield text
        return
    longest_first = sorted(learnt, key=len, reverse=True)
    names = "|".join(map(re.escape, longest_first))
    for part in re.split(rf"((?<!\w)(?:embedding:)?(?:{names})(?!\w))", text):
        if part.strip():
            inner = part.removeprefix("embedding:")
            yield inner if inner in learnt else part
