"""What commands mean: the functions that the grammar's rules call with the parts of a command."""

# ruff: noqa: E501 - a pattern is read as one line

from __future__ import annotations

import dataclasses
import re

from brushjax.agents.patterns import phrases as p
from brushjax.agents.patterns import words as w
from brushjax.agents.plan import Category


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What a command asks for.

    Attributes:
        category: of `EditPlan`.
        object: of `EditPlan`.
        new: what is there afterwards, as it was said; "" for a removal.
        place: of an addition, with its preposition.
        how: what `new` is: a "thing" that takes the object's place, a "state" of it, or "have",
            which the object has then.
    """

    category: Category
    object: str = ""
    new: str = ""
    place: str = ""
    how: str = "thing"


def replaced(old: str, new: str) -> Meaning | None:
    """Of "replace OLD with NEW"."""
    new = re.sub(r" (?:instead|in its place|there)$", "", new.strip())
    if p.is_ground(old):
        return Meaning("background", "", new)
    if p.is_whole(old) or p.is_aspect(old):
        return Meaning("global", "", new, how="state")
    if p.noun_phrase(old).lower() in w.IT:
        return Meaning("global", "", new, how="state") if p.is_global(new) else None
    if not p.noun_phrase(old) or not new:
        return None
    return Meaning("local", p.noun_phrase(old), new)


def changed(what: str, new: str) -> Meaning | None:
    """Of "change WHAT to NEW"."""
    described = re.fullmatch(r"(.+?) from (.+)", what, re.IGNORECASE)
    if described:
        what, before = described.groups()
        generic = p.noun_phrase(what).lower() in w.GENERIC
        thing = p.noun_phrase(what)
        if not (
            p.is_ground(what) or p.is_whole(what) or p.is_aspect(what) or p.owner_of_property(what)
        ):
            if generic or re.match(r"(?:a|an) ", before, re.IGNORECASE):
                what = before
            elif not thing:
                return None
    it = p.noun_phrase(what).lower() in w.IT
    if it or p.is_ground(what) or p.is_whole(what) or p.is_aspect(what):
        return replaced(what, new)
    lone = re.fullmatch(w.either(w.PROPERTIES), p.noun_phrase(what), re.IGNORECASE)
    if lone:
        return None
    owner = p.owner_of_property(what)
    if owner:
        if p.is_whole(owner) or p.is_ground(owner):
            return Meaning("background" if p.is_ground(owner) else "global", "", new, how="state")
        return Meaning("local", owner, new, how="state")
    if re.fullmatch(rf"(?:{w.either(w.ADVERBS)} )*[\w-]+(?: and [\w-]+)?", new) and all(
        p.looks_like_adjective(word) for word in new.split() if word != "and"
    ):
        return Meaning("local", p.noun_phrase(what), new, how="state")
    return replaced(what, new)


def made(text: str) -> Meaning | str | None:
    """Of "make X ADJ", "have X VERB", "let X be Y", "turn X ADJ"."""
    cut = p.complement(text)
    return cut and _caused(*cut)


def _caused(who: str, what: str) -> Meaning | str | None:
    """Of "make WHO WHAT"; a passive gives the command that it stands for."""
    what = _base(what.strip())
    found = _of_newcomer(who, what) or _passive(who, what) or _of_picture(who, what)
    if found:
        return found
    if who.lower() in w.IT:
        return _of_it(what)
    if re.fullmatch(w.either(w.GONE), what, re.IGNORECASE):
        return Meaning("removal", p.noun_phrase(who))
    return _of_thing(who, what)


def _of_newcomer(who: str, what: str) -> Meaning | None:
    """Of "let a bird WHAT": something that was not there."""
    if not re.match(r"(?:a|an|some|another) ", who, re.IGNORECASE):
        return None
    verb = what.split()[0].lower() if what else ""
    if verb in w.VERBS - {"be", "look", "become", "have", "wear", "hold"}:
        return Meaning("addition", p.noun_phrase(who), who, what)
    if re.match(rf"be (?:{w.either(w.LOCATIONS)}|\w+ing) ", what):
        return Meaning("addition", p.noun_phrase(who), who, what[3:])
    return None


def _of_picture(who: str, what: str) -> Meaning | None:
    """Of what the background or the whole picture should be."""
    if p.is_ground(who):
        gone = re.fullmatch(w.either(w.GONE), what, re.IGNORECASE)
        return Meaning("background", "", "" if gone else _bare(what), how="state")
    at = re.fullmatch(
        r"(?:be |take place |be set |happen )*(?:in|on|at) (?P<place>.+)", what, re.IGNORECASE
    )
    if at and p.is_whole(who) and p.is_place(at["place"]):
        return Meaning("background", "", at["place"])
    if p.is_whole(who) or p.is_aspect(who) or p.noun_phrase(who).lower() == "there":
        return Meaning("global", "", _bare(what), how="state")
    return None


def _of_thing(who: str, what: str) -> Meaning | None:
    """Of what a thing should have, become, be or do."""
    holding, using = w.either(w.HOLDING), w.either(w.USING)
    there = re.fullmatch(r"be (?:in|on|at) (?P<place>.+)", what, re.IGNORECASE)
    if there and p.is_place(there["place"]):
        return Meaning("background", "", there["place"])
    bared = re.fullmatch(rf"not (?:be )?(?:{holding}) (?P<what>.+)", what, re.IGNORECASE)
    if bared:
        return removed(bared["what"])
    holds = re.fullmatch(rf"(?:be )?(?P<verb>{holding}) (?P<what>.+)", what, re.IGNORECASE)
    if holds:
        return _had(who, holds["what"], holds["verb"])
    used = re.fullmatch(rf"(?:be )?(?:{using}) (?P<what>an? .+)", what, re.IGNORECASE)
    if used:
        return _had(who, used["what"], "use")
    into = re.fullmatch(
        r"(?:be |become |turn |look like |turn into |resemble |to be )*(?:into |like )?"
        r"(?P<new>(?:a|an|the|two|three|some) .+)",
        what,
        re.IGNORECASE,
    )
    if into:
        return replaced(who, into["new"])
    owner = p.owner_of_property(who) or p.noun_phrase(who)
    return Meaning("local", owner, _bare(what), how="state") if owner else None


def _of_it(what: str) -> Meaning | None:
    """Of what "it" should be: the whole picture where that can be meant."""
    bare = _bare(what)
    if re.match(r"(?:have|contain|show) ", bare):
        return added(bare.partition(" ")[2])
    bare = re.sub(r"^(?:take place|happen|be set) (?:at|during) ", "", bare)
    bare = re.sub(r"^(?:like|as if|as though) (?:they|he|she|it|we) (?:is|are|was|were) ", "", bare)
    inside = re.fullmatch(r"(?:in|on|at|by) (?P<place>.+)", bare, re.IGNORECASE)
    if inside and p.is_place(inside["place"]):
        return Meaning("background", "", inside["place"])
    return Meaning("global", "", bare, how="state") if p.is_global(bare) else None


def _had(who: str, what: str, verb: str) -> Meaning | None:
    """Of "have WHO wear WHAT", "give WHO WHAT"."""
    last = p.noun_phrase(what).split()[-1].lower() if p.noun_phrase(what) else ""
    if re.match(r"no ", what):
        return Meaning("removal", p.noun_phrase(what[3:]))
    if who.lower() in w.IT and last in ("look", "feel", "vibe", "style", "tone", "mood", "touch"):
        return Meaning("global", "", what, how="state")
    compared = re.fullmatch(r"(?:an? )?(?P<how>(?!another )\w+er|different|more|less) \w+", what)
    if verb == "have" and compared and compared["how"] not in w.NO_ADJECTIVES:
        return Meaning("local", p.noun_phrase(who), what, how="have")
    if p.is_whole(who) and last in ("background", "backdrop"):
        return Meaning("background", "", what, how="state")
    if p.is_whole(who):
        return Meaning("global", "", what, how="state")
    if last in w.MANNERS:
        return Meaning("local", p.noun_phrase(who), what, how="have")
    if last in w.ATTRIBUTES:
        return Meaning("local", last, what, how="have")
    if re.search(r" instead of ", what):
        new, _, old = what.partition(" instead of ")
        part = verb in ("have", "having") and p.noun_phrase(old) and not p.has_new_article(new)
        return (
            Meaning("local", p.noun_phrase(who), what, how="have") if part else replaced(old, new)
        )
    thing, place = p.located(what)
    place = (
        place
        or f"{ {'ride': 'under', 'riding': 'under'}.get(verb, 'on') } the {p.noun_phrase(who)}"
    )
    return Meaning("addition", p.noun_phrase(thing), thing, place)


def given(rest: str) -> Meaning | None:
    """Of "give WHO WHAT" and "give WHAT to WHO"."""
    to = re.fullmatch(r"(?P<what>(?:a|an|some|more) .+) to (?P<who>.+)", rest, re.IGNORECASE)
    if to:
        return _had(to["who"], to["what"], "have")
    tokens = rest.split()
    for i in range(1, len(tokens)):
        pronoun = i == 1 and tokens[0].lower() in w.OWNERS
        if pronoun or p.has_new_article(" ".join(tokens[i:]) + " "):
            return _had(" ".join(tokens[:i]), " ".join(tokens[i:]), "have")
    cut = p.complement(rest)
    return cut and _had(*cut, "have")


def added(text: str) -> Meaning | None:
    """Of "add TEXT"."""
    whole = re.fullmatch(r"(?P<what>.+?)(?: to (?:it|this))?", text, re.IGNORECASE)
    text = whole["what"] if whole else text
    instead = re.fullmatch(r"(?P<new>.+?) (?:instead of|in place of|in the place of|rather than|"
                           r"where) (?P<old>.+?)(?: (?:is|was|are))?", text, re.IGNORECASE)  # fmt: skip
    if instead:
        return replaced(instead["old"], instead["new"])
    thing, place = p.located(text)
    noun = p.noun_phrase(p.without_action(thing))
    end = noun.split()[-1].lower() if noun else ""
    if re.fullmatch("filter|effect|style|vignette|tone|look|mood|vibe|overlay|atmosphere|contrast|"
                    "lighting|saturation", end):  # fmt: skip
        return Meaning("global", "", noun, how="state")
    if re.fullmatch("background|backdrop", end):
        return Meaning("background", "", noun.rsplit(" ", 1)[0] if " " in noun else noun)
    where = re.sub(r"^\S+ ", "", place)
    if p.is_whole(thing):
        return Meaning("global", "", place, how="state")
    coloured = re.match("the ", thing) and re.fullmatch(r"in ([\w-]+)", place)
    if coloured and p.looks_like_adjective(coloured[1]):
        return Meaning("local", noun, coloured[1], how="state")
    known = re.match(r"(?:the|this|that|these|those|him|her|it|them) ?", thing, re.IGNORECASE)
    if known and p.is_place(where) and not re.match(r"to ", place) and not re.match("the ", where):
        return Meaning("background", "", where)
    if not noun or noun.lower() in w.IT:
        return None
    return Meaning("addition", noun, thing, place)


def filled(where: str, what: str) -> Meaning:
    """Of "fill WHERE with WHAT"."""
    if re.fullmatch("air|sky|room|space|scene|image|picture|background", p.noun_phrase(where)):
        return Meaning("addition", p.noun_phrase(what), what, f"in {where}")
    return Meaning("local", p.noun_phrase(where), f"full of {what}", how="state")


def otherwise(what: str) -> Meaning | None:
    """Of "change WHAT", which says not into what."""
    thing = p.noun_phrase(what)
    if p.is_ground(what):
        return Meaning("background", "", f"a different {thing}")
    if p.is_aspect(what):
        return Meaning("global", "", f"a different {thing}", how="state")
    owner = p.owner_of_property(what)
    named = re.search(w.either(w.PROPERTIES), thing, re.IGNORECASE)
    return (
        Meaning("local", owner, f"a different {named[0]}", how="have") if owner and named else None
    )


def there(text: str) -> Meaning | None:
    """Of "let there be TEXT"."""
    acting = p.complement(text)
    if acting and _base(acting[1]).split()[0].lower() in w.VERBS and acting[1].split()[1:]:
        return Meaning("addition", p.noun_phrase(acting[0]), *acting)
    none = re.fullmatch(
        r"(?:no|not any|not be any|not be an?|no more|not be) (?P<what>.+)", text, re.IGNORECASE
    )
    return removed(none["what"]) if none else added(text)


def removed(text: str) -> Meaning | None:
    """Of "remove TEXT"."""
    text = re.sub(
        r",? (?:from(?! the (?:left|right|top|bottom|back|front)$)|off|out of) .+$| (?:off|out|away|completely)$",
        "",
        text,
    )
    if p.is_ground(text):
        return Meaning("background", "", "a plain white background", how="state")
    noun = p.noun_phrase(text)
    if re.fullmatch(
        r"(?:all )?(?:the )?colou?rs?|saturation|blur|noise|grain|haze", text, re.IGNORECASE
    ):
        return Meaning("global", "", f"without {noun}", how="state")
    if not noun or noun.lower() in w.IT or p.is_whole(text):
        return None
    return Meaning("removal", noun)


def altered(verb: str, rest: str) -> Meaning | None:
    """Of a verb that says itself what becomes of the thing, such as "open"."""
    rest = re.sub(r" (?:into|with|in half|in) (?!the ).+$| up$", "", rest)
    if p.is_ground(rest):
        return Meaning("background", "", f"{verb} background", how="state")
    if p.is_whole(rest) or p.is_aspect(rest):
        return Meaning("global", "", verb, how="state")
    noun = p.owner_of_property(rest) or p.noun_phrase(rest)
    return Meaning("local", noun, verb, how="state") if noun and noun.lower() not in w.IT else None


def painted(text: str) -> Meaning | str | None:
    """Of "paint TEXT"."""
    if p.has_new_article(text) and p.located(text)[1]:
        return added(text)
    text = re.sub(r" (?:in|with) (?=\S+(?: \S+)?$)", " ", text) if "style" not in text else text
    return made(text)


def _bare(what: str) -> str:
    return re.sub(
        r"^(?:(?:to )?(?:be|look|become|appear|seem)(?= ) )+", "", what, flags=re.IGNORECASE
    )


def _base(what: str) -> str:
    """Brings the first verb to its bare form."""
    first, space, rest = what.partition(" ")
    first = p.BASES.get(first.lower(), first)
    return first + space + rest


def _passive(who: str, what: str) -> str | None:
    """The command of "be replaced with a cat", said of `who`; None of what is no passive."""
    done = re.fullmatch(r"(?:to )?(?:(?:be|get) )?(?:(?:completely|also) )?(?P<verb>\w+ed|put|set|taken|"
                        r"hidden|swapped|made|drawn|turned)(?P<rest>(?: .+)?)", what, re.IGNORECASE)  # fmt: skip
    if not done:
        return None
    verb, rest = done["verb"].lower(), done["rest"]
    known = f"{w.REPLACE} {w.CHANGE} {w.REMOVE} {w.ADD} {w.COLOUR}".split()
    irregular = {"put": "put", "set": "set", "taken": "take", "hidden": "hide", "drawn": "draw"}
    for base in [irregular.get(verb, ""), *known]:
        double = base + base[-1:] + "ed"
        forms = (base + "ed", base + "d", double, base[:-1] + "ied")
        if base and "_" not in base and (verb in forms or base == irregular.get(verb)):
            return f"{base} {who}{rest}"
    return None
