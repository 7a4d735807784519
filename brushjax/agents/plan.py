"""An edit that an instruction asks for, as one value that can be shown, corrected, kept and carried
out."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from brushjax import files
from brushjax.identity import digest
from brushjax.inference.images import read_image, read_mask

Category = Literal["addition", "removal", "local", "global", "background"]
CATEGORIES: tuple[str, ...] = get_args(Category)
WITHOUT_OBJECT = ("global", "background")
VERSION = 1  # of the JSON


class NotUnderstood(ValueError):
    """An instruction that an instructor can make no plan of; the message says why."""


@dataclasses.dataclass(frozen=True, eq=False)
class EditPlan:
    """The four steps of an instructed edit; `dataclasses.replace` corrects any of them.

    Attributes:
        image: uint8 RGB [H, W, 3], made of what `brushjax.inference.images.read_image` reads; None
            where only the words are known.
        instruction: what was asked for.
        category: step 1; one of CATEGORIES.
        object: step 2; the noun phrase that is edited, without article: for an addition the thing
            added, for global and background edits "".
        source_caption: what the picture shows; "" where unknown.
        target_caption: step 4; what it shows after the edit.
        mask: step 3; uint8 [H, W], white (128..255) = edit; None where not yet known.
        boxes: left, top, right, bottom in pixels, of each instance that the mask covers.

    Raises:
        ValueError: another category; a mask of another size than the picture; a box that is none.

    Source: BrushEdit, section IV-A.
    """

    image: Any
    instruction: str
    category: Category | str
    object: str = ""
    source_caption: str = ""
    target_caption: str = ""
    mask: Any = None
    boxes: Sequence[Sequence[float | int]] | Any = ()

    def __post_init__(self) -> None:
        if self.category not in CATEGORIES:
            raise ValueError(f"expected a category of {CATEGORIES}, got {self.category!r}")
        if self.image is not None:
            self._set("image", read_image(self.image))
        if self.mask is not None:
            self._set("mask", read_mask(self.mask).white)
        if self.image is not None and self.mask is not None:
            (height, width), (high, wide) = self.image.shape[:2], self.mask.shape
            if (height, width) != (high, wide):
                raise ValueError(
                    f"expected image and mask of one size, got {height}x{width} and {high}x{wide} "
                    "(height x width)"
                )
        self._set("boxes", tuple(_box(box) for box in self.boxes))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the plan is frozen for everybody else

    def save(self, path: str | Path) -> Path:
        """Writes the plan as JSON, with its mask as a PNG beside it; returns the JSON's path.

        The picture itself stays where it is: the JSON knows its digest. The mask's name holds its
        own digest, so that a stop between the two files leaves the older plan whole.

        Raises:
            ValueError: a name that does not end in .json. WriteError: see `brushjax.files`.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            raise ValueError(
                f"expected a plan's name such as {path.stem or 'plan'}.json, got {path}"
            )
        row = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("image", "mask")
        }
        row |= {"version": VERSION, "image": None, "mask": None}
        if self.image is not None:
            row["image"] = {"digest": _digest(self.image), "size": self.image.shape[1::-1]}
        if self.mask is not None:
            made = _digest(self.mask)
            name = f"{path.stem}.mask-{made[:8]}.png"
            files.write_bytes(path.with_name(name), _png(self.mask))
            row["mask"] = {"file": name, "digest": made}
        files.write_json(path, row)
        kept = (row["mask"] or {}).get("file")
        for old in path.parent.glob(f"{_escaped(path.stem)}.mask-????????.png"):
            if old.name != kept:
                old.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path, image: Any = None) -> EditPlan:
        """Reads what `save` wrote.

        Args:
            image: the picture the plan is for; None leaves it out.

        Raises:
            ValueError: no plan; a mask that is missing or another; another picture than the plan's.
        """
        path = Path(path)
        row = _read(path)
        try:
            mask, known = row.pop("mask"), row.pop("image")
            plan = cls(
                image=image,
                mask=_stored_mask(path, mask),
                **{key: row[key] for key in row if key != "version"},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no plan of an edit: {error}") from error
        if plan.image is not None and known and _digest(plan.image) != known["digest"]:
            raise ValueError(
                f"{path} was made for another picture, of {known['size'][0]}x{known['size'][1]} "
                "pixels (width x height): give that one, or make a new plan"
            )
        return plan


def read_reply(text: str, path: str | Path) -> Any:
    """Parses JSON that came from elsewhere; raises ValueError in one line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    row = read_reply(path.read_text(encoding="utf-8"), path)
    if not isinstance(row, dict) or row.get("version") != VERSION:
        raise ValueError(f"expected a plan of version {VERSION} in {path}, got {str(row)[:60]!r}")
    return row


def _stored_mask(path: Path, known: dict[str, Any] | None) -> UInt8[np.ndarray, "H W"] | None:
    if known is None:
        return None
    place = files.inside(path.parent, known["file"])
    if not place.is_file():
        raise ValueError(f"{path} needs its mask {place.name} beside it; there is no such file")
    mask = read_mask(place).white
    if _digest(mask) != known["digest"]:
        raise ValueError(f"{place} is not the mask that {path} was written with; plan anew")
    return mask


def _box(box: Sequence[float | int]) -> tuple[float, ...]:
    left, top, right, bottom = (float(side) for side in box)
    if not (left < right and top < bottom):
        raise ValueError(f"expected boxes as left < right, top < bottom; got {tuple(box)}")
    return left, top, right, bottom


def _digest(array: np.ndarray) -> str:
    return digest(str(array.shape), np.ascontiguousarray(array).tobytes())


def _png(mask: UInt8[np.ndarray, "H W"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "[]*?" else letter for letter in stem)
