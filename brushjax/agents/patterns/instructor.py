"""The instructor "patterns"."""

from __future__ import annotations

from typing import Any

from brushjax.agents.patterns.captions import target_caption
from brushjax.agents.patterns.grammar import understand
from brushjax.agents.plan import EditPlan


class Patterns:
    """Plans edits from the words alone; the picture is not looked at.

    Differs: docs/deviations.md, agent-patterns.
    """

    def __call__(self, instruction: str, image: Any = None, source_caption: str = "") -> EditPlan:
        """Returns the plan, without mask.

        Raises:
            NotUnderstood: what the grammar has no rule for, and several edits in one sentence.
        """
        meaning = understand(instruction)
        return EditPlan(
            image,
            instruction,
            meaning.category,
            meaning.object,
            source_caption,
            target_caption(meaning, source_caption),
        )
