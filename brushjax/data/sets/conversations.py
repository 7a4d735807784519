"""Questions about pictures and their answers: LLaVA's instructions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from brushjax.data.faults import Fault
from brushjax.data.feed import Feed
from brushjax.data.schema import Conversation, Encode
from brushjax.data.sets.edit_pairs import picture_file
from brushjax.data.sets.shuffled import Shuffled, member, stretched, words
from brushjax.data.sources.pictures import decode

PLACEHOLDER = "<image>"  # where LLaVA puts the picture; here it has a place of its own


@dataclasses.dataclass(frozen=True)
class Conversations:
    """LLaVA-Instruct-150k: of each conversation one question with its answer is drawn.

    Attributes:
      path: the JSON file, a list of {"image", "conversations": [{"from", "value"}, ...]}.
      images: folder of COCO's train2017.
      size, seed, faulty_share, workers, threads, ahead: as `EditPairs`'.
    """

    FREE: ClassVar = ("faulty_share", "workers", "threads", "ahead")
    pool: ClassVar[int] = 0

    path: str = ""
    images: str = ""
    size: int = 256
    seed: int = 0
    faulty_share: float | int = 0.05
    workers: int = 0
    threads: int = 2
    ahead: int = 4

    def source(self, encode: Encode) -> Shuffled:
        """Returns the samples by position; the same object for the same config.

        Raises: FileNotFoundError if there is no file; ValueError if it has another layout.
        """
        return _opened(self, encode)

    def batches(self, batch_size: int, encode: Encode, *, shard: tuple[int, int]) -> Feed:
        """Returns an endless series of this host's parts of the batches."""
        samples = self.source(encode)
        return Feed(samples, batch_size, shard, self.workers, self.threads, self.ahead)

    def shapes(self) -> dict[str, Any]:
        """Returns a record of zeros, for programs that are compiled where the data is not."""
        return {"image": np.zeros((self.size, self.size, 3), np.uint8), "id": np.int64(0)}


@functools.lru_cache(maxsize=4)
def _opened(config: Conversations, encode: Encode) -> Shuffled:
    return Shuffled(Talks(config), encode, config.seed, config.faulty_share)


class Talks:
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

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, number: int) -> str:
        row = self._rows[number]
        return str(row.get("id", number)) if isinstance(row, dict) else str(number)

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
        picture = decode(picture_file(self._folder, member(row, "image")))
        met.extend(picture.notes)
        pixels = stretched(picture.pixels, self._size)
        return Conversation(
            number, pixels, words(question, "a question"), words(answer, "an answer")
        )
