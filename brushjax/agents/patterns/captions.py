"""What a picture shows after an edit, from what it showed before."""

from __future__ import annotations

import re

from brushjax.agents.patterns import words as w
from brushjax.agents.patterns.meanings import Meaning

ARTICLE = rf"(?:(?:{w.either(w.ARTICLES)}|one) )?"
DESCRIBED = rf"(?:(?:{w.either(w.ADJECTIVES)}) )*"
CONNECTIVE = r"(?:with|and|or|wearing|holding|carrying|having|beside|next to|near|behind|under)"
POSTURE = (
    r"(?:sitting|standing|lying|walking|running|sleeping|parked|hanging|flying|playing|that is)"
)


def target_caption(meaning: Meaning, source: str) -> str:
    """Returns the caption after the edit; "" for a removal of which nothing else is known."""
    makers = {
        "removal": _without,
        "addition": _with,
        "local": _altered,
        "background": _before_ground,
        "global": _as_a_whole,
    }
    return makers[meaning.category](meaning, " ".join(source.split()).strip(" .")).strip(" ,")


def find(phrase: str, caption: str) -> re.Match[str] | None:
    """Where a caption speaks of a thing, with its article: the whole phrase, without what follows
    a preposition, or its last noun alone."""
    short = re.split(r" (?:on|in|with|at|of|to|under|behind|near|next) ", phrase)[0]
    for one in (phrase, short, short.split()[-1] if short else ""):
        found = one and re.search(
            rf"\b{ARTICLE}{DESCRIBED}{re.escape(one)}\b", caption, re.IGNORECASE
        )
        if found:
            return found
    return None


def with_article(thing: str) -> str:
    """Gives a bare singular its article; leaves plurals and names."""
    first = thing.split()[0].lower() if thing else ""
    bare = thing.split()[-1].lower() if thing else ""
    numbers = ("two", "three", "four", "five", "six", "several", "many", "more")
    if not thing or first in w.ARTICLES or first in numbers or thing[0].isupper():
        return thing
    plural = bare.endswith("s") and not bare.endswith(("ss", "us"))
    mass = bare in {"snow", "rain", "fog", "water", "grass", "hair", "gold", *w.MATERIALS}
    return thing if plural or mass else f"{'an' if first[0] in 'aeiou' else 'a'} {thing}"


def _without(meaning: Meaning, source: str) -> str:
    found = source and find(meaning.object, source)
    if not found:
        return source
    before, after = source[: found.start()], source[found.end() :]
    after = re.sub(rf"^ {POSTURE}\b", "", after)
    before = re.sub(rf"(?:,|\b{CONNECTIVE}) $", "", before).strip(" ,")
    if not before:
        after = re.sub(rf"^ ?(?:,|and|with|{w.either(w.LOCATIONS)})(?= ) ", "", after)
    return " ".join(f"{before} {after}".split())


def _with(meaning: Meaning, source: str) -> str:
    place = re.sub(r"^(?:to|onto|into) ", "on ", meaning.place)
    thing = f"{with_article(meaning.new)} {place}".strip()
    return f"{source}, with {thing}" if source else thing


def _altered(meaning: Meaning, source: str) -> str:
    found = source and find(meaning.object, source)
    if meaning.how == "thing":
        new = with_article(meaning.new)
        if not source:
            return new
        return (
            source[: found.start()] + new + source[found.end() :] if found else f"{source}, {new}"
        )
    colour = re.fullmatch(r"[\w-]+(?: [\w-]+)?", meaning.new) and _is_adjective(meaning.new)
    if not colour:
        kind = "with" if meaning.how == "have" else "is"
        said = f"the {meaning.object} {kind} {meaning.new}"
        return f"{source}, {said}" if source else said
    if not found:
        said = with_article(f"{meaning.new} {meaning.object}")
        return f"{source}, {said}" if source else said
    words = found[0].split()
    group = w.COLOURS if meaning.new.split()[-1] in w.COLOURS else w.MATERIALS
    article = words.pop(0) if words[0].lower() in w.ARTICLES else ""
    words = [word for word in words if word.lower() not in group or word == words[-1]]
    thing = f"{meaning.new} {' '.join(words)}"
    thing = with_article(thing) if article in ("a", "an") else f"{article} {thing}".strip()
    return source[: found.start()] + thing + source[found.end() :]


def _is_adjective(text: str) -> bool:
    return text.split()[-1].lower() in w.ADJECTIVES


def _before_ground(meaning: Meaning, source: str) -> str:
    new = with_article(meaning.new) if meaning.how == "thing" else meaning.new
    ground = new if "background" in new else f"{new} in the background"
    if meaning.how == "state" and "background" not in new:
        ground = f"{meaning.new} background"
    subject = re.split(rf" (?:{w.either(w.LOCATIONS)}) ", source)[0]
    return f"{subject}, {ground}" if subject else ground


def _as_a_whole(meaning: Meaning, source: str) -> str:
    return f"{source}, {meaning.new}" if source else meaning.new
