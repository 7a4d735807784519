"""From a sentence as people write it to a bare command, and from words to noun phrases."""

# ruff: noqa: E501 - a pattern is read as one line

from __future__ import annotations

import re

from brushjax.agents.patterns import words as w

CONTRACTIONS = (
    (r"\b(i|we|you|they)'d\b", r"\1 would"),
    (r"\blet's\b", "let us"),
    (r"\b(do|does|did|should|could|would|is|are|was|were)n'?t\b", r"\1 not"),
    (r"\b(?:can't|cannot)\b", "can not"),
    (r"\b(there|it|that|what)'s\b", r"\1 is"),
    (r"\b(i)'m\b", r"\1 am"),
    (r"\b(i|we|you|they)'(?:ve|ll)\b", r"\1"),
    (r"\b(?:wanna)\b", "want to"),
    (r"\bgonna\b", "going to"),
)
WHOLE = rf"(?:the |this |my |that |our )(?:whole |entire |overall )?(?:{w.either(w.WHOLE)})"
OF_PICTURE = rf" (?:in|from|of|within|inside|for|on) {WHOLE}(?= |$)"
POLITE = (
    r"(?:hey|hi|hello|ok|okay|so|well|and|now|then|also|please|kindly|just|maybe|perhaps|next|first)"
    r"[ ,]+(?=\w+ )",
    r"(?:would|do) you mind (?:please )?(?=\w+ing )",
    r"(?:(?:it would be (?:nice|great|good|cool)|i would like it|i would love it) if you |i wish you )"
    r"(?:could |would )?",
    r"(?:can|could|would|will) you (?:please |kindly |maybe |just |possibly )?",
    r"(?:can|could|may|shall|should|let) (?:we|us|i) (?:please |maybe |just |possibly )?"
    r"(?!have\b|see\b|get\b(?! rid)|want\b)",
    r"let us (?=have (?:him|her|them|it|the)\b)",
    r"i (?:would like|want|need|would love|wish|am asking|would prefer) (?:you |for you )to "
    r"(?:please )?",
    r"i (?:would like|want|need|would love|wish|am going) to (?!have\b|see\b|be\b)",
    r"(?:we|you) (?:should|could|can|need to|have to|must) (?!have\b|see\b)",
    r"(?:try to|try|go ahead and|make sure to|your task is to|it would be (?:nice|great|good|cool) to"
    r"|how about|is it possible to|would it be possible to|is there a way to|are you able to|what about(?= \w+ing)|help me(?: to)?|feel free to|i think you should|"
    r"i think we should) ",
    r"(?:edit|modify|change|alter|update|fix) (?:the |this )?(?:image|picture|photo)"
    r"(?:(?: so that|[:,]| such that| so) (?=\w+ \w+)"
    rf"| to (?=(?:{w.either(w.EDITS)}) \w+))",
    r"by (?=\w+ing )",
    r"(?:i|we) (?:think|believe|feel|guess|suggest) (?:that )?(?!you |we )",
)
GERUNDS = {
    "replacing": "replace", "removing": "remove", "adding": "add", "changing": "change",
    "turning": "turn", "making": "make", "putting": "put", "giving": "give", "swapping": "swap",
    "deleting": "delete", "erasing": "erase", "placing": "place", "converting": "convert",
    "having": "have", "painting": "paint", "coloring": "color", "getting": "get",
    "transforming": "transform", "inserting": "insert", "taking": "take", "substituting": "substitute",
}  # fmt: skip
FOLLOW_ACTION = {*w.either(w.LOCATIONS).split("|")}
FOLLOW_ACTION |= w.words("with out through down up away off for")
BEFORE_NOUNS = {*w.either(w.LOCATIONS).split("|"), *w.words("of with that who which and")}
BASES = {
    "wearing": "wear", "holding": "hold", "carrying": "carry", "having": "have", "riding": "ride",
    "had": "have", "has": "have", "wore": "wear", "held": "hold", "wears": "wear", "holds": "hold",
    "rode": "ride", "was": "be", "were": "be", "is": "be", "are": "be", "became": "become",
    "becomes": "become", "looked": "look", "looks": "look", "turned": "turn", "turns": "turn",
    "disappeared": "disappear", "carried": "carry", "ate": "eat", "sat": "sit", "stood": "stand",
    "smiled": "smile", "flew": "fly", "ran": "run", "carries": "carry", "rides": "ride",
}  # fmt: skip


