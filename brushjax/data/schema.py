"""Records: samples of training sets as typed values, before an objective turns them into arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Tokenize = Callable[[Sequence[str]], np.ndarray]
"""Captions -> ids int32 [n, L]."""


@dataclasses.dataclass(frozen=True)
class Record:
    """What every record has.

    Attributes:
      id: names the sample within its training set; noise is drawn by it.
    """

    id: Any

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the pictures and numbers of the record by name, without words or what is absent;
        the id as int64."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        found = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        return {**found, "id": np.asarray(self.id, np.int64)}


@dataclasses.dataclass(frozen=True)
class Inpainting(Record):
    """A picture, the hole in it, and what the hole shows.

    Attributes:
      image: uint8 [H, W, 3].
      mask: [H, W, 1], 1 = edit; uint8, or float32 from the reference's preparation.
      caption: says what the picture, or the hole, shows.
      time_ids: float32 [6], SDXL's original height, width, crop top, left, height and width.
      masked_image: float32 [H, W, 3], 0..255, where the hole was made before the picture was
        resized.
      class_id: int32 [], of what the hole shows, where the set has classes.
    """

    image: np.ndarray
    mask: np.ndarray
    caption: str = ""
    time_ids: np.ndarray | None = None
    masked_image: np.ndarray | None = None
    class_id: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class RegionEdit(Record):
    """A picture and an instruction, before and after in words, and an edit of the whole picture.

    Attributes:
      image: uint8 [H, W, 3].
      donor: uint8 [H, W, 3], the edit, made everywhere: a region takes a part of it.
      source_caption, instruction, target_caption: t_o, t_ins and t_e.
      region: uint8 [H, W, 1], 1 where the instruction is about; for measuring, where it is known.
    """

    image: np.ndarray
    donor: np.ndarray
    source_caption: str
    instruction: str
    target_caption: str
    region: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class TextChoice(Record):
    """A picture and texts, of which the first describes it.

    Attributes:
      image: uint8 [H, W, 3].
      texts: captions, the true one first.
      things: uint8 [texts, classes], 1 where the text names a thing of the class: texts that name
        the same things are no counterexamples of each other.
    """

    image: np.ndarray
    texts: tuple[str, ...]
    things: np.ndarray


@dataclasses.dataclass(frozen=True)
class Caption(Record):
    """A text alone."""

    caption: str


@dataclasses.dataclass(frozen=True)
class EditPair(Record):
    """A picture, what an instruction asks of it, and the picture that should come out.

    Attributes:
      image, target: uint8 [H, W, 3], of one size.
      instruction: the request.
      boxes: float32 [n, 4], regions of the picture found beforehand, best first: centre x, centre
        y, width and height as shares of the picture.
      region: uint8 [H, W, 1], 1 where the instruction is about; for measuring, where it is known.
    """

    image: np.ndarray
    target: np.ndarray
    instruction: str
    boxes: np.ndarray | None = None
    region: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Conversation(Record):
    """A picture, a question about it, and the answer.

    Attributes:
      image: uint8 [H, W, 3].
      boxes: as an EditPair's.
    """

    image: np.ndarray
    question: str
    answer: str
    boxes: np.ndarray | None = None


Encode = Callable[[Any], Mapping[str, np.ndarray]]
"""A record -> the arrays of one sample, without a batch axis: `Objective.encode`."""


@dataclasses.dataclass(frozen=True)
class Captioned:
    """Encodes a record's pictures, and its caption as token ids."""

    tokenize: Tokenize

    def __call__(self, record: Any) -> Mapping[str, np.ndarray]:
        ids = np.asarray(self.tokenize([record.caption])[0], np.int32)
        return {**record.arrays(), "token_ids": ids}
