"""The rules: what kind of edit a bare command asks for, of what, and into what.

A rule is a pattern and a function of its match. The first that gives a meaning wins, or another
command, which is then read instead.
"""
# ruff: noqa: E501 - a rule is read as one line

from __future__ import annotations

import re
from collections.abc import Callable

from brushjax.agents.patterns import meanings as of
from brushjax.agents.patterns import phrases as p
from brushjax.agents.patterns import words as w
from brushjax.agents.patterns.meanings import Meaning
from brushjax.agents.patterns.statements import as_command
from brushjax.agents.plan import NotUnderstood

LONGEST = 1000  # characters; patterns would take long over more
Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], Meaning | str | None]]


def understand(instruction: str, depth: int = 0) -> Meaning:
    """Returns what an instruction asks for.

    Raises:
        NotUnderstood: no rule fits, or it asks for several edits at once.
    """
    if len(instruction) > LONGEST:
        raise NotUnderstood(
            f"expected an instruction of at most {LONGEST} characters, got {len(instruction)}"
        )
    text = p.cleaned(instruction)
    if depth > 4 or not text:
        raise NotUnderstood(_help(instruction))
    _refuse_several(text, instruction)
    for pattern, make in RULES:
        match = pattern.fullmatch(text)
        meaning = match and make(match)
        if isinstance(meaning, Meaning):
            return _checked(meaning, instruction)
        if meaning:
            return understand(meaning, depth + 1)
    command = as_command(text)
    if command is None or command == text:
        raise NotUnderstood(_help(instruction))
    try:
        return understand(command, depth + 1)
    except NotUnderstood as error:
        raise NotUnderstood(_help(instruction)) from error


def _help(instruction: str) -> str:
    return (
        f"expected an edit such as 'replace the dog with a cat', 'remove the cup', 'add a hat to the "
        f"man' or 'make it winter'; got {instruction[:120]!r}: say it that way, or use another "
        "instructor"
    )


SEVERAL = re.compile(
    rf"(?:.+(?:,|;|\.) )?.*?\S(?:,|;|\.)?(?: and| then| and then|[,;.])(?: then| also)? "
    rf"(?:{w.either(w.EDITS)}) .+",
    re.IGNORECASE,
)


def _refuse_several(text: str, instruction: str) -> None:
    pairs = re.fullmatch(
        r".+ (?:with|to|into) .+ and the .+ (?:with|to|into) .+", text, re.IGNORECASE
    )
    if re.match(r"(?:instead|in place) of |rather than ", text, re.IGNORECASE):
        return  # one replacement, told in two halves
    if (SEVERAL.fullmatch(text) and not ONE_AFTER_ALL.fullmatch(text)) or pairs:
        raise NotUnderstood(
            f"expected one edit at a time; {instruction[:120]!r} asks for several: give them one "
            "after the other"
        )


NO_NOUNS = w.words(
    "is are was were be been us him i we you he they she should could would must will if then "
    "instead please make let what how there not"
)


def _checked(meaning: Meaning, instruction: str) -> Meaning:
    """Refuses objects that are no noun phrases but half sentences."""
    size = len(meaning.object.split())
    odd = re.match(r"(?:and|or|to|be|not|if|of|it|with|from|into)\b", meaning.object, re.IGNORECASE)
    odd = odd or re.search(
        r"\b(?:and|or|to|should|would|with|of|in|on|the)$", meaning.object, re.IGNORECASE
    )
    clause = re.split(r" (?:that|which|who) ", meaning.object)[0].lower().split()
    odd = odd or NO_NOUNS & {*clause} or (clause and len(clause) > 1 and clause[-1] in p.BASES)
    if size > 12 or odd:
        raise NotUnderstood(_help(instruction))
    return meaning


# --- the table


def _rule(pattern: str, make: Callable[[re.Match[str]], Meaning | str | None]) -> Rule:
    return re.compile(pattern, re.IGNORECASE), make