def cleaned(text: str) -> str:
    """One line without quotes, final stops, contractions, politeness and "in the picture"."""
    text = (
        text.replace("\u2019", "'")
        .replace("\u2018", "'")
        .replace("\u201c", "")
        .replace("\u201d", "")
    )
    text = " ".join(text.replace('"', "").split()).strip(" .!?,;:")
    for pattern, full in CONTRACTIONS:
        text = re.sub(pattern, full, text, flags=re.IGNORECASE)
    text = re.sub(r",? ?\b(?:please|thanks|thank you|kindly|for me|if possible)\b(?=$|[,.])", "", text,
                  flags=re.IGNORECASE)  # fmt: skip
    text = re.sub(r"^[\w']+ing the (?:image|picture|photo),? ", "", text)
    before = None
    while before != text:
        before = text
        for pattern in POLITE:
            text = re.sub(rf"^{pattern}", "", text, count=1, flags=re.IGNORECASE).strip(" ,")
        text = re.sub(rf"^(?:in|on|for|to) {WHOLE},? ", "", text, count=1, flags=re.IGNORECASE)
    text = re.sub(r"\bplease\b ?", "", text, flags=re.IGNORECASE)
    stripped = re.sub(OF_PICTURE, "", text, flags=re.IGNORECASE)
    text = stripped if " " in stripped else text
    text = re.sub(rf" to {WHOLE}$", "", text, flags=re.IGNORECASE)
    text = re.sub(r",? (?:entirely|completely|altogether|everywhere|there|somewhere|right now|as well|too)$", "",
                  text, flags=re.IGNORECASE)  # fmt: skip
    first, space, rest = text.strip(" .!?,;:").partition(" ")
    return GERUNDS.get(first.lower(), first) + space + rest


def noun_phrase(text: str) -> str:
    """A noun phrase without article, quantifier and pronoun of possession."""
    text = text.strip(" ,.;:!?")
    if text.lower() in w.OWNERS:
        return w.OWNERS[text.lower()]
    quantity = (
        r"(?:all|both|each|every|most|one|half)(?: of)?|(?:a )?(?:few|lot of|lots of|bunch of)"
    )
    quantity += r"|several|many|more|lots of|plenty of|a little|another|one more|a different|a new"
    before = None
    while before != text:
        before = text
        text = re.sub(rf"^(?:{quantity}) (?=\w)", "", text, count=1, flags=re.IGNORECASE)
        text = re.sub(
            rf"^(?:{w.either(w.ARTICLES)}) (?=\w)", "", text, count=1, flags=re.IGNORECASE
        )
    return text


def is_whole(text: str) -> bool:
    """Says whether a phrase means the picture itself."""
    return bool(re.fullmatch(rf"(?:whole |entire |overall )?(?:{w.either(w.WHOLE)})",
                             noun_phrase(text), re.IGNORECASE))  # fmt: skip


def is_ground(text: str) -> bool:
    """Says whether a phrase means the background."""
    owned = rf"(?:[\w' ]+? )?(?:{w.either(w.GROUND)})(?:'s)?(?: (?:{w.either(w.PROPERTIES)}|image|scene|area))?"
    of = rf"(?:{w.either(w.PROPERTIES)}) of the (?:{w.either(w.GROUND)})"
    behind = r"(?:everything|what is|area|space|scene) (?:behind|around) [\w' ]+"
    text = noun_phrase(text)
    if re.search(r" (?:in|on|at|from|of) (?:the )?\w+$", text) and not re.fullmatch(of, text):
        return False
    return bool(re.fullmatch(rf"{owned}|{of}|{behind}", text, re.IGNORECASE))


def is_aspect(text: str) -> bool:
    """Says whether a phrase means a property of the whole picture: its style, season, weather."""
    if re.fullmatch(r"the (?:snow|rain|fog|sunset|sunrise)", text, re.IGNORECASE):
        return False  # things that lie there
    pattern = rf"(?:{w.either(w.ASPECTS)}|{w.either(w.TIMES)})(?: outside)?"
    return bool(re.fullmatch(pattern, noun_phrase(text), re.IGNORECASE))


def is_global(text: str) -> bool:
    """Says whether a complement describes whole pictures: a time, a weather, a style."""
    text = noun_phrase(re.sub(r"^(?:look )?(?:like |as if |as though |it (?:is|was|were) )*", "", text,
                              flags=re.IGNORECASE))  # fmt: skip
    text = re.sub(rf"^(?:(?:{w.either(w.ADVERBS)}|look|be|a|an) )+", "", text, flags=re.IGNORECASE)
    found = re.search(rf"\b(?:{w.either(w.STYLES)})\b", text, re.IGNORECASE)
    times = rf"(?:[\w-]+ )?(?:{w.either(w.TIMES)})(?:[ -]?(?:time|day|night|season|weather|outside|scene))?"
    more = re.fullmatch(rf"{times}(?: (?:and|with|in|at|on) .*)?", text, re.IGNORECASE)
    century = re.search(r"\b(?:century|\d0s|era|decade|years?|by [A-Z])\b", text)
    return bool(found or more or century)


def is_place(text: str) -> bool:
    """Says whether a phrase is a place to be in, such as a beach."""
    text = re.split(r" (?:with|in|at|on|of|full|under|near|during) ", noun_phrase(text))[0]
    return bool(re.search(rf"(?:^| )(?:{w.either(w.PLACES)})$", text, re.IGNORECASE))


def has_new_article(text: str) -> bool:
    """Says whether a phrase brings something that was not there."""
    new = r"(?:a|an|some|another|two|three|four|five|six|several|many|more|lots|few|one) "
    return bool(re.match(new, text, re.IGNORECASE))


