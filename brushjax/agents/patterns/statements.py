"""Statements ("the car should be red") and questions, brought to commands."""
# ruff: noqa: E501 - a rule is read as one line

from __future__ import annotations

import re

STATEMENTS = (
    (r"(?:what (?:would|will) (?:it|this|that) (?:look|be) like|what|how|suppose|imagine|as)"
     r"(?: about)?(?: if| that)?,? there (?:was|were|is|are|be) (?P<a>.+)", "let there be {a}"),
    (r"(?:make |have |let |i want |i would like |i need |can |could |should |might |get )*there "
     r"(?:to |should |could |can |must |needs to |might )*(?P<n>not )?(?:be|are|is|was|were) (?P<a>.+)",
     "let there be {n}{a}"),
    (r"(?:what (?:would|will) (?:it|this|that) (?:look|be) like|what|how|suppose|imagine)(?: about)?"
     r"(?: if| that)?,? (?:we )?(?P<v>replaced|removed|added|changed|turned|made|put|gave|had|used) "
     r"(?P<a>.+)", "<{v}> {a}"),
    (r"(?:what (?:would|will) (?:it|this|that|\w+ \w+) (?:look|be) like if|what if|how about if|"
     r"suppose|imagine)(?: that)?,? (?P<a>.+)", "make {a}"),
    (r"it (?:needs|could use|lacks|is missing) (?P<a>.+)", "let there be {a}"),
    (r"(?:i|we) wish (?:that )?(?P<a>.+?) (?P<b>was|were|had|could|would) (?P<c>.+)", "make {a} {b} {c}"),
    (r"(?P<a>.+?) (?:needs?|could use|lacks?|is missing) (?P<b>(?:a|an|some|more) .+)", "give {a} {b}"),
    (r"(?:i|we) (?:would rather|would prefer|prefer) not (?:to )?(?:have|see) (?P<a>.+)", "remove {a}"),
    (r"(?P<a>(?:a|an|some) .+?) (?:would|could|might) (?:look|be) (?:nice|good|great|cool|lovely|better|nicer)(?P<b>.*)", "let there be {a}{b}"),
    (r"(?:i|we) (?:do|would) not (?:want|like|need)(?: to (?:see|have))? (?P<a>.+)", "remove {a}"),
    (r"(?:i |we )(?:want|would like|need) (?P<a>.+?) (?:to be )?(?:gone|out|away|removed|deleted|erased)",
     "remove {a}"),
    (r"(?:let us )?(?:see|have) (?P<a>.+)", "let there be {a}"),
    (r"(?:i |we |you )?(?:want|would like|need|would love|would prefer|wish|prefer) (?:for |to (?:have|see) )?"
     r"(?P<a>.+?) to (?P<b>be|look|wear|hold|have|become|turn|smile|sit|stand|\w+) ?(?P<c>.*)",
     "make {a} {b} {c}"),
    (r"(?:i |we )(?:want|would like|need|would love|would prefer|wish|prefer) (?:for |to (?:have|see) )?"
     r"(?P<a>.+)", "<have> {a}"),
    (r"(?:can|could|may|shall|should|might|let) (?:we|us|i)(?: please)? (?:have|see|get) (?P<a>.+)",
     "<have> {a}"),
    (r"(?:we|you) (?:should|could|can) (?:have|see) (?P<a>.+)", "<have> {a}"),
    (r"(?:can|could|should|would|will|may|might) (?P<a>(?!you |we |i ).+)", "make {a}"),
    (r"(?P<a>.+?) (?:should|could|must|needs? to|ha(?:s|ve) to|ought to|might|would look better|"
     r"would be better|will|would) (?:now |instead |also )?(?P<n>not )?(?P<b>.+)", "make {a} {n}{b}"),
    (r"(?P<a>.+?) can (?P<n>not )?(?P<b>.+)", "make {a} {n}{b}"),
    (r"(?P<a>.+?) (?:instead of|in place of|rather than) (?P<b>.+)", "replace {b} with {a}"),
    (r"(?:no more|no|without|minus|less) (?P<a>.+)", "remove {a}"),
    (r"(?:use|set|with|have) (?P<a>.+?) (?:as|for) (?P<b>the (?:background|backdrop))",
     "change {b} to {a}"),
    (r"(?:as|like|in) (?P<a>(?:a|an|the) .+)", "make it look like {a}"),
)  # fmt: skip
PRESENT = {
    "replaced": "replace", "removed": "remove", "added": "add", "changed": "change",
    "turned": "turn", "made": "make", "gave": "give", "had": "let there be", "used": "use",
    "have": "let there be", "put": "put",
}  # fmt: skip


def as_command(text: str) -> str | None:
    """Returns the command that a statement or question stands for; None of others."""
    for pattern, command in STATEMENTS:
        match = re.fullmatch(pattern, text, re.IGNORECASE)
        if not match:
            continue
        parts = {name: value or "" for name, value in match.groupdict().items()}
        made = " ".join(command.format(**parts).split())
        made = re.sub(r"^<(\w+)>", lambda word: PRESENT[word[1].lower()], made)
        return re.sub(r"^remove (?:a|an|any) ", "remove the ", made)
    return None
