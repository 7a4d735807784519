"""The report as a static page: tables that sort at a click, and records to look through."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from brushjax.evaluation.report.lint import Finding
from brushjax.evaluation.report.samples import Samples
from brushjax.evaluation.report.tables import Table

FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """What is said of a benchmark; tables of its groups are folded away."""

    tables: Sequence[Table]
    groups: Sequence[Table] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Head:
    """What stands above the numbers.

    Attributes:
        title: of the page.
        facts: name -> text, such as the date and the command.
        legend: name of a method or metric in the tables -> what it is.
    """

    title: str
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    legend: Mapping[str, str] = dataclasses.field(default_factory=dict)


def page(
    head: Head,
    sections: Mapping[str, Section],
    findings: Sequence[Finding],
    about: Mapping[str, Any],
    samples: Samples | None = None,
) -> str:
    """The whole report; what it shows of records lies beside it.

    Args:
        head: what a reader should know first.
        sections: by heading.
        findings: shown before the numbers.
        about: environment, settings and command, shown last as JSON.
        samples: what can be looked through; None leaves that part out.
    """
    others = {name: value for name, value in about.items() if name != "settings"}
    settings = {name: _text(value) for name, value in about.get("settings", {}).items()}
    return _template().render(
        head=head,
        sections=sections,
        findings=findings,
        about=_text(others),
        settings=settings,
        samples=None if samples is None or not samples.rows else _data(samples, list(settings)),
    )


def _text(value: Any) -> str:
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)


def _data(samples: Samples, methods: Sequence[str]) -> str:
    """The records as JSON within a script element, which no text of theirs can end."""
    known = {**dataclasses.asdict(samples), "settings": methods}
    text = json.dumps(known, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["file"] = lambda name: (FOLDER / name).read_text(encoding="utf-8")
    environment.tests["nan"] = math.isnan
    return environment.get_template("page.html.jinja")