def owner_of_property(text: str) -> str | None:
    """The thing of "the color of the car", "the car's color" or "the car color"; None of others."""
    names = w.either(w.PROPERTIES)
    text = noun_phrase(text)
    for pattern in (
        rf"(?:{names}) of (?P<thing>.+)",
        rf"(?P<thing>.+?)(?:'s|(?<=s)') (?:{names})",
        rf"(?P<thing>.+?) (?:{names})",
    ):
        found = re.fullmatch(pattern, text, re.IGNORECASE)
        if found:
            return noun_phrase(found["thing"])
    return None


def located(text: str) -> tuple[str, str]:
    """Cuts what is added from where: "a hat", "on the man's head"."""
    matches = list(re.finditer(rf" (?P<word>{w.either(w.LOCATIONS)}) (?=\S)", text, re.IGNORECASE))
    worn = (
        r" in (?:an? |the )?(?:[\w-]+ ){0,2}?(?:suit|dress|hat|coat|shirt|jacket|uniform|costume|"
    )
    worn += r"helmet|robe|armou?r|gown|tuxedo|kimono|hoodie|sweater|pajamas|bikini|mask)\b"
    clothed = re.search(worn, text, re.IGNORECASE)
    matches = [one for one in matches if not (clothed and one.start() == clothed.start())]
    if not matches:
        return text, ""
    cut = matches[0].start()
    return text[:cut], text[cut + 1 :]


def without_action(text: str) -> str:
    """Cuts "a flock of birds flying low" before what it does."""
    tokens = text.split()
    for i, token in enumerate(tokens[1:], 1):
        new = token.endswith("ing") and token.lower() not in w.ING_NOUNS and len(token) > 4
        after = tokens[i + 1].lower() if i + 1 < len(tokens) else "in"
        follows = after in FOLLOW_ACTION or after in w.ARTICLES
        if new and follows and tokens[i - 1].lower() not in w.ARTICLES:
            return " ".join(tokens[:i])
    return text


def looks_like_adjective(word: str) -> bool:
    """Says whether a word can be a complement by itself: known, or of such an ending."""
    word = word.lower().strip(",")
    if word in w.ADJECTIVES or word in w.SHADES:
        return True
    return len(word) > 3 and word.endswith(w.ENDINGS) and word not in w.NO_ADJECTIVES


def complement(text: str) -> tuple[str, str] | None:
    """Cuts "the man in the red shirt smile" into the thing and what it is to be or do.

    A noun phrase ends before an article, an adverb, an adjective, or a verb that follows its noun;
    after a preposition another noun phrase begins.
    """
    tokens = text.split()
    if _starts_with_pronoun(tokens):
        return tokens[0], " ".join(tokens[1:])
    head = article = False
    for i, token in enumerate(tokens):
        word, owned = token.lower(), i > 0 and tokens[i - 1].lower().endswith(("'s", "s'"))
        if _ends_noun_phrase(tokens, i, head) or (
            i > int(article) and word in ("be", "not", "look")
        ):
            return _cut(tokens, i)
        if word in BEFORE_NOUNS:
            head, article = False, False
        elif word in w.ARTICLES or word.isdigit():
            article = True
        elif owned or word.endswith(("'s", "s'")) or not looks_like_adjective(word) or head:
            head = True  # what somebody has is a thing, be it called a face
    if len(tokens) - int(article) >= 2:
        return _cut(tokens, len(tokens) - 1)
    return None


def _ends_noun_phrase(tokens: list[str], i: int, head: bool) -> bool:
    """Says whether a word can't belong to a phrase that has its noun already."""
    word = tokens[i].lower()
    if not head:
        return False
    if word in ("into", "to", "out", "as", "no", "like", "less"):
        return True
    if word in BEFORE_NOUNS:
        return word == "in" and i + 2 == len(tokens)  # "in red"
    if word in w.ARTICLES or word.isdigit():
        return True
    if tokens[i - 1].lower().endswith(("'s", "s'")):
        return False
    if word in w.ADVERBS or word in w.VERBS or word in BASES:
        return True
    adjective = looks_like_adjective(word) and not word.endswith(("'s", "s'"))
    return adjective and not _light(tokens, i)


def _starts_with_pronoun(tokens: list[str]) -> bool:
    """Says whether "her" and the like stand for a thing, and not for whose it is."""
    if len(tokens) < 2 or tokens[0].lower() not in {*w.OWNERS, *w.IT}:
        return False
    owner = tokens[0].lower() == "her" and len(tokens) > 2
    return not (owner and _is_noun(tokens[1], tokens[2]))


def _light(tokens: list[str], i: int) -> bool:
    """The noun of "traffic light", which is no adjective."""
    return tokens[i].lower() == "light" and tokens[i - 1].lower() in ("traffic", "street", "night")


def _is_noun(first: str, second: str) -> bool:
    first, second = first.lower(), second.lower()
    return not (first in w.ARTICLES or first in w.VERBS or first in BASES) and (
        second in w.VERBS or looks_like_adjective(second) or not looks_like_adjective(first)
    )


def _cut(tokens: list[str], i: int) -> tuple[str, str] | None:
    return (" ".join(tokens[:i]), " ".join(tokens[i:])) if i else None
