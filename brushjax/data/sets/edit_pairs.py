"""Published sets of edits: pictures before and after, and the instruction between them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brushjax.data.boxes import mirrored
from brushjax.data.faults import Fault, as_fault
from brushjax.data.schema import EditPair
from brushjax.data.sets.shuffled import Pictured, PicturedData, member, stretched, words
from brushjax.data.sources.pictures import Picture, decode
from brushjax.data.sources.tables import GroupOrder, Table

FORMS = {
    "instruct-pix2pix": ("original_image", "edit_prompt", "edited_image"),
    "magicbrush": ("source_img", "instruction", "target_img"),
    "ultraedit": ("source_image", "edit_prompt", "edited_image"),
}
"""Columns of picture, instruction and result in the tables on the hub."""
SIDED = re.compile(
    r"\b(left|right|clockwise|anticlockwise|counter-?clockwise|mirror|flip"
    r"|text|word|letter|writ|wrote|spell|read)|[\"“”]",
    re.IGNORECASE,
)
"""Instructions that would be wrong, or whose letters would be, in a mirror."""


@dataclasses.dataclass(frozen=True)
class EditPairs(PicturedData):
    """One published set of edits.

    Attributes:
      path: pattern of the Parquet files (`timbrooks/instructpix2pix-clip-filtered`,
        `osunlp/MagicBrush`, `BleachNick/UltraEdit_500k`), or of ReasonEdit the JSON file, beside
        which its pictures are.
      form: whose layout it is.
      size: side in pixels; pictures are stretched to it, as SmartEdit does.
      mirrored: share of the samples that are mirrored, but never one whose instruction names a side
        or letters.
    """

    path: str = ""
    form: Literal["instruct-pix2pix", "magicbrush", "ultraedit", "reasonedit"] = "instruct-pix2pix"
    size: int = 256
    mirrored: float | int = 0.5

    def stored(self) -> Pictured:
        return Listed(self) if self.form == "reasonedit" else Tabled(self)

    def shapes(self) -> dict[str, Any]:
        """Returns a record of zeros, for programs that are compiled where the data is not."""
        image = np.zeros((self.size, self.size, 3), np.uint8)
        return {"image": image, "target": image, "id": np.int64(0)}


class Tabled(Pictured):
    """The edits of Parquet files."""

    def __init__(self, config: EditPairs):
        self._config, self._columns = config, FORMS[config.form]
        self._table = Table(config.path, self._columns)
        self.order = GroupOrder(self._table.sizes, config.seed)
        self.found = config.found(len(self))

    def __len__(self) -> int:
        return len(self._table)

    def name(self, number: int) -> str:
        return self._table.name(number)

    def picture(self, number: int) -> Picture:
        return decode(self._table[number][self._columns[0]])

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> EditPair:
        row = self._table[number]
        image, instruction, target = (row[name] for name in self._columns)
        edit = pair(self._config, number, (image, target), words(instruction, "an edit"), met)
        return drawn(self._config, edit, self.regions(number), rng)


class Listed(Pictured):
    """ReasonEdit's edits: a JSON object of paths, with several wordings of each instruction.

    Raises: ValueError if the file is no JSON object.
    """

    def __init__(self, config: EditPairs):
        self._config, file = config, Path(config.path).expanduser()
        rows = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(rows, dict):
            raise ValueError(f"{file}: expected a JSON object, got {type(rows).__name__}")
        self._folder, self._rows = file.parent, list(rows.items())
        self.found = config.found(len(self))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        return self._rows[number][0]

    def picture(self, number: int) -> Picture:
        return decode(self._file(number, "origin_img_path"))

    def _file(self, number: int, name: str) -> bytes:
        return picture_file(self._folder, member(self._rows[number][1], name))

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> EditPair:
        row = self._rows[number][1]
        said = member(row, "instruction")
        said = said if isinstance(said, list) else [said]
        text = words(said[rng.integers(len(said))] if said else "", "an edit")
        before, after = (
            self._file(number, name) for name in ("origin_img_path", "target_img_path")
        )
        edit = pair(self._config, number, (before, after), text, met)
        return drawn(self._config, edit, self.regions(number), rng)


def picture_file(folder: Path, name: Any) -> bytes:
    """Returns the content of a file below a folder.

    Raises: Fault if it is not there, or leads out of the folder.
    """
    place = (folder / str(name)).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise Fault("missing member", f"{name} leads out of {folder}")
    if not place.is_file():
        raise Fault("missing member", f"no file {name}")
    with as_fault("unreadable member"):
        return place.read_bytes()


def pair(
    config: EditPairs, number: int, files: tuple[bytes, bytes], instruction: str, met: list[str]
) -> EditPair:
    """Decodes an edit."""
    decoded = [decode(data) for data in files]
    met.extend(note for one in decoded for note in one.notes)
    image, target = (stretched(one.pixels, config.size) for one in decoded)
    return EditPair(number, image, target, instruction)


def drawn(
    config: EditPairs, edit: EditPair, boxes: np.ndarray | None, rng: np.random.Generator
) -> EditPair:
    """Gives an edit its boxes, and mirrors it now and then where that does no harm."""
    image, target = edit.image, edit.target
    if rng.random() < config.mirrored and not SIDED.search(edit.instruction):
        image, target, boxes = image[:, ::-1], target[:, ::-1], mirrored(boxes)
    image, target = (np.ascontiguousarray(one) for one in (image, target))
    return dataclasses.replace(edit, image=image, target=target, boxes=boxes)
