"""What pages send: read by its size and its types before anything is done with it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8

from brushjax.agents.plan import CATEGORIES, EditPlan
from brushjax.data.faults import Fault
from brushjax.data.sources import mask_files
from brushjax.diffusion.guidance import BLENDS
from brushjax.diffusion.samplers import SAMPLERS

JSON_BYTES = 8 << 20  # a mask comes in it
WORDS = 1000  # characters of a text
Kind = TypeVar("Kind")


def text(most: int = WORDS, choices: Sequence[str] = ()) -> Any:
    """A field of characters: at most so many, or one of some words."""
    default = choices[0] if choices else ""
    return dataclasses.field(
        default=default, metadata={"kind": str, "most": most, "in": tuple(choices)}
    )


def number(low: float | int, high: float | int, default: float | int) -> Any:
    """A field of a number within bounds; whole where the default is."""
    meta = {"kind": type(default), "low": low, "high": high}
    return dataclasses.field(default=default, metadata=meta)


@dataclasses.dataclass(frozen=True)
class Words:
    """A plan's words, as they stand on the page."""

    instruction: str = text()
    category: str = text(choices=CATEGORIES)
    object: str = text()
    source_caption: str = text()
    target_caption: str = text()


@dataclasses.dataclass(frozen=True)
class Ask:
    """Asks for a plan of an instruction."""

    turn: int = number(0, 1 << 20, 0)
    instruction: str = text()
    source_caption: str = text()


@dataclasses.dataclass(frozen=True)
class Find(Words):
    """Asks where something is: what a phrase names, what is at a point, an instruction's region."""

    turn: int = number(0, 1 << 20, 0)
    by: str = text(choices=("phrase", "click", "region"))
    x: float = number(0, 1 << 15, 0.0)
    y: float = number(0, 1 << 15, 0.0)


@dataclasses.dataclass(frozen=True)
class Paint(Words):
    """Asks for pictures: the plan, how to paint it, and how often."""

    turn: int = number(0, 1 << 20, 0)
    mask: str = text(JSON_BYTES)  # PNG in base64
    base: str = text()
    branch: str = text()
    method: str = text(choices=("agent", "region", "fireedit"))
    negative_prompt: str = text()
    seed: int = number(0, 2**31 - 1, 0)
    count: int = number(1, 4, 1)
    steps: int = number(1, 150, 20)
    guidance: float = number(1, 30, 7.5)
    scale: float = number(0, 2, 1.0)
    scheduler: str = text(choices=("unipc", *sorted(SAMPLERS)))
    blend: str = text(choices=("paste", *BLENDS))

    @property
    def seeds(self) -> list[int]:
        """The seed of each picture."""
        return [(self.seed + i) % 2**31 for i in range(self.count)]

    def plan(self, picture: UInt8[np.ndarray, "H W 3"]) -> EditPlan:
        """The plan, with the page's mask.

        Raises:
            ValueError: no mask, or one of another size than the picture's.
        """
        words = {field.name: getattr(self, field.name) for field in dataclasses.fields(Words)}
        mask = read_mask(self.mask, *picture.shape[:2])
        if not mask.any():
            if self.method != "fireedit":
                raise ValueError("the mask is empty: paint over what is to change")
            mask = None  # all of the picture may change
        return EditPlan(picture, **words, mask=mask)


@dataclasses.dataclass(frozen=True)
class Turn:
    """Names a turn."""

    turn: int = number(0, 1 << 20, 0)


def read(kind: type[Kind], body: bytes) -> Kind:
    """Reads JSON as a dataclass of the fields above.

    Raises:
        ValueError: no JSON, unknown fields, or values of other types and beyond their bounds.
    """
    try:
        row = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("expected JSON") from error
    fields: dict[str, Any] = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    if not isinstance(row, dict) or row.keys() - fields.keys():
        raise ValueError(f"expected an object with {', '.join(fields)}")
    return kind(
        **{name: _checked(name, value, fields[name].metadata) for name, value in row.items()}
    )


def _checked(name: str, value: Any, meta: Any) -> Any:
    kind = meta["kind"]
    if kind is float and type(value) is int and abs(value) < 1 << 31:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {name} as {kind.__name__}, got {type(value).__name__}")
    if isinstance(value, str):
        _check_text(name, value, meta)
    elif not meta["low"] <= value <= meta["high"]:
        raise ValueError(f"expected {name} between {meta['low']} and {meta['high']}")
    return value


def _check_text(name: str, value: str, meta: Any) -> None:
    if len(value) > meta["most"]:
        raise ValueError(f"expected {name} of at most {meta['most']} characters")
    if meta["in"] and value not in meta["in"]:
        raise ValueError(f"expected {name} of {', '.join(meta['in'])}")
    if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError(f"expected {name} in characters of Unicode")


def read_mask(given: str, height: int, width: int) -> UInt8[np.ndarray, "H W"]:
    """Decodes a mask out of base64: black or white.

    Raises:
        ValueError: no picture, or one of another size.
    """
    try:
        data = base64.b64decode(given, validate=True)
        mask = mask_files.decode(data, most=height * width)
    except (binascii.Error, Fault) as error:
        raise ValueError(f"expected a mask of {width}x{height} pixels as PNG: {error}") from error
    if mask.white.shape != (height, width):
        high, wide = mask.white.shape
        raise ValueError(
            f"expected a mask of {width}x{height} pixels, got {wide}x{high} (width x height)"
        )
    return mask.marked * np.uint8(255)
