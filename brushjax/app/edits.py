"""What jobs do: plan, find, paint. It is all `brushjax.agents`; here it meets rooms and limits."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax.agents.masks import MaskRules, NothingFound
from brushjax.agents.plan import EditPlan
from brushjax.agents.protocols import Segments
from brushjax.agents.segmenters import nothing, of_masks
from brushjax.app.jobs import Cancelled, Job
from brushjax.app.models import Models
from brushjax.app.requests import Ask, Find, Paint
from brushjax.app.rooms import Limits, Room
from brushjax.data.faults import Fault
from brushjax.data.sources import pictures

WITHOUT_SEGMENTER = ("global", "addition")  # categories whose masks need no model
THUMB = 160  # pixels, longer side


def decoded(data: bytes, limits: Limits) -> UInt8[np.ndarray, "H W 3"]:
    """Decodes an upload, and scales it down to the size that is worked with.

    Raises:
        ValueError: no picture, or too many pixels.
    """
    try:
        picture = pictures.decode(data, limits.upload_pixels).pixels
    except Fault as fault:
        raise ValueError(f"expected a picture ({', '.join(pictures.FORMATS)}): {fault}") from fault
    height, width = picture.shape[:2]
    if min(height, width) < 16 or max(height, width) > 16 * min(height, width):
        raise ValueError(
            f"expected sides of 16 pixels or more and of like length, got {width}x{height}"
        )
    return fitted(picture, limits.side)


def fitted(picture: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "H2 W2 3"]:
    """Scales a picture down so that no side is longer than so many pixels."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image)


def png(picture: UInt8[np.ndarray, "H W *C"]) -> str:
    """A picture as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def thumbnail(picture: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A small JPEG of a picture."""
    buffer = io.BytesIO()
    Image.fromarray(fitted(picture, THUMB)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def planned(room: Room, models: Models, asked: Ask, job: Job) -> dict[str, Any]:
    """Makes a plan, with its mask where there is a model for it or no need of one.

    Raises:
        NotUnderstood: as the instructor.
    """
    picture = room.opened().picture(asked.turn)
    plan = models.instructor(asked.instruction, picture, asked.source_caption)
    job.check()
    note = ""
    if plan.mask is None:
        try:
            plan = _masked(plan, models)
        except NothingFound as error:
            note = str(error)
    row = {name: getattr(plan, name) for name in ("category", "object", "target_caption")}
    mask = None if plan.mask is None else png(plan.mask)
    return row | {"mask": mask, "boxes": plan.boxes, "note": note}


def _masked(plan: EditPlan, models: Models) -> EditPlan:
    if models.segmenter is not None:
        return MaskRules()(plan, models.segmenter)
    if plan.category in WITHOUT_SEGMENTER:
        return MaskRules()(plan, lambda image, phrase: nothing(*image.shape[:2]))
    return plan


def found(room: Room, models: Models, asked: Find, job: Job) -> dict[str, Any]:
    """Finds a mask; an instruction's region as the probability of every pixel.

    Raises:
        ValueError: a way that there is no model for; NothingFound.
    """
    if asked.by not in models.finds:
        raise ValueError(f"there is no model that finds by {asked.by}: see docs/app.md")
    picture = room.opened().picture(asked.turn)
    if asked.by == "region":
        return {"probability": png(probability(models.finder, picture, asked.instruction))}
    plan = EditPlan(picture, asked.instruction, asked.category, asked.object, asked.source_caption)

    def segmenter(image: Any, phrase: str) -> Segments:
        if asked.by == "phrase":
            assert models.segmenter is not None  # `finds` said so
            return models.segmenter(image, phrase)
        return of_masks(models.sam(image, points=[(asked.x, asked.y)], labels=[1]), [1.0])

    category = plan.category if plan.category in ("removal", "background") else "local"
    if asked.by == "phrase" and category != "background" and not plan.object:
        raise ValueError("expected an object to look for: name it in step 2")
    plan = MaskRules()(dataclasses.replace(plan, category=category), segmenter)
    return {"mask": png(plan.mask), "boxes": plan.boxes}


def probability(
    finder: Any, picture: UInt8[np.ndarray, "H W 3"], instruction: str
) -> UInt8[np.ndarray, "H W"]:
    """How likely an instruction is about a pixel, 255 = surely."""
    import jax.numpy as jnp

    patches = jnp.asarray(finder(picture, instruction), jnp.float32)[None]
    pixels = np.asarray(finder.encoders.placement.pixels(patches, *picture.shape[:2]))[0]
    return np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def paint(room: Room, models: Models, asked: Paint, job: Job) -> None:
    """Paints each seed's picture and keeps it as a turn of one parent; one stands at the first.

    Raises:
        ValueError: a plan that can't be painted; Withheld.
    """
    session = room.opened()
    plan = asked.plan(session.picture(asked.turn))
    job.begin(0, "loading")
    editor = models.editor(asked, job.tell)
    names = {name: getattr(asked, name) for name in ("method", "base", "branch")}
    first = None
    for part, seed in enumerate(asked.seeds):
        job.begin(part, "preparing")
        picture = editor(plan, seed)
        models.check([picture])
        job.check()
        with room.lock:
            if room.closed or room.session is not session:
                raise Cancelled
            turn = session.keep(asked.turn, plan, picture, editor.settings | names, seed)
            first = turn.number if first is None else first
            if turn.number != first:
                session.go(first)
        room.changed()


def warm_up(models: Models, job: Job) -> None:
    """Loads the first base and compiles what edits with it run, so that the first edit is quick."""
    asked = models.first()
    side = models.side(asked.base)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    plan = EditPlan(np.full((side, side, 3), 128, np.uint8), "warm up", "local", mask=mask)
    models.editor(asked, job.tell)(plan, 0)