_R, _C, _D, _A = (w.either(one) for one in (w.REPLACE, w.CHANGE, w.REMOVE, w.ADD))
ONE_AFTER_ALL = re.compile(
    rf"(?:{_D}) (?P<old>.+?)(?:,? and(?: then)?|,) (?:(?:{_R}) (?:it|them|him|her) (?:with|by|for) "
    rf"(?P<a>.+)|(?:{_A}) (?P<b>.+?) (?:instead|in (?:its|their|his|her) place|there))",
    re.IGNORECASE,
)
RULES: tuple[Rule, ...] = (
    (ONE_AFTER_ALL, lambda m: of.replaced(m["old"], m["a"] or m["b"])),
    _rule(r"(?:instead of|in place of|rather than) (?P<old>.+?),? (?:make it|add|put|use|have|i want|there should be|let there be|show|draw|i would like) (?P<new>.+)",
          lambda m: of.replaced(m["old"], m["new"])),
    _rule(r"let (?:us|me) (?:see|have) (?P<what>.+)", lambda m: of.there(m["what"])),
    _rule(r"(?:convert|turn|change|transform) (?:in)?to (?P<new>.+)",
          lambda m: Meaning("global", "", m["new"], how="state") if p.is_global(m["new"]) else None),
    _rule(r"(?:swap|switch|exchange|trade) (?:the )?(?:places|positions) .+", lambda m: None),
    _rule(r"substitute (?P<new>.+?) (?:for|in place of) (?P<old>.+)", lambda m: of.replaced(m["old"], m["new"])),
    _rule(rf"(?:{_R})(?: out)? (?P<old>.+?)(?: out)? (?:with|for|by) (?P<new>.+)", lambda m: of.replaced(m["old"], m["new"])),
    _rule(rf"(?:{_C}|make)(?! .* be \w+(?:ed|en)\b)(?! there be) (?P<what>.+?) (?:from (?P<before>.+?) )?(?:into|to be|to|in to)(?: be)? (?P<new>.+)",
          lambda m: of.changed(m["what"] + (f" from {m['before']}" if m["before"] else ""), m["new"])),
    _rule(r"change (?P<old>.+?) (?:for|with|by) (?P<new>.+)", lambda m: of.changed(m["old"], m["new"])),
    _rule(r"change (?P<what>.+)", lambda m: of.otherwise(m["what"])),
    _rule(r"fill (?P<where>.+?) with (?P<what>.+)", lambda m: of.filled(m["where"], m["what"])),
    _rule(r"(?:turn|convert|change|transform) (?P<what>(?!on |off ).+)", lambda m: of.made(m["what"])),
    _rule(r"use (?P<new>.+?) (?:instead of|in place of) (?P<old>.+)", lambda m: of.replaced(m["old"], m["new"])),
    _rule(r"(?:use|set|have|make|put) (?P<new>.+?) (?:as|for|to be|in) the (?:background|backdrop)(?: of .+)?",
          lambda m: Meaning("background", "", m["new"]) if p.is_place(m["new"]) or not m[0].lower().startswith("put") else None),
    _rule(r"(?:make|let|have) (?P<what>.+?) (?:go away|go|disappear|vanish|leave|be gone|invisible)",
          lambda m: of.removed(m["what"])),
    _rule(rf"(?:{_D}) (?P<what>.+)", lambda m: of.removed(m["what"])),
    _rule(r"(?:take|get|cut|crop|edit|photoshop|wipe|rub|throw|paint) (?P<what>.+?) (?:off|out|away|out of|from)(?: .+)?",
          lambda m: of.removed(m["what"])),
    _rule(r"(?:let|have|make) there be (?P<what>.+)", lambda m: of.there(m["what"])),
    _rule(r"(?:let us have|have) (?P<what>(?:no|a|an|some|two|three) .+)", lambda m: of.there(m["what"])),
    _rule(r"(?:move|put|place|set|transport|relocate|bring|take) (?:it|this|(?:the|this) (?:scene|image|photo|picture)) (?:to|in|on|at|into) (?P<new>.+)",
          lambda m: Meaning("background", "", m["new"]) if p.is_place(m["new"]) else None),
    _rule(r"(?:paint|draw|render|show|do|redraw|depict|display|recreate|reimagine|redo)(?: (?:it|this|the .+?))? (?P<new>(?:in the style of|in|as|like|as if it were|by) .+)",
          lambda m: Meaning("global", "", m["new"], how="state") if p.is_global(m["new"]) or "style" in m["new"] else None),
    _rule(r"put (?P<what>.+?) in (?:the )?place of (?P<old>.+)", lambda m: of.replaced(m["old"], m["what"])),
    _rule(r"(?:put|throw|drop) in (?P<what>(?:a|an|some|another|two|three) .+)", lambda m: of.added(m["what"])),
    _rule(rf"(?:{_A}) (?P<what>.+)", lambda m: of.added(m["what"])),
    _rule(r"give (?P<rest>.+)", lambda m: of.given(m["rest"])),
    _rule(rf"(?:{w.either(w.DECORATE)}) (?P<where>.+?) with (?P<what>.+)",
          lambda m: Meaning("addition", p.noun_phrase(m["what"]), m["what"], f"on {m['where']}")),
    _rule(r"apply (?P<what>.+?)(?: to .+)?", lambda m: Meaning("global", "", p.noun_phrase(m["what"]), how="state")),
    _rule(rf"(?:{w.either(w.COLOUR)}) (?P<what>.+)", lambda m: of.painted(m["what"])),
    _rule(rf"(?P<verb>{w.either(w.ALTER)}) (?P<what>.+)", lambda m: of.altered(m["verb"], m["what"])),
    _rule(rf"(?:{w.either(w.CAUSE)}) (?P<what>.+)", lambda m: of.made(m["what"])),
    _rule(r"(?P<what>in the style of .+|in \S+(?: \S+)? style|(?:stylize|stylise) .+|(?:as|like) an? .+ (?:painting|sketch|drawing|cartoon|photo))",
          lambda m: Meaning("global", "", m["what"], how="state")),
    _rule(r"(?P<what>(?:as )?an? .+|as (?:if|though) .+)",
          lambda m: Meaning("global", "", m["what"], how="state") if p.is_global(m["what"]) or "as " in m["what"][:3] else None),
)  # fmt: skip
