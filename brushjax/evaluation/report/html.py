"""The report as one static HTML file: tables that sort at a click, pictures that enlarge at one."""

from __future__ import annotations

import base64
import dataclasses
import functools
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from brushjax.evaluation.report.grids import Panel
from brushjax.evaluation.report.lint import Finding
from brushjax.evaluation.report.tables import Table

SIDE = 768  # pixels of an enlarged picture's longer side; the page shows it smaller
QUALITY = 88


@dataclasses.dataclass(frozen=True, eq=False)
class Section:
    """What is said of a benchmark; tables of its groups are folded away."""

    tables: Sequence[Table]
    grids: Sequence[Panel] = ()
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
) -> str:
    """The whole report.

    Args:
        head: what a reader should know first.
        sections: by heading.
        findings: shown before the numbers.
        about: environment, settings and command, shown last as JSON.
    """
    described = json.dumps(about, indent=2, default=str, ensure_ascii=False)
    return _template().render(head=head, sections=sections, findings=findings, about=described)


@functools.lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["embedded"] = embedded
    environment.tests["nan"] = math.isnan
    return environment.get_template("page.html.jinja")


def embedded(picture: np.ndarray) -> str:
    """A picture as a data address."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
