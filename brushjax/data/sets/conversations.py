"""Questions about pictures and their answers: LLaVA's instructions."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from brushjax.data.faults import Fault
from brushjax.data.schema import Conversation
from brushjax.data.sets.edit_pairs import picture_file
from brushjax.data.sets.shuffled import Pictured, PicturedData, member, stretched, words
from brushjax.data.sources.pictures import Picture, decode

PLACEHOLDER = "<image>"  # where LLaVA puts the picture; here it has a place of its own


@dataclasses.dataclass(frozen=True)
class Conversations(PicturedData):
    """LLaVA-Instruct-150k: of each conversation one question with its answer is drawn.

    Attributes:
      path: the JSON file, a list of {"image", "conversations": [{"from", "value"}, ...]}.
      images: folder of COCO's train2017.
      size: side in pixels.
    """

    path: str = ""
    images: str = ""
    size: int = 256

    def stored(self) -> Pictured:
        return Talks(self)

    def shapes(self) -> dict[str, Any]:
        """Returns a record of zeros, for programs that are compiled where the data is not."""
        return {"image": np.zeros((self.size, self.size, 3), np.uint8), "id": np.int64(0)}


class Talks(Pictured):
    """The conversations of a file.

    Raises: ValueError if it is no JSON list.
    """

    def __init__(self, config: Conversations):
        file = Path(config.path).expanduser()
        rows = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise ValueError(f"{file}: expected a JSON list, got {type(rows).__name__}")
        self._rows, self._size = rows, config.size
        self._folder = Path(config.images).expanduser()
        self.found = config.found(len(self))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        row = self._rows[number]
        return str(row.get("id", number)) if isinstance(row, dict) else str(number)

    def picture(self, number: int) -> Picture:
        return decode(picture_file(self._folder, member(self._rows[number], "image")))

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> Conversation:
        row = self._rows[number]
        turns = member(row, "conversations")
        asked = [
            (one, other)
            for one, other in itertools.pairwise(turns)
            if one.get("from") == "human" and other.get("from") == "gpt"
        ]
        if not asked:
            raise Fault("bad caption", "expected a turn of human and then one of gpt")
        question, answer = (turn.get("value") for turn in asked[rng.integers(len(asked))])
        question = words(question, "a question").replace(PLACEHOLDER, " ")
        picture = self.picture(number)
        met.extend(picture.notes)
        pixels = stretched(picture.pixels, self._size)
        texts = words(question, "a question"), words(answer, "an answer")
        return Conversation(number, pixels, *texts, self.regions(number))
