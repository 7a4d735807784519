"""Instructors by name."""

from __future__ import annotations

import importlib
from typing import Any

from brushjax.agents.protocols import Instructor

INSTRUCTORS = {
    "patterns": ("brushjax.agents.patterns.instructor", "Patterns"),
    "endpoint": ("brushjax.agents.endpoint", "Endpoint"),
    "local": ("brushjax.agents.local", "LocalModel"),
}


def instructor(name: str = "patterns", **settings: Any) -> Instructor:
    """Makes an instructor.

    "patterns" needs no model, "endpoint" asks a server of OpenAI's protocol, and "local" runs a
    model of transformers.

    Args:
        settings: of its class.

    Raises:
        ValueError: an unknown name.
    """
    if name not in INSTRUCTORS:
        raise ValueError(f"expected an instructor of {', '.join(INSTRUCTORS)}; got {name!r}")
    module, made = INSTRUCTORS[name]
    return getattr(importlib.import_module(module), made)(**settings)


def instructor_of(arguments: Any) -> Instructor:
    """Makes the instructor that a command's flags instructor, model, url and cache name."""
    settings: dict[str, Any] = {}
    if arguments.instructor != "patterns":
        settings = {"model": arguments.model} if arguments.model else {}
    if arguments.instructor == "endpoint":
        settings |= {"url": arguments.url} if arguments.url else {}
        settings |= {"cache": arguments.cache} if arguments.cache else {}
    return instructor(arguments.instructor, **settings)
