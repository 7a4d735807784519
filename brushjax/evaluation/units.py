"""What there is to evaluate: samples, units (one picture each), and the ledger of what is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclasses.dataclass(frozen=True, eq=False)
class Sample:
    """One thing to inpaint.

    Attributes:
        id: number; together with the seed it determines the noise.
        image: the true picture.
        mask: 1 = hole.
        prompt: what the hole shall show.
        label: class of the true picture.
    """

    id: int
    image: UInt8[np.ndarray, "H W 3"]
    mask: UInt8[np.ndarray, "H W"]
    prompt: str
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Unit:
    """One picture to generate: a sample under a method, for one part of the evaluation."""

    part: str
    method: str
    sample: Sample

    def key(self, settings: Mapping[str, Any]) -> str:
        """A digest of everything the picture depends on.

        Whatever changes - a pixel, a prompt, a setting, a weight - gives another key, so a restart
        never takes up rows of something else.

        Args:
            settings: JSON-able sampling settings and digests of the weights of this unit's method.
        """
        sample = self.sample
        content = hashlib.sha256(np.ascontiguousarray(sample.image).tobytes())
        content.update(np.ascontiguousarray(sample.mask).tobytes())
        described = {
            "part": self.part,
            "method": self.method,
            "sample": sample.id,
            "shape": sample.image.shape,
            "pixels": content.hexdigest(),
            "prompt": sample.prompt,
            "settings": dict(settings),
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:20]


class Ledger:
    """The pictures of a folder and `rows.jsonl`, which lists them: one JSON object a line, appended
    as they are made.

    A unit is done when its row stands there and its picture exists. A line cut short by a kill is
    dropped.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        (self.folder / "pictures").mkdir(parents=True, exist_ok=True)
        self._rows: dict[str, dict[str, Any]] = {}
        self._repair()

    @property
    def path(self) -> Path:
        """The file with the rows."""
        return self.folder / "rows.jsonl"

    def __contains__(self, key: str) -> bool:
        return key in self._rows and (self.folder / self._rows[key]["picture"]).is_file()

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._rows[key]

    def picture(self, key: str) -> UInt8[np.ndarray, "H W 3"]:
        """The picture of a unit that is done."""
        with Image.open(self.folder / self._rows[key]["picture"]) as picture:
            return np.asarray(picture.convert("RGB"))

    def add(
        self,
        units: Iterable[tuple[str, Unit]],
        pictures: UInt8[np.ndarray, "B H W 3"],
        seconds: float,
    ) -> None:
        """Write the pictures of (key, unit) pairs, then their rows.

        Args:
            units: as many as pictures, in their order.
            seconds: time per picture.
        """
        lines = []
        for (key, unit), pixels in zip(units, pictures, strict=True):
            name = f"pictures/{unit.part}-{unit.method}-{unit.sample.id:05d}-{key}.png"
            part = self.folder / f"{name}.part"
            Image.fromarray(pixels).save(part, format="PNG")
            os.replace(part, self.folder / name)
            row = {
                "key": key,
                "part": unit.part,
                "method": unit.method,
                "sample": unit.sample.id,
                "label": unit.sample.label,
                "prompt": unit.sample.prompt,
                "seconds": round(seconds, 4),
                "picture": name,
            }
            self._rows[key] = row
            lines.append(json.dumps(row) + "\n")
        # Rows go in after all their pictures: a row without its picture can't come out of a kill.
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())

    def _repair(self) -> None:
        """Read the rows; cut off a last line that has no end."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                self._rows[row["key"]] = row
            except (json.JSONDecodeError, KeyError) as error:
                raise ValueError(
                    f"{self.path}, line {number}: expected a row of an evaluation, got"
                    f" {line[:80]!r}; delete that line to have it done again"
                ) from error
