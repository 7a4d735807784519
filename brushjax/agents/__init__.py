"""From an instruction to a plan of an edit, and from the plan to the edited picture."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brushjax.agents.instructors import instructor
    from brushjax.agents.plan import CATEGORIES, EditPlan, NotUnderstood
    from brushjax.agents.protocols import Editor, Instructor, Segmenter, Segments

_HOME_OF = {
    "CATEGORIES": "brushjax.agents.plan",
    "EditPlan": "brushjax.agents.plan",
    "Editor": "brushjax.agents.protocols",
    "Instructor": "brushjax.agents.protocols",
    "NotUnderstood": "brushjax.agents.plan",
    "Segmenter": "brushjax.agents.protocols",
    "Segments": "brushjax.agents.protocols",
    "instructor": "brushjax.agents.instructors",
}

__all__ = [
    "CATEGORIES",
    "EditPlan",
    "Editor",
    "Instructor",
    "NotUnderstood",
    "Segmenter",
    "Segments",
    "instructor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'brushjax.agents' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
