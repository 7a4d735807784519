"""Captions without pictures: a line each, as CC12M's table has them or as plain text."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from brushjax.data.schema import Caption
from brushjax.data.sets.shuffled import ShuffledData, Stored, words
from brushjax.data.sources.files import File, find, read

ADDRESS = ("http://", "https://")


@dataclasses.dataclass(frozen=True)
class Captions(ShuffledData):
    """Lines of text files.

    Attributes:
      path: pattern of the files, local or with a protocol. A line is a caption, or CC12M's address
        of a picture, a tab and its caption.
    """

    path: str = ""

    def stored(self) -> Stored:
        return Lines(self.path)

    def shapes(self) -> dict[str, Any]:
        """Returns a record of zeros, for programs that are compiled where the data is not."""
        return {"id": np.int64(0)}


class Lines:
    """The lines of files by number; only where each begins is kept in memory."""

    def __init__(self, pattern: str):
        self._files = find(pattern)
        ends = [_ends(file) for file in self._files]
        self._counts = np.array([len(one) for one in ends])
        self._last = np.cumsum(self._counts)
        self._ends = ends

    def __len__(self) -> int:
        return int(self._last[-1])

    def name(self, number: int) -> str:
        which, line = self._place(number)
        return f"{self._files[which].path}, line {line + 1}"

    def record(self, number: int, rng: np.random.Generator, met: list[str]) -> Caption:
        del rng, met
        which, line = self._place(number)
        ends = self._ends[which]
        start = int(ends[line - 1]) if line else 0
        text = read(self._files[which].path, start, int(ends[line]) - start).decode("utf-8")
        first, tab, rest = text.partition("\t")
        caption = rest if tab and first.startswith(ADDRESS) else text
        return Caption(number, words(caption, "a caption"))

    def _place(self, number: int) -> tuple[int, int]:
        which = int(np.searchsorted(self._last, number, side="right"))
        return which, int(number - (self._last[which] - self._counts[which]))


def _ends(file: File) -> np.ndarray:
    """Where the lines of a file end, newline included; a last line without one counts too."""
    content = np.frombuffer(read(file.path, 0, file.size), np.uint8)
    ends = np.flatnonzero(content == ord("\n")) + 1
    return ends if not len(content) or content[-1] == ord("\n") else np.append(ends, len(content))
