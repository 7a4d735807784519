"""What the command `python -m brushjax app` takes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal


@dataclasses.dataclass(frozen=True)
class AppArguments:
    """Opens the web editor: a picture, what to change, a plan to correct, and results to choose.

    Without flags it edits with the small model in the package. It is reached from this machine
    alone, unless --host says otherwise; docs/app.md tells how to serve others. The password is
    read from BRUSHJAX_PASSWORD.

    Attributes:
        base: base models to choose from, as `python -m brushjax inpaint` takes them.
        brushnet: branches to choose from; without one the folder brushnet of each base.
        dtype: what the networks compute in.
        region: folder that a run of configs/region exports: finds what an instruction is about;
            else the small predictor in the package.
        fireedit: FireEdit folder: edits without a mask.
        instructor: patterns (no model), endpoint (OpenAI's protocol) or local (transformers).
        model: of the instructor.
        url: of the endpoint; its key is read from OPENAI_API_KEY.
        cache: folder of the endpoint's replies.
        segmenter: none, grounded-sam or click (SAM alone): finds what a plan names.
        safety: module:function, called with a list of pictures; true for each that is withheld.
        steps: number of steps that a page begins with.
        guidance: how strongly the caption acts, at first.
        host: address to listen at.
        port: to listen at; 0 takes a free one.
        domain: names under which others reach it, where they differ from the host.
        open: serve others without a password.
        browser: open a browser.
        folder: where the server makes its folder of pictures; it is removed at the end.
        rooms: pages that are served at once.
        room_mb: megabytes of disk for each.
        side: pixels that the longer side of larger pictures is scaled to.
    """

    base: tuple[str, ...] = ()
    brushnet: tuple[str, ...] = ()
    dtype: Literal["float32", "bfloat16"] = "float32"
    region: Path | None = None
    fireedit: Path | None = None
    instructor: Literal["patterns", "endpoint", "local"] = "patterns"
    model: str = ""
    url: str = ""
    cache: Path | None = None
    segmenter: Literal["none", "grounded-sam", "click"] = "none"
    safety: str | None = None
    steps: int = 20
    guidance: float | int | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    domain: tuple[str, ...] = ()
    open: bool = False
    browser: bool = False
    folder: Path | None = None
    rooms: int = 32
    room_mb: int = 256
    side: int = 1024
