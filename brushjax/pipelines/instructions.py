"""Instructions and questions to the sequence that FireEdit's language model reads."""

from __future__ import annotations

import dataclasses
import functools
import threading
from pathlib import Path
from typing import Any

from brushjax.files import write_text
from brushjax.models.fireedit.vlm import IGNORED, Sequence, VLMConfig, plan
from brushjax.weights import WeightsError, folders

FILE = "tokenizer.json"
PICTURE = "<img>"  # the new token that stands for a picture in a text
_ALONE = threading.Lock()  # the tokenizers library fails where threads use one together


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The words around an instruction; Vicuna's form, which LLaVA was trained with.

    Attributes:
      system: before the picture; `<img>` in it is the token of that name.
      request: before the picture too, the asker's turn.
      turn: behind the instruction, the answerer's turn.
      answer: how the answer to an instruction begins; the [IMG] tokens follow.

    Source: FastChat's `vicuna_v1.1`, SmartEdit's additions to its system message.
    Differs: docs/deviations.md#fireedit-prompt.
    """

    system: str = (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions, and shows an edited "
        "picture as <img>."
    )
    request: str = "USER:"
    turn: str = "ASSISTANT:"
    answer: str = "The edited picture:"


class Words:
    """Texts to ids, by a folder's tokenizer.json; adds no start or end.

    Raises:
      WeightsError: there is no such file.
    """

    def __init__(self, folder: str | Path):
        from tokenizers import Tokenizer

        places = [Path(folder) / "tokenizer" / FILE, Path(folder) / FILE]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise WeightsError(
                f"expected {FILE} in {folder}, or in its folder tokenizer/; found none. Save the "
                "language model's fast tokenizer there with transformers' save_pretrained."
            )
        self._text = file.read_text(encoding="utf-8")
        self._backend: Any = Tokenizer.from_str(self._text)
        self._backend.no_padding()  # a file may ask for rows of one length
        self._backend.no_truncation()
        self.size = self._backend.get_vocab_size()

    def __call__(self, text: str) -> list[int]:
        """Returns a text's ids."""
        with _ALONE:
            return self._backend.encode(text, add_special_tokens=False).ids if text else []

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, self._text)


def read_words(source: str) -> Words:
    """Returns the tokenizer of a folder or hub id; read once."""
    local = Path(source)
    if not local.exists():
        local = folders.from_hub(source, [FILE, f"tokenizer/{FILE}"])
    return _read(str(local))


@functools.cache
def _read(folder: str) -> Words:
    return Words(folder)


@dataclasses.dataclass(frozen=True)
class Writer:
    """Lays out sequences on the host.

    Attributes:
      config: of the sequence.
      words: the language model's tokenizer.
      prompt: the words around the instruction.
    """

    config: VLMConfig
    words: Words
    prompt: Prompt

    def __post_init__(self) -> None:
        if self.words.size > self.config.base_vocab:
            raise ValueError(
                f"expected a tokenizer of at most {self.config.base_vocab} tokens, the language "
                f"model's, got {self.words.size}"
            )

    def edit(self, instruction: str) -> Sequence:
        """Returns the sequence of an instruction; what is too long of it is left out."""
        answer = self.words(self.prompt.answer)
        request = self._request(instruction, len(answer) + self.config.img_tokens + 1)
        return plan(self.config, self._system, request, answer)

    def question(self, question: str, answer: str) -> Sequence:
        """Returns the sequence of a question and its answer.

        Of an answer that is too long the beginning is learnt, without an end.
        """
        ids, most = self.words(answer), self.config.max_answer - 1
        request = self._request(question, min(len(ids), most) + 1)
        sequence = plan(self.config, self._system, request, ids[:most], edit=False)
        if len(ids) > most:
            last = (sequence.labels != IGNORED).nonzero()[0][-1]
            sequence.labels[last] = IGNORED
        return sequence

    def _request(self, text: str, answer: int) -> list[int]:
        """The asker's words and the answerer's turn, cut to what the sequence has room for."""
        turn = self.words(self.prompt.turn)
        places = self.config.image_tokens + self.config.region_slots
        taken = 3 + len(self._system) + places + len(turn) + answer  # 3: start, and the picture's
        return [*self.words(text.strip())[: max(self.config.max_length - taken, 0)], *turn]

    @functools.cached_property
    def _system(self) -> list[int]:
        """The system message and the asker's turn."""
        ids: list[int] = []
        for number, piece in enumerate(self.prompt.system.split(PICTURE)):
            ids += [self.config.img] * (number > 0) + self.words(piece)
        return [*ids, *self.words(self.prompt.request)]


def columns(sequence: Sequence) -> dict[str, Any]:
    """Returns a sequence as named arrays of a batch."""
    return {field.name: getattr(sequence, field.name) for field in dataclasses.fields(sequence)}


def of_columns(batch: Any) -> Sequence:
    """The inverse of `columns`."""
    return Sequence(*(batch[field.name] for field in dataclasses.fields(Sequence)))


@functools.cache
def read_writer(config: VLMConfig, source: str, prompt: Prompt) -> Writer:
    """Returns a writer with the tokenizer of a folder or hub id."""
    return Writer(config, read_words(source), prompt)
